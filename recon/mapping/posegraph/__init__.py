"""The pose graph over submaps: one similarity per submap, optimised over the chain of submaps and the loops.

``graph`` holds the data, ``agreement`` first separates loops that contradict each other, and ``solver`` uses gtsam.
"""
