"""The upright originals of a run, which COLMAP and splatting trainers open with the poses."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import PIL.Image

from recon.core.files import write_atomically
from recon.core.types import Image

JPEG_QUALITY = 95


def link_original(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``, or copy it if links do not work. Raises OutputError."""
    try:
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)
    except OSError:
        with source.open("rb") as original:
            write_atomically(target, lambda file: shutil.copyfileobj(original, file))


def write_original(pixels: Image, target: Path) -> None:
    """Write (height, width, 3) RGB as JPEG. Never writes through an old ``target``, which may be a link to the
    user's own file. Raises OutputError."""
    encoded = io.BytesIO()
    PIL.Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY)
    write_atomically(target, lambda file: file.write(encoded.getbuffer()))


def keeping(pixels: Image, folder: Path | None, name: str) -> Callable[[], None]:
    """A function that writes (height, width, 3) RGB to ``folder`` as the original ``name``, if there is a folder."""
    return partial(write_original, pixels, folder / name) if folder else nothing


def nothing() -> None:
    """Does nothing: the function for a run without a folder for originals."""
