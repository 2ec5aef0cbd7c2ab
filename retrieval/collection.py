"""A folder of images searchable by image: ``recon places build`` creates it, ``recon places query`` searches it.

    places.json, vectors-*.faiss   the index; an image's id is its row in images.json
    images.json                    the images' folder and names, and their describer
    descriptors.npy                to rebuild a damaged index
    vocabulary.npz                 the vocabulary of a describer by words
    classical                      beside xfeat-vlad: the same files of the classical descriptor, see ``place_search``

docs/formats.md describes the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recon.core.errors import MapError, SourceError
from recon.core.files import make_folder, write_atomically
from recon.core.typed_json import read_object, typed
from recon.core.types import Image
from recon.settings import PlaceSettings
from recon.sources.base import working_image
from recon.sources.decoding import UnreadableImage, read_photo
from recon.sources.kinds import is_image
from recon.store.ledger import Ledger
from retrieval.describer import Descriptors, PlaceDescriber, PlaceLearner, WordDescriber, open_describer
from retrieval.index import PlaceIndex
from retrieval.vlad import VladDescriber, Vocabulary

COLLECTION_VERSION = 1
CLASSICAL = "classical"  # folder
BUILD = "Build it again: recon places build FOLDER"
WORKING_SIDE = 640  # px; describers shrink images further
IMAGES_AT_ONCE = 16
IMAGES_TO_LEARN_FROM = 100
ENOUGH_IMAGES = 80  # for words of its own: on four sequences, shipped words were better for some collections of 40


@dataclass(frozen=True)
class Listing:
    """images: the folder. names: of the images, by row. describer: ``PlaceDescriber.name``; descriptor and weights:
    the ``PlaceSettings`` that open it, with no descriptor in older files."""

    images: str
    names: tuple[str, ...]
    describer: str
    dim: int
    weights: str
    descriptor: str = ""

    @property
    def is_classical(self) -> bool:
        """Whether the describer is learned from the images alone."""
        return self.descriptor == "vlad" or not (self.descriptor or self.weights)


@dataclass(frozen=True)
class Match:
    """An image of the collection that looks like the query. similarity: inner product, 1 for the same image. points:
    how many it shares with the query, see ``retrieval.reranking``; None if not counted.
    """

    path: Path
    similarity: float
    points: int | None = None


class Collection:
    """The images of a folder with their descriptors and index. unread: those left out, as they could not be read."""

    def __init__(
        self, listing: Listing, describer: PlaceDescriber, index: PlaceIndex, unread: Sequence[Path] = ()
    ) -> None:
        self.listing, self.describer, self.index, self.unread = listing, describer, index, unread

    @cached_property
    def paths(self) -> list[Path]:
        """The image files, by row."""
        return [Path(self.listing.images) / name for name in self.listing.names]

    def query(self, image: Image, count: int) -> list[Match]:
        """The ``count`` images that look most like an RGB image, the best first."""
        matches = self.index.search(self.describer.describe([image]), min(count, len(self.index)))
        return [
            Match(self.paths[row], similarity)
            for row, similarity in zip(matches.ids[0].tolist(), matches.similarities[0].tolist(), strict=True)
            if row >= 0
        ]


def build(images: Path, out: Path, settings: PlaceSettings) -> Collection:
    """Describe the images in a folder and its subfolders, and write the collection into ``out``.

    settings: name a descriptor; beside xfeat-vlad, the classical one is kept, too. Images that cannot be read are
    skipped. Raises SourceError if there is nothing to describe, OutputError if ``out`` cannot be written, and what
    ``open_describer`` raises.
    """
    paths = list_images(images)
    describer = describer_for(images, settings)
    names, rows = [], []
    for path, descriptor in described(paths, describer):
        names.append(str(path.relative_to(images)))
        rows.append(descriptor)
    if not rows:
        raise SourceError(f"No image in {images} can be read. Give a folder of photographs.")
    descriptors = np.array(rows, dtype=np.float32)
    named = settings.weights, settings.descriptor
    listing = Listing(str(images.resolve()), tuple(names), describer.name, describer.dim, *named)
    _write(out, listing, descriptors, describer)
    if settings.descriptor == "xfeat-vlad":
        with suppress(SourceError):  # too little detail to learn from
            build(images, out / CLASSICAL, PlaceSettings("vlad"))
    unread = [path for path in paths if str(path.relative_to(images)) not in set(names)]
    return Collection(listing, describer, _indexed(out, listing, descriptors), unread)


def open_collection(folder: Path, device: str) -> tuple[Collection, str]:
    """What ``build`` wrote, and a notice for the user, empty if all is well. device: of a network.

    A damaged index is rebuilt from the stored descriptors. Raises MapError if there is no collection, or if its
    describer has changed, and what ``open_describer`` raises.
    """
    listing = _read_listing(folder / "images.json")
    describer = _reopened(folder, listing, device)
    if describer.name != listing.describer:
        raise MapError(
            f"{folder} was described by {listing.describer}, but the describer is now {describer.name}. {BUILD}"
        )
    try:
        return Collection(listing, describer, PlaceIndex.load(folder, listing.describer, listing.dim)), ""
    except MapError:
        descriptors = _read_descriptors(folder / "descriptors.npy", listing)
        index = _indexed(folder, listing, descriptors)
        return Collection(listing, describer, index), (
            f"The index in {folder} is missing or damaged. It was made again from the stored descriptors."
        )


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder and its subfolders, sorted. Raises SourceError if there are none."""
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder. Give a folder of images.")
    if Ledger(folder).has("map"):
        raise SourceError(f"{folder} is the folder of a run. Give that of its images, {folder / 'colmap' / 'images'}.")
    paths = sorted(p for p in folder.rglob("*") if not p.name.startswith(".") and p.is_file() and is_image(p))
    if not paths:
        raise SourceError(f"{folder} holds no images.")
    return paths


def read_image(path: Path) -> Image:
    """An upright RGB image at the working size. Raises SourceError for a file that cannot be read."""
    try:
        return working_image(read_photo(path).pixels, WORKING_SIDE)
    except (UnreadableImage, OSError) as error:
        raise SourceError(f"{path} cannot be read as an image ({error}).") from error


def described(paths: Sequence[Path], describer: PlaceDescriber) -> Iterator[tuple[Path, Descriptors]]:
    """Every readable image with its descriptor (dim,); only a few images are in memory at a time."""
    for first in range(0, len(paths), IMAGES_AT_ONCE):
        readable = list(_readable(paths[first : first + IMAGES_AT_ONCE]))
        yield from zip(
            [path for path, _ in readable], describer.describe([image for _, image in readable]), strict=True
        )


def _readable(paths: Sequence[Path]) -> Iterator[tuple[Path, Image]]:
    for path in paths:
        try:
            yield path, read_image(path)
        except SourceError:
            continue


def describer_for(folder: Path, settings: PlaceSettings) -> PlaceDescriber:
    """The describer that the settings name; one that learns does so from a folder's images, one that has words only
    from ENOUGH_IMAGES.

    Raises SourceError if these are blank, and what ``open_describer`` raises.
    """
    opened = open_describer(settings)
    if not isinstance(opened, PlaceLearner | WordDescriber):
        return opened
    paths = list_images(folder)
    images = (image for _, image in _readable(paths[:: max(1, len(paths) // IMAGES_TO_LEARN_FROM)]))
    if isinstance(opened, WordDescriber):
        return opened.with_words_of(images) if len(paths) >= ENOUGH_IMAGES else opened
    describer = opened.learn(list(images))
    if describer is None:
        raise SourceError(f"The images in {folder} are blank or unreadable: they have too little detail to learn from.")
    return describer


def _indexed(out: Path, listing: Listing, descriptors: Descriptors) -> PlaceIndex:
    index = PlaceIndex(listing.describer, listing.dim)
    index.add(range(len(descriptors)), descriptors)
    index.save(out)
    return index


def _write(out: Path, listing: Listing, descriptors: Descriptors, describer: PlaceDescriber) -> None:
    make_folder(out)
    if isinstance(describer, VladDescriber | WordDescriber):
        describer.vocabulary.save(out / "vocabulary.npz")
    write_atomically(out / "descriptors.npy", lambda file: np.save(file, descriptors))
    text = json.dumps({"version": COLLECTION_VERSION} | asdict(listing), indent=1)
    write_atomically(out / "images.json", lambda file: file.write(text.encode()))


def _read_listing(path: Path) -> Listing:
    try:
        content = read_object(path, COLLECTION_VERSION, BUILD)
    except OSError as error:
        raise MapError(
            f"{path.parent} holds no place collection: {path.name} cannot be read. Make one: recon places build FOLDER"
        ) from error
    return typed(content, Listing, path, BUILD)


def _read_descriptors(path: Path, listing: Listing) -> Descriptors:
    try:
        descriptors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MapError(f"{path} is missing or damaged. {BUILD}") from error
    if descriptors.shape != (len(listing.names), listing.dim):
        raise MapError(
            f"{path} holds descriptors of shape {descriptors.shape}, images.json lists {len(listing.names)} of length "
            f"{listing.dim}. {BUILD}"
        )
    return np.asarray(descriptors)


def _reopened(folder: Path, listing: Listing, device: str) -> PlaceDescriber:
    """The describer of a collection, with its vocabulary if it has one."""
    if listing.is_classical:
        return VladDescriber(Vocabulary.load(folder / "vocabulary.npz"))
    opened = open_describer(PlaceSettings(listing.descriptor, listing.weights, device))
    if isinstance(opened, WordDescriber):
        return opened.with_vocabulary(Vocabulary.load(folder / "vocabulary.npz"))
    if isinstance(opened, PlaceLearner):
        raise MapError(f"The descriptor {listing.descriptor} learns from images, so it cannot be opened again. {BUILD}")
    return opened
