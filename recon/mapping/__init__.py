"""From chunks to one map: alignment, placement, doubts, loop closing, correction, and a common unit."""
