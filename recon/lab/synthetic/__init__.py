"""Procedural scenes with exact depth and poses, in plain batched torch: the bundled sample, tests, training data.

World axes: z up, metres, the floor at z = 0. Cameras have OpenCV axes: x right, y down, z forward.
"""
