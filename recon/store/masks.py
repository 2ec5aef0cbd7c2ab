"""``DIR/map/masks``: the pixels of each image that were not used, for runs that extend the map with another source."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

from recon.core.errors import MapError
from recon.core.files import make_folder, write_atomically
from recon.core.types import Frame, Mask


def write_masks(out: Path, frames: Iterable[Frame]) -> None:
    """Store the masks of frames that are used in part only; existing masks stay. Raises OutputError."""
    for frame in frames:
        path = mask_path(out, frame.index)
        if not frame.mask.all() and not path.is_file():
            make_folder(path.parent)
            write_atomically(path, partial(PillowImage.fromarray(frame.mask).save, format="PNG"))


def read_mask(out: Path, index: int, shape: tuple[int, int]) -> Mask:
    """The stored mask (height, width) of a frame, all True without one. Raises MapError for one of another shape."""
    mask = _stored(out, index)
    if mask is None:
        return np.ones(shape, dtype=np.bool_)
    if mask.shape != shape:
        raise MapError(
            f"{mask_path(out, index)} has the shape {mask.shape}, expected {shape}. Delete it to use its image whole."
        )
    return mask


def resized_mask(out: Path, index: int, shape: tuple[int, int]) -> Mask:
    """Like ``read_mask``, for an image (height, width) of another size than in the run. Raises MapError for damage."""
    mask = _stored(out, index)
    if mask is None:
        return np.ones(shape, dtype=np.bool_)
    resized = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized > 0, dtype=np.bool_)


def _stored(out: Path, index: int) -> Mask | None:
    path = mask_path(out, index)
    if not path.is_file():
        return None
    try:
        with PillowImage.open(path) as image:
            return np.asarray(image, dtype=np.bool_)
    except (OSError, ValueError, SyntaxError) as error:
        raise MapError(f"{path} is damaged ({error}). Delete it to use its image whole.") from error


def mask_path(out: Path, index: int) -> Path:
    """The file with the mask of a frame, which exists only if the frame is used in part."""
    return out / "map" / "masks" / f"{index:06d}.png"
