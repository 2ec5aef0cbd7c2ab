"""The upright originals of a run, which COLMAP and splatting trainers open with the poses."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from recon.core.files import write_atomically
from recon.core.types import Image
from recon.sources.base import Candidate

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
    content = as_jpeg(pixels)
    write_atomically(target, lambda file: file.write(content))


def as_jpeg(pixels: Image) -> bytes:
    """Encode (height, width, 3) RGB."""
    encoded = io.BytesIO()
    PIL.Image.fromarray(pixels).save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


@dataclass(frozen=True, eq=False)
class Packed:
    """A candidate that waits as the JPEG that its original will be. candidate: without pixels, all of which count."""

    candidate: Candidate
    jpeg: bytes

    @classmethod
    def of(cls, candidate: Candidate) -> Packed:
        return cls(replace(candidate, frame=candidate.frame.without_pixels()), as_jpeg(candidate.frame.image))

    @property
    def way(self) -> float:
        """See Candidate."""
        return self.candidate.way

    def unpacked(self, folder: Path | None) -> Candidate:
        """The candidate, which keeps its original in ``folder``, if there is one."""
        image = np.asarray(PIL.Image.open(io.BytesIO(self.jpeg)))
        frame = replace(self.candidate.frame, image=image, mask=np.ones(image.shape[:2], np.bool_))

        def keep() -> None:
            if folder:
                write_atomically(folder / frame.name, lambda file: file.write(self.jpeg))

        return replace(self.candidate, frame=frame, keep=keep)


def keeping(pixels: Image, folder: Path | None, name: str) -> Callable[[], None]:
    """A function that writes (height, width, 3) RGB to ``folder`` as the original ``name``, if there is a folder."""
    return partial(write_original, pixels, folder / name) if folder else nothing


def nothing() -> None:
    """Does nothing: the function for a run without a folder for originals."""
