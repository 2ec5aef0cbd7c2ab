"""Place recognition: image descriptors, an index to search them, and loops verified by geometry.

Uses recon's types; recon does not import this package and gets a recogniser from its caller.
"""
