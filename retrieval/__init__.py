"""Recognising places: image descriptors, the index that searches them, and loops verified by geometry.

Knows recon's types; recon knows nothing of this package and is handed a recogniser by its caller.
"""
