"""A finished map against ground truth (poses, depth, loops) and against itself (``check``)."""
