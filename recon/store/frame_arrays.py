"""Depth, confidence and colour of a frame as the compact arrays of a submap's file.

Depth is stored without loss as differences between neighbouring pixels, which compress to half the size of the depth
itself. Colour is JPEG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.types import DepthMap, FrameGeometry, Image

KINDS = ("depth", "confidence", "colour", "propagated")  # of the arrays of a frame
CONFIDENCE_LEVELS = 255
CONFIDENCE_STEPS = 63  # that are told apart
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass(frozen=True, eq=False)
class FrameArrays:
    """depth, confidence, colour and origin of the depth of a frame, as in FrameGeometry."""

    depth: DepthMap
    confidence: DepthMap
    colour: Image
    propagated: bool = False


def pack(frame: FrameGeometry) -> dict[str, np.ndarray]:
    """The arrays of a frame by name. Depth beyond the range of float16 is left out."""
    depth, confidence = _reduced(frame)
    return {
        f"depth_{frame.index}": packed_depth(depth),
        f"confidence_{frame.index}": confidence,
        f"colour_{frame.index}": cv2.imencode(".jpg", cv2.cvtColor(frame.colour, cv2.COLOR_RGB2BGR), JPEG)[1],
        f"propagated_{frame.index}": np.array(frame.propagated),
    }


def rounded(frame: FrameGeometry) -> FrameGeometry:
    """A frame with depth and confidence as the map will hold them."""
    depth, confidence = _reduced(frame)
    return replace(frame, depth=depth.astype(np.float32), confidence=_sure(confidence))


def unpack(arrays: Mapping[str, np.ndarray], index: int) -> FrameArrays:
    """The inverse of ``pack``; reads the plain arrays of older files as well, which do not tell propagated depth.

    Raises KeyError if the frame has none, and ValueError for damaged ones.
    """
    depth, confidence, colour = (arrays[f"{kind}_{index}"] for kind in ("depth", "confidence", "colour"))
    if depth.dtype == np.uint8:
        if depth.ndim != 3 or len(depth) != 2:
            raise ValueError(f"the depth of frame {index} is damaged")
        depth = _summed(depth)
    if colour.ndim == 1 and colour.size and colour.dtype == np.uint8:
        decoded = cv2.imdecode(colour, cv2.IMREAD_COLOR)
        if decoded is not None:
            colour = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    if colour.dtype != np.uint8 or colour.shape != (*depth.shape, 3):
        raise ValueError(f"the colour of frame {index} is damaged")
    if depth.ndim != 2 or confidence.shape != depth.shape:
        raise ValueError(f"the confidence of frame {index} is damaged")
    propagated = bool(arrays.get(f"propagated_{index}", False))
    return FrameArrays(depth.astype(np.float32), _sure(confidence), colour, propagated)


def _reduced(frame: FrameGeometry) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Depth and confidence with fewer bits."""
    known = frame.depth <= np.finfo(np.float16).max
    steps = np.round(np.where(known, frame.confidence, 0) * CONFIDENCE_STEPS)
    levels = np.round(steps * (CONFIDENCE_LEVELS / CONFIDENCE_STEPS)).astype(np.uint8)
    return np.where(known, frame.depth, 0).astype(np.float16), levels


def _sure(levels: np.ndarray) -> DepthMap:
    return levels.astype(np.float32) / np.float32(CONFIDENCE_LEVELS)


def packed_depth(depth: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Depth (h, w) as it is stored: second differences of its bits along rows and columns.

    Returns their low and high bytes (2, h, w). The sign is the lowest bit, so that the high bytes of small differences
    are 0.
    """
    bits = np.diff(np.diff(depth.view(np.uint16), axis=1, prepend=np.uint16(0)), axis=0, prepend=np.uint16(0))
    signed = bits.view(np.int16)
    low_bit_sign = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
    return np.stack([low_bit_sign & 0xFF, low_bit_sign >> 8]).astype(np.uint8)


def _summed(differences: NDArray[np.uint8]) -> NDArray[np.float16]:
    """The inverse of ``packed_depth``."""
    low, high = differences.astype(np.uint16)
    low_bit_sign = low | high << 8
    bits = (low_bit_sign >> 1) ^ -(low_bit_sign & 1)
    return np.asarray(bits.cumsum(axis=0, dtype=np.uint16).cumsum(axis=1, dtype=np.uint16).view(np.float16))
