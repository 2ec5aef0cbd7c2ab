"""Streaming 3D reconstruction: images or a video in, poses, a dense cloud and a map out."""

from recon.core.libz import keep_apart

keep_apart()
