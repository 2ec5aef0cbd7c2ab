"""The upright originals of a run: files that COLMAP and splatting trainers open beside the poses."""

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
    """Make ``target`` the same file as ``source``, or a copy where links do not work. Raises OutputError."""
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
    """What writes (height, width, 3) RGB as the original ``name`` into ``folder``; does nothing without a folder."""
    return partial(write_original, pixels, folder / name) if folder else nothing


def nothing() -> None:
    """What keeps an original where there is no folder to put it into."""
