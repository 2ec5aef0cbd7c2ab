"""Models of other programs as maps: COLMAP and nerfstudio."""
