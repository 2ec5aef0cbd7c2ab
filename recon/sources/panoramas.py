"""360-degree panoramas as the faces of a rig: overlapping pinhole images with a known lens and known rotations.

An equirectangular image has the same angle between all columns and between all rows. FACES pinhole images look at its
horizon, evenly spread; the first looks at its middle, and has the panorama's own pose. Floor and ceiling below and
above them are left out: there, a tripod, the person who holds the camera, or the sky fill the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path, PurePath

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Camera, Frame, Image, Mount, PassedFrame, SkippedFrame
from recon.sources.base import Candidate, KeyframeChoice, Source, SourceDescription, SourceOptions, working_image
from recon.sources.keyframes import judges
from recon.sources.originals import keeping, nothing
from recon.sources.shots import Shot, ShotSource
from recon.sources.spherical import covers_sphere

FACES = 6
FIELD = math.radians(90)  # of a face, in both directions


def rotation_of(number: int) -> NDArray[np.float64]:
    """cam_from_rig (3, 3) of a face; the rig has the axes of the first one."""
    angle = number * 2 * math.pi / FACES
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])


def lens_of_faces(width: int) -> Camera:
    """The lens of the faces of panoramas ``width`` pixels wide: in the middle, as many pixels per degree as these."""
    side = max(1, round(width / math.pi * math.tan(FIELD / 2)))
    focal = side / 2 / math.tan(FIELD / 2)
    return Camera("PINHOLE", side, side, (focal, focal, side / 2, side / 2))


class PanoramaSource(ShotSource):
    """The faces of equirectangular panoramas; see ``recon.sources.open_source``.

    inside: reads the panoramas, whole and at their own size, and stores nothing. Raises SourceError if a panorama is
    not twice as wide as high.
    """

    def __init__(self, spec: str, inside: Source, options: SourceOptions, images_folder: Path | None) -> None:
        super().__init__(FACES, options, images_folder)
        self._spec, self._inside, self._size = spec, inside, options.size
        inside.keyframes = KeyframeChoice(select=False)

    @cached_property
    def description(self) -> SourceDescription:
        own = self._inside.description
        for size in own.sizes:
            _require_whole(size, f"A panorama of {self._spec}")
        sizes, lens = ((self._lens.width, self._lens.height),), self._lens
        return replace(own, frames=FACES * own.frames, sizes=sizes, lens=lens, views=FACES, unit="panorama")

    @cached_property
    def _lens(self) -> Camera:
        """Of all faces, also of panoramas of other sizes than most."""
        sizes = self._inside.description.sizes
        return lens_of_faces(sizes[0][0] if sizes else 1)

    def file_of(self, index: int) -> Path | None:
        return self._inside.file_of(index // FACES)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        for item in self._inside.candidates():
            if isinstance(item, SkippedFrame):
                yield _of_first_face(item)
            else:
                yield from self._faces(item.frame)

    def shots(self) -> Iterator[Shot | SkippedFrame | Notice]:
        for item in self._inside:
            match item:
                case Frame():
                    judge = next(face.frame for face in self._faces(item) if judges(face.frame))
                    judge = replace(judge, index=item.index, name=item.name)
                    yield Shot(judge, nothing, members=partial(self._faces, item))
                case SkippedFrame():
                    yield _of_first_face(item)
                case Notice():
                    yield item

    def _faces(self, whole: Frame) -> Iterator[Candidate]:
        return (self._face(whole, number) for number in range(FACES))

    def _face(self, whole: Frame, number: int) -> Candidate:
        """A face of a panorama."""
        _require_whole(whole.original_size, whole.name)
        lens, name = self._lens, face_name(whole.name, number)
        original = cut_face(whole.image, lens, number)
        image = working_image(original, self._size)
        usable = cut_face(whole.mask.astype(np.uint8), lens, number, cv2.INTER_NEAREST)
        mask = cv2.resize(usable, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        frame = Frame(
            FACES * whole.index + number,
            self._time(whole, number),
            image,
            name,
            (lens.width, lens.height),
            f"{whole.lens} face {number}",
            0.0,
            mask,
            whole.content,
            Mount(whole.lens, number, FACES, lens, tuple(rotation_of(number).ravel().tolist())),
        )
        return Candidate(frame, keeping(original, self._folder, name), whole.timestamp)

    def passed(self, shot: PassedFrame) -> Iterator[PassedFrame]:
        for number in range(FACES):
            index, name = FACES * shot.index + number, face_name(shot.name, number)
            yield PassedFrame(index, self._time(shot, number), name)

    def _time(self, panorama: Frame | PassedFrame, number: int) -> float:
        """The time of a frame of a recording [s]; of images, the position of the face."""
        return panorama.timestamp if self._inside.description.rate else float(FACES * panorama.index + number)


def cut_face(panorama: Image, lens: Camera, number: int, interpolation: int = cv2.INTER_CUBIC) -> Image:
    """A face of a panorama (height, width) or (height, width, 3)."""
    height, width = panorama.shape[:2]
    columns, rows = _first_face(lens, width, height)
    columns = columns + np.float32(number * width / FACES)
    cut = cv2.remap(panorama, columns, rows, interpolation, borderMode=cv2.BORDER_WRAP)
    return np.asarray(cut, dtype=np.uint8)


@lru_cache(maxsize=2)
def _first_face(lens: Camera, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row, in a panorama, of every pixel of its first face; 0 is a pixel's centre."""
    focal, side = lens.params[0], lens.width
    plane = (np.arange(side) + 0.5 - side / 2) / focal
    longitude = np.broadcast_to(np.arctan(plane), (side, side))
    latitude = np.arctan2(plane[:, None], np.hypot(plane, 1))  # downwards
    columns = (longitude / (2 * math.pi) + 0.5) * width - 0.5
    rows = (latitude / math.pi + 0.5) * height - 0.5
    return columns.astype(np.float32), rows.astype(np.float32)


def face_name(name: str, number: int) -> str:
    """What the face of a panorama is called: pano_7.jpg has faces pano_7_0.jpg to pano_7_5.jpg."""
    return f"{PurePath(name).stem}_{number}.jpg"


def _of_first_face(panorama: SkippedFrame) -> SkippedFrame:
    return replace(panorama, index=FACES * panorama.index)


def _require_whole(size: tuple[int, int], where: str) -> None:
    """Raise SourceError unless a panorama of ``size`` (width, height) is twice as wide as high."""
    if not covers_sphere(size):
        raise SourceError(
            f"{where} is {size[0]}x{size[1]} pixels, but a 360-degree panorama (equirectangular) is twice as wide as "
            "high. Export the whole sphere with the camera's program; do not use --equirectangular for other images."
        )
