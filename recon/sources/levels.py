"""Converts deep images (16 bit, floating point) to 8 bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.core.types import Image

DULL = 64  # of 255 levels, the range of all but a few pixels; features need more contrast
FEW = 0.1  # per cent of the pixels at either end: dead ones, highlights
NEGATIVE = 0.01  # share of negative pixels above which 0 is not black
DISPLAY_GAMMA = 2.2


def eight_bit(values: NDArray[Any], *, linear: bool = False) -> Image:
    """Grey or colours of any depth in 8 bit, of the same shape.

    White is the maximum of the smallest usual bit depth that holds the values, so that images of 12-bit sensors are not
    too dark. If that leaves almost no contrast, as with thermal cameras, the range of this image is stretched instead.
    linear: values are light in any unit, as in OpenEXR, not levels for a screen.
    """
    floats = values.astype(np.float32)
    known = floats[np.isfinite(floats)]
    if not known.size:
        return np.zeros(values.shape, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.percentile(known, (FEW, 100 - FEW))
        white = float(high) if linear and high > 0 else _white(float(known.max()), values.dtype.kind == "f")
        plain = _scaled(floats, 0.0, white, linear=linear)
        if not is_dull(plain) and (known < 0).mean() < NEGATIVE:
            return plain
        return _scaled(floats, float(low), float(high), linear=linear) if high > low else plain


def is_dull(pixels: Image) -> bool:
    """Whether 8-bit pixels have almost no contrast."""
    low, high = np.percentile(pixels, (FEW, 100 - FEW))
    return bool(high - low < DULL)


def _white(largest: float, floating: bool) -> float:
    depths = [1.0] if floating else []
    return next((depth for depth in [*depths, 255.0, 4095.0, 65535.0] if largest <= depth), largest)


def _scaled(values: NDArray[np.float32], black: float, white: float, *, linear: bool) -> Image:
    shares = np.clip(np.nan_to_num((values.astype(np.float64) - black) / (white - black)), 0, 1)
    return np.round((shares ** (1 / DISPLAY_GAMMA) if linear else shares) * 255).astype(np.uint8)
