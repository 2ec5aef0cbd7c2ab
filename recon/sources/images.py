"""Frames from image files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.files import make_folder
from recon.core.names import image_stem, printable
from recon.core.types import Frame, Image, Mask, PassedFrame, SkippedFrame
from recon.sources.base import (
    Cameras,
    Candidate,
    KeyframeChoice,
    SourceDescription,
    SourceOptions,
    at_least_one_frame,
    working_image,
)
from recon.sources.decoding import Photo, UnreadableImage, read_photo, upright_size, xmp_of
from recon.sources.identity import content_hash
from recon.sources.keyframes import chosen
from recon.sources.masks import Masks
from recon.sources.originals import link_original, nothing, write_original
from recon.sources.spherical import covers_sphere, is_tagged


class ImageSource:
    """Image files in the given order; see ``recon.sources.open_source``.

    The position in ``paths`` is the frame's index and timestamp. selected: index and path of the files to read.
    notes: messages to the user about the files, shown before reading. views: how many of them are selected together.
    called: for the names of frames, the paths in place of the files' own.
    """

    def __init__(
        self,
        kind: str,
        spec: str,
        paths: Sequence[Path],
        options: SourceOptions,
        images_folder: Path | None = None,
        *,
        notes: Sequence[str] = (),
        views: int = 1,
        called: Sequence[Path] | None = None,
    ) -> None:
        if options.fps is not None:
            raise SettingsError("--fps applies to videos only. Select images with --every.")
        if images_folder and any(path.parent.resolve() == images_folder.resolve() for path in paths):
            raise SettingsError(f"{spec} is the folder for this run's own images. Choose another --out.")
        self._kind = kind
        self._spec = spec
        self._options = options
        self.keyframes = KeyframeChoice.of(options)
        self._notes = notes
        self._images_folder = images_folder
        most = options.max_frames and views * options.max_frames
        self.selected = [item for item in enumerate(paths) if item[0] // views % options.every == 0][:most]
        self._files = dict(self.selected)
        self._stems = sortable_stems(called or paths)
        names = {name for _, path in self.selected for name in (path.name, path.stem)}
        self._masks = Masks(options.masks, fits=names.__contains__)

    @cached_property
    def description(self) -> SourceDescription:
        sizes: Counter[tuple[int, int]] = Counter()
        for _, path in self.selected:
            try:
                sizes[upright_size(path)] += 1
            except UnreadableImage:  # reported when it is read
                continue
        return SourceDescription(self._kind, len(self.selected), tuple(size for size, _ in sizes.most_common()), 0.0)

    @cached_property
    def is_spherical(self) -> bool:
        """Whether the files are tagged as 360-degree panoramas.

        Raises SourceError if some are, of the whole sphere, and others are not.
        """
        tagged, others = list[Path](), list[Path]()
        is_whole = False
        for _, path in self.selected:
            try:
                if is_tagged(xmp_of(path)):
                    tagged.append(path)
                    is_whole |= covers_sphere(upright_size(path))
                else:
                    others.append(path)
            except UnreadableImage:  # reported when it is read
                continue
        if not (tagged and others):
            return bool(tagged)
        if not is_whole:
            return False  # panoramas of a phone, of part of the sphere
        raise SourceError(
            f"{self._spec} mixes 360-degree panoramas, the first {tagged[0].name}, with other images, the first "
            f"{others[0].name}. Put them in folders of their own, or add --equirectangular if all are panoramas."
        )

    status = None

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        if self._images_folder:
            make_folder(self._images_folder)
        yield from map(Notice, self._notes)
        yield from at_least_one_frame(chosen(self.candidates(), self.keyframes), self._spec)

    def file_of(self, index: int) -> Path | None:
        return self._files.get(index)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        for index, path in self.selected:
            try:
                photo = read_photo(path)
            except UnreadableImage as error:
                yield SkippedFrame(index, printable(path.name), str(error))
                continue
            photo = with_lens_of_folder(photo, path, self._options.cameras)
            image = working_image(photo.pixels, self._options.size)
            height, width = photo.pixels.shape[:2]
            mask = self._masks.read(path.name, (width, height), (image.shape[0], image.shape[1]))
            where = (index, float(index), self._stems[index])
            found = photo_candidate(photo, path, where, image, mask, images_folder=self._images_folder)
            content = found.frame.content + self._masks.identity(path.name)
            yield replace(found, frame=replace(found.frame, content=content))


def with_lens_of_folder(photo: Photo, path: Path, cameras: Cameras) -> Photo:
    """The photo; its folder names the lens if the user says that each folder has its own."""
    if cameras != "per-folder":
        return photo
    return replace(photo, lens="{} {}x{}".format(path.parent.resolve(), *photo.pixels.shape[1::-1]))


def photo_candidate(
    photo: Photo,
    path: Path,
    where: tuple[int, float, str],
    image: Image,
    mask: Mask,
    *,
    images_folder: Path | None,
) -> Candidate:
    """The frame of a photo. where: index, timestamp and stem of its name in ``images_folder``."""
    index, timestamp, stem = where
    name = stem + (photo.upright_suffix or ".jpg")
    size = (photo.pixels.shape[1], photo.pixels.shape[0])
    frame = Frame(index, timestamp, image, name, size, photo.lens, photo.focal, mask, content_hash(path))
    keep = _keeping(photo, path, images_folder / name) if images_folder else nothing
    return Candidate(frame, keep, timestamp)


def _keeping(photo: Photo, source: Path, target: Path) -> Callable[[], None]:
    if photo.upright_suffix is None:
        return partial(write_original, photo.pixels, target)
    return partial(link_original, source, target)  # without the pixels, which would stay in memory


def sortable_stems(paths: Sequence[Path]) -> list[str]:
    """The files' own stems if they are unique and their plain text order is the source's order, else numbered ones.

    Trainers and COLMAP sort by plain text, so IMG_2 and IMG_10 need a numeric prefix; and COLMAP's text files end a
    name at the first space.
    """
    stems = [image_stem(path.stem) for path in paths]
    unique = len({stem.casefold() for stem in stems}) == len(stems)
    if unique and sorted(stems, key=lambda stem: stem + ".") == stems:
        return stems
    return [f"{index:06d}_{stem}" for index, stem in enumerate(stems)]
