"""Compares the pipeline with plain COLMAP on real sequences: same images, same machine, one after the other.

sets.py: the sequences and their requirements. programs.py: the two programs as processes. plain_colmap.py: the program
to compare with. measure.py: their results against the references. ring.py: whether a walk around an object is
reconstructed as one. tables.py: the results as JSON and as a table. clock.py: the clock of other benchmarks.
"""
