"""Streaming 3D reconstruction: images or a video in, poses, a dense cloud and a map out."""

from recon.core.libz import keep_apart

__version__ = "1.0.0rc1"

keep_apart()
