"""Masks in COLMAP's convention: black pixels are ignored, all others used; an image without a mask is used as a whole.

The mask of ``walk/IMG_7.jpg`` is ``IMG_7.png`` or, as COLMAP names it, ``IMG_7.jpg.png``; the mask of a video's frame
12 is ``000012.png`` or ``000012.jpg.png``. A mask may have any size with the upright image's aspect ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from recon.core.errors import SettingsError
from recon.core.types import Mask
from recon.sources.decoding import UnreadableImage, opened_image
from recon.sources.identity import MASK_FOLLOWS, content_hash
from recon.sources.kinds import is_image


class Masks:
    """The mask images of a folder, found by the name of their image.

    Raises SettingsError if the folder is missing or ``fits(stem)`` holds for no mask in it.
    """

    def __init__(self, folder: Path | None, fits: Callable[[str], bool]) -> None:
        self._paths: dict[str, Path] = {}
        if folder is None:
            return
        if not folder.is_dir():
            raise SettingsError(f"The folder of masks {folder} does not exist.")
        images = (path for path in sorted(folder.iterdir()) if path.is_file() and is_image(path))
        self._paths = {path.stem: path for path in images}
        if not any(map(fits, self._paths)):
            raise SettingsError(
                f"No mask in {folder} belongs to a frame. Name the mask of IMG_7.jpg IMG_7.png or IMG_7.jpg.png,"
                " and the mask of a video's frame 12 000012.png."
            )

    def read(self, name: str, original_size: tuple[int, int], shape: tuple[int, int]) -> Mask:
        """The mask of the image ``name``, resized to ``shape`` (height, width); all True if it has none.

        original_size: (width, height) of the upright image. Raises SettingsError for a mask of another aspect ratio.
        """
        path = self._path(name)
        if path is None:
            return np.ones(shape, dtype=np.bool_)
        usable = _read_mask(path)
        height, width = usable.shape
        if abs(width * original_size[1] - height * original_size[0]) > max(original_size):
            raise SettingsError(
                f"The mask {path} is {width} x {height} pixels, but its image {name} is"
                f" {original_size[0]} x {original_size[1]}. Give each mask the aspect ratio of its upright image."
            )
        resized = cv2.resize(usable.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
        return np.asarray(resized, dtype=np.bool_)

    def identity(self, name: str) -> str:
        """What the mask of the image ``name`` adds to ``Frame.content``; empty if it has none."""
        path = self._path(name)
        return MASK_FOLLOWS + content_hash(path) if path else ""

    def _path(self, name: str) -> Path | None:
        return self._paths.get(name) or self._paths.get(Path(name).stem)


def _read_mask(path: Path) -> Mask:
    try:
        with opened_image(path) as image:
            deep = image.mode.startswith(("I", "F"))
            values = np.asarray(image if deep else image.convert("RGB"))
    except UnreadableImage as error:
        raise SettingsError(f"The mask {path} cannot be read: {error}. Replace or remove it.") from error
    return np.asarray(values != 0 if deep else values.any(axis=2))
