"""Images to network input: the public loader's two rules, and ours, with the image's aspect and a pixel budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recon.core.errors import SourceError
from recon.core.types import Image as Pixels
from recon.core.types import Mask

PATCH = 14
PUBLIC_SIDE = 518
WHITE = 255
PublicRule = Literal["crop", "pad"]


def load_public(paths: Sequence[Path], rule: PublicRule) -> Tensor:
    """Image files as read by VGGT's own loader: (images, 3, height, width) in 0..1.

    crop: 518 px wide, the height in proportion, cropped to its middle 518 px. pad: the longer side 518 px, padded with
    white to a square. Images of different sizes are centred on white. EXIF rotation is ignored, as there.
    Raises SourceError for a file that is not an image or would be lower or narrower than a patch.
    """
    return as_batch([_public(_open(path), rule, path) for path in paths])


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode != "RGBA":
                return image.convert("RGB")
            return Image.alpha_composite(Image.new("RGBA", image.size, (WHITE,) * 4), image).convert("RGB")
    except OSError as error:
        raise SourceError(f"{path} cannot be read as an image ({error}). Remove it or replace it.") from error


def _public(image: Image.Image, rule: PublicRule, path: Path) -> Pixels:
    width, height = image.size
    if rule == "pad" and height > width:
        size = (_whole_patches(width * (PUBLIC_SIDE / height)), PUBLIC_SIDE)
    else:
        size = (PUBLIC_SIDE, _whole_patches(height * (PUBLIC_SIDE / width)))
    if min(size) < PATCH:
        raise SourceError(
            f"{path} is {width} x {height} px, too narrow for the network: scaled to {PUBLIC_SIDE} px it would be "
            f"thinner than a patch of {PATCH} px. Leave it out."
        )
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    if rule == "pad":
        return _centred(pixels, PUBLIC_SIDE, PUBLIC_SIDE)
    top = max(0, (size[1] - PUBLIC_SIDE) // 2)
    return pixels[top : top + PUBLIC_SIDE]


def _whole_patches(side: float) -> int:
    return round(side / PATCH) * PATCH


def as_batch(images: Sequence[Pixels]) -> Tensor:
    """Images (height, width, 3) uint8 to (images, 3, height, width) in 0..1, smaller ones centred on white."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stacked = np.stack([_centred(image, height, width) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / WHITE


def _centred(image: Pixels, height: int, width: int) -> Pixels:
    """On white; the larger half of an odd margin is at the bottom or right."""
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    canvas = np.full((height, width, 3), WHITE, dtype=np.uint8)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def fitted_size(width: int, height: int, pixels: int, patch: int = PATCH) -> tuple[int, int]:
    """Width and height, multiples of ``patch``, closest to the image's aspect with at most ``pixels`` pixels.

    Images are never enlarged beyond the next multiple. Raises SourceError for images smaller than a patch or a budget
    below one.
    """
    if min(width, height) < patch:
        raise SourceError(
            f"Frames of {width} x {height} px are smaller than a patch of the network, {patch} x {patch} px. "
            "Use larger images."
        )
    cells = pixels // patch**2
    if cells < 1:
        raise SourceError(f"{pixels} pixels do not hold one patch of {patch} x {patch} px. Allow more pixels.")
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    columns, rows = (max(1, round(side * scale / patch)) for side in (width, height))
    while columns * rows > cells:
        if columns > 1 and (columns / rows > width / height or rows == 1):
            columns -= 1
        else:
            rows -= 1
    return columns * patch, rows * patch


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Bicubic, anti-aliased: an image (h, w, 3) as (size[1], size[0], 3)."""
    if image.shape[1::-1] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The nearest pixel's value: a mask (h, w) as (size[1], size[0])."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
