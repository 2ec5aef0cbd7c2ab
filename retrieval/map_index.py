"""What locating photos needs of a finished map: ``DIR/map/places.npz``, made from the map and its images on first use.

docs/formats.md describes the file. It is made again if the map has changed since, or if it is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from recon.core.errors import MapError, OutputError
from recon.core.files import write_atomically
from recon.core.quantities import counted
from recon.core.similarity import Sim3
from recon.core.types import Image, Mask
from recon.mapping.appearance import View
from recon.sfm.matching import SiftMatcher
from recon.store.archive import OpenArrays, load_arrays, save_arrays
from recon.store.lock import sole_writer
from recon.store.map import ReconstructedMap, places_path
from retrieval.describer import Descriptors
from retrieval.digest import digest_of_arrays
from retrieval.index import PlaceIndex
from retrieval.landmarks import LandmarkFinder, Landmarks, image_of
from retrieval.vlad import IMAGES_TO_LEARN_FROM, VladDescriber, Vocabulary, learn_vlad

VERSION = 1
Arrays = Mapping[str, np.ndarray]
Read = Callable[[Collection[str]], Arrays]
HEADER = ("version", "map", "vocabulary", "frame_indices", "descriptors")


@dataclass(frozen=True, eq=False)
class MappedFrame:
    """What a photo is compared with: a frame's landmarks, and how it looks."""

    landmarks: Landmarks
    view: View


class MapIndex:
    """The frames of a map, searched by image. Only the descriptors of places stay in memory.

    read: reads arrays of the file by name.
    """

    def __init__(self, vocabulary: Vocabulary, frame_indices: Collection[int], places: Descriptors, read: Read) -> None:
        self._describer, self._read = VladDescriber(vocabulary), read
        self._index = PlaceIndex(self._describer.name, self._describer.dim)
        self._index.add(list(frame_indices), places)

    def similar(self, image: Image, mask: Mask, count: int) -> list[int]:
        """Indices of the ``count`` frames that look most like an RGB image within its mask, the best first."""
        found = self._index.search(self._describer.describe([image], [mask]), min(count, len(self._index)))
        return [int(index) for index in found.ids[0] if index >= 0]

    def frame(self, index: int) -> MappedFrame:
        """Raises MapError if the file is damaged."""
        arrays = self._read([f"{field.name}_{index}" for kind in (Landmarks, View) for field in fields(kind)])
        landmarks, view = ([arrays[f"{field.name}_{index}"] for field in fields(kind)] for kind in (Landmarks, View))
        return MappedFrame(Landmarks(*landmarks), View(*view))


def open_index(reconstruction: ReconstructedMap, tell: Callable[[str], None]) -> MapIndex:
    """The index of a map, read from its folder, or made and stored there first, which takes about 0.3 s a frame.

    tell: gets a sentence if it has to be made. If the folder cannot be written, or another process is writing there,
    the index stays in memory. Raises MapError for a map that cannot be searched, and if an image of it is missing.
    """
    path, digest = places_path(reconstruction.folder), _digest(reconstruction)
    if (stored := _stored(path, digest)) is not None:
        return stored
    why = " again, as it is damaged or the map has changed" if path.is_file() else ""
    tell(f"Preparing the map for photos{why}: {counted(len(reconstruction.frames), 'frame')}.")
    vocabulary = _vocabulary(reconstruction)
    try:
        with sole_writer(reconstruction.folder, "recon locate"):
            write_atomically(path, lambda file: save_arrays(file, _arrays(reconstruction, vocabulary, digest)))
    except OutputError as error:
        tell(f"The preparation is not stored. {error}")
        arrays = dict(_arrays(reconstruction, vocabulary, digest))
        return _index(arrays, lambda names: {name: arrays[name] for name in names})
    found = _stored(path, digest)
    if found is None:
        raise MapError(f"{path} cannot be read back. Check the disk.")
    return found


def move_index(before: ReconstructedMap, after: ReconstructedMap, to_from_world: Sim3) -> None:
    """Move the stored index of a map along into another world, unless there is none for the map before.

    Raises OutputError if it cannot be written.
    """
    path = places_path(before.folder)
    if _stored(path, _digest(before)) is None:
        return
    arrays = {
        name: to_from_world.apply(array).astype(np.float32) if name.startswith("points_") else array
        for name, array in load_arrays(path).items()
    }
    write_atomically(path, lambda file: save_arrays(file, arrays | {"map": _digest(after)}))


def _stored(path: Path, digest: np.ndarray) -> MapIndex | None:
    """The index in a file; None if there is none for this map, or if it is damaged."""
    with suppress(MapError, ValueError):
        opened = OpenArrays(path)
        arrays = opened.read(HEADER)
        if int(arrays["version"]) == VERSION and np.array_equal(arrays["map"], digest):
            return _index(arrays, lambda names: _checked(path, opened, names))
    return None


def _index(header: Arrays, read: Read) -> MapIndex:
    vocabulary = Vocabulary(header["vocabulary"])
    return MapIndex(vocabulary, header["frame_indices"].tolist(), header["descriptors"], read)


def _checked(path: Path, opened: OpenArrays, names: Collection[str]) -> Arrays:
    try:
        return opened.read(names)
    except MapError as error:
        raise MapError(f"{path} is damaged. Delete it: recon locate makes it again.") from error


def _digest(reconstruction: ReconstructedMap) -> np.ndarray:
    """Identifies the poses and points that landmarks depend on."""
    indices = np.array([frame.index for frame in reconstruction.frames])
    poses = np.array([frame.world_from_cam.matrix() for frame in reconstruction.frames])
    lenses = np.array([value for frame in reconstruction.frames for value in frame.camera.params])
    return np.array(digest_of_arrays(indices, poses, lenses, *astuple(reconstruction.points)))


def _vocabulary(reconstruction: ReconstructedMap) -> Vocabulary:
    """Learnt from frames spread over the map."""
    step = max(1, len(reconstruction.frames) // IMAGES_TO_LEARN_FROM)
    frames = [image_of(reconstruction, placed) for placed in reconstruction.frames[::step]]
    describer = learn_vlad([frame.image for frame in frames], masks=[frame.mask for frame in frames])
    if describer is None:
        raise MapError(f"The images of {reconstruction.folder} are blank: no photo can be located in this map.")
    return describer.vocabulary


def _arrays(
    reconstruction: ReconstructedMap, vocabulary: Vocabulary, digest: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of the file; those of the header that depend on all frames come last."""
    describer, finder = VladDescriber(vocabulary), LandmarkFinder(reconstruction, SiftMatcher())
    places, indices = [], []
    for placed, geometry in reconstruction.geometry():
        frame = image_of(reconstruction, placed)
        for part in (finder.landmarks(frame, placed, geometry), View.of(geometry)):
            yield from ((f"{field.name}_{frame.index}", getattr(part, field.name)) for field in fields(part))
        places.append(describer.describe([frame.image], [frame.mask])[0])
        indices.append(frame.index)
    if not indices:
        raise MapError(f"The map in {reconstruction.folder} has no frame with depth, so no photo can be located in it.")
    yield "version", np.array(VERSION)
    yield "map", digest
    yield "vocabulary", vocabulary.centres
    yield "frame_indices", np.array(indices, dtype=np.int64)
    yield "descriptors", np.array(places, dtype=np.float32).reshape(-1, describer.dim)
