"""Inputs that break programs of this kind, made from the sample after public reports, and the expected results.

A module per theme holds functions that write an input into a new folder. Tests call them; ``python -m tests.cases``
runs the whole list as a user would and prints the table of BENCHMARKS.md.
"""
