"""``DIR/map/masks``: the pixels of each image that were not used, for runs that extend the map with another source."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from recon.core.errors import MapError
from recon.core.files import make_folder, write_atomically
from recon.core.types import Frame, Mask


def write_masks(out: Path, frames: Iterable[Frame]) -> None:
    """Store the masks of frames that are used in part only; existing masks stay. Raises OutputError."""
    for frame in frames:
        path = _path(out, frame.index)
        if not frame.mask.all() and not path.is_file():
            make_folder(path.parent)
            write_atomically(path, partial(PillowImage.fromarray(frame.mask).save, format="PNG"))


def read_mask(out: Path, index: int, shape: tuple[int, int]) -> Mask:
    """The stored mask (height, width) of a frame, all True without one. Raises MapError for one of another shape."""
    path = _path(out, index)
    if not path.is_file():
        return np.ones(shape, dtype=np.bool_)
    try:
        with PillowImage.open(path) as image:
            mask = np.asarray(image, dtype=np.bool_)
    except (OSError, ValueError, SyntaxError) as error:
        raise MapError(f"{path} is damaged ({error}). Delete it to use its image whole.") from error
    if mask.shape != shape:
        raise MapError(f"{path} has the shape {mask.shape}, expected {shape}. Delete it to use its image whole.")
    return mask


def _path(out: Path, index: int) -> Path:
    return out / "map" / "masks" / f"{index:06d}.png"
