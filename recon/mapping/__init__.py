"""From chunks to one map: alignment, placement, doubts, loop closure, correction, and a common unit."""
