"""Gaussian splatting in plain PyTorch, on the CPU: small enough to compare the models that it is trained from.

3D Gaussians by Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", 2023, with one colour
each. ``views`` reads a COLMAP model, ``gaussians`` projects, ``raster`` draws, ``training`` fits.
"""
