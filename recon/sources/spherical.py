"""What marks 360-degree pictures: Photo Sphere's XMP in images, the spherical mapping of the frames of a video."""

from __future__ import annotations

import re

from av import VideoFrame
from av.sidedata.sidedata import SideData

ASPECT_TOLERANCE = 0.005
EQUIRECTANGULAR = 0  # FFmpeg's number, the first field of a mapping
NOT_LIVE = "shows 360-degree panoramas, which recon live cannot map. Record them, then use recon run."
PROJECTION = re.compile(rb"""GPano:ProjectionType(?:\s*=\s*["']|>)\s*equirectangular""")


def is_tagged(xmp: bytes) -> bool:
    """Whether the XMP of an image says that it is equirectangular."""
    return PROJECTION.search(xmp) is not None


def is_mapped(frame: VideoFrame) -> bool:
    """Whether a video says that its frames are equirectangular."""
    mapping = frame.side_data.get("SPHERICAL")
    return isinstance(mapping, SideData) and int.from_bytes(bytes(mapping)[:4], "little") == EQUIRECTANGULAR


def covers_sphere(size: tuple[int, int]) -> bool:
    """Whether an equirectangular image of ``size`` (width, height) can show the whole sphere: it is twice as wide as
    high."""
    return abs(size[0] / (2 * size[1]) - 1) <= ASPECT_TOLERANCE
