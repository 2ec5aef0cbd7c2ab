"""The pipeline beside plain COLMAP on real sequences: same images, same machine, one after the other.

sets.py: what is measured and what it must show. programs.py: the two programs as processes. plain_colmap.py: the peer.
measure.py: their results against the references. ring.py: whether a walk around an object came out as one.
tables.py: the results as JSON and as a table. clock.py: how other benchmarks take time.
"""
