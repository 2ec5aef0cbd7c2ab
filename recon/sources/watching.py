"""A folder to which another program adds images."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import watchfiles
from natsort import natsorted, ns

from recon.core.errors import SettingsError, SourceError
from recon.core.files import make_folder
from recon.core.names import image_stem, printable
from recon.core.types import SkippedFrame
from recon.sources.base import Candidate, Selection, SourceOptions, working_image
from recon.sources.decoding import UnreadableImage, read_photo, xmp_of
from recon.sources.images import photo_candidate, with_lens_of_folder
from recon.sources.kinds import is_image
from recon.sources.spherical import NOT_LIVE, covers_sphere, is_tagged

LOOK_AGAIN_MS = 500  # between checks of incomplete files
GIVE_UP_SECONDS = 10.0  # after the last change of an incomplete file


class WatchFeed:
    """Images in order of arrival in a folder, after those that exist already, in natural order.

    A file that cannot be read yet is checked again until it can be, or has not changed for GIVE_UP_SECONDS. None is
    dropped because the reconstruction is slow: files wait on the disk. Raises SourceError if there is no folder.
    """

    kind: str = "folder"
    sizes: tuple[tuple[int, int], ...] = ()
    patient = True

    def __init__(self, folder: Path, options: SourceOptions, images_folder: Path | None = None) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder. Give the folder to watch, or create it first.")
        if options.fps is not None:
            raise SettingsError("--fps applies to videos only. Select images with --every.")
        if images_folder and images_folder.resolve() == folder.resolve():
            raise SettingsError(f"{folder} is the folder for this run's own images. Choose another --out.")
        self._folder, self._options, self._images_folder = folder, options, images_folder
        self._selection = Selection(options)
        self._count = 0
        self._files: list[tuple[int, Path, float]] = []  # index, path, time of first sight

    @cached_property
    def _present(self) -> list[Path]:
        return _images(self._folder.iterdir())

    def file_of(self, index: int) -> Path | None:
        """Files that exist at the start; they come first, in this order."""
        return self._present[index] if index < len(self._present) else None

    def again(self) -> Iterator[Candidate | SkippedFrame]:
        for index, path, seen in self._files:
            try:
                yield self._candidate(index, path, seen)
            except UnreadableImage as error:  # it has been replaced or deleted
                yield SkippedFrame(index, printable(path.name), str(error))

    def items(self, stop: threading.Event) -> Iterator[Candidate | SkippedFrame]:
        if self._images_folder:
            make_folder(self._images_folder)
        seen: set[str] = set()
        partial: dict[Path, _Growth] = {}
        for paths in self._arrivals(stop):
            now = time.monotonic()
            for path in paths:
                if path.name not in seen:
                    seen.add(path.name)
                    partial[path] = _Growth(-1, now, now)
            for path, growth in list(partial.items()):
                item = self._read(path, growth)
                if item is None:
                    partial[path] = growth.measured(path)
                    continue
                del partial[path]
                if self._selection.takes(self._count, now):
                    if isinstance(item, Candidate):
                        self._files.append((self._count, path, growth.seen))
                    yield item
                self._count += 1
                if stop.is_set() or self._selection.complete:
                    return

    def _arrivals(self, stop: threading.Event) -> Iterator[list[Path]]:
        """Existing images, then repeatedly those that arrived or changed since; often none."""
        watch = watchfiles.watch(
            self._folder,
            watch_filter=None,
            stop_event=stop,
            recursive=False,
            rust_timeout=LOOK_AGAIN_MS,
            yield_on_timeout=True,
        )
        first = next(watch, None)  # the watch has started: from now on nothing can be missed
        if first is not None:
            yield _images(self._folder.iterdir())
            yield from (_images(Path(name) for _, name in changes) for changes in chain([first], watch))

    def _read(self, path: Path, growth: _Growth) -> Candidate | SkippedFrame | None:
        """The frame of a file, the reason why there is none, or None while the file may still become complete."""
        try:
            return self._candidate(self._count, path, growth.seen)
        except UnreadableImage as error:
            done = time.monotonic() - growth.changed > GIVE_UP_SECONDS or not path.exists()
            return SkippedFrame(self._count, printable(path.name), str(error)) if done else None

    def _candidate(self, index: int, path: Path, seen: float) -> Candidate:
        photo = with_lens_of_folder(read_photo(path), path, self._options.cameras)
        if covers_sphere((photo.pixels.shape[1], photo.pixels.shape[0])) and is_tagged(xmp_of(path)):
            raise SourceError(f"{path} {NOT_LIVE}")
        image = working_image(photo.pixels, self._options.size)
        where = (index, seen, f"{index:06d}_{image_stem(path.stem)}")
        mask = np.ones(image.shape[:2], np.bool_)
        return photo_candidate(photo, path, where, image, mask, images_folder=self._images_folder)


@dataclass(frozen=True)
class _Growth:
    """Size of an incomplete file in bytes, time of first sight, and time of its last change of size, both monotonic."""

    size: int
    seen: float
    changed: float

    def measured(self, path: Path) -> _Growth:
        """The present state of the file."""
        try:
            size = path.stat().st_size
        except OSError:
            return self
        return self if size == self.size else _Growth(size, self.seen, time.monotonic())


def _images(paths: Iterable[Path]) -> list[Path]:
    """The files that are images and not hidden, in natural order."""
    images = [path for path in paths if not path.name.startswith(".") and path.is_file() and is_image(path)]
    return natsorted(images, alg=ns.PATH | ns.IGNORECASE)
