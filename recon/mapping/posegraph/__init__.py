"""The pose graph over submaps: one similarity per submap, made to agree with the chain of submaps and with loops.

The graph is data (``graph``), loops that contradict each other are told apart before (``agreement``), and the solver
(``solver``) is gtsam.
"""
