"""The map on disk: ``DIR/map``. Finished submaps move there from memory.

    map.db           the ledger: one row per placed frame, skipped frames, whether the run finished
    points.npz       sparse points in the world with their observations
    submap_0000.npz  depth, confidence and colour of the frames that a chunk added

docs/formats.md describes every field; ``recon.store.ledger`` says what a kill leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recon.core.errors import MapError
from recon.core.files import make_folder
from recon.core.metric import Metric
from recon.core.names import refuse_to_leave
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, FrameGeometry, PlacedFrame, SkippedFrame, SparsePoints, Submap
from recon.store.archive import load_arrays, save_arrays
from recon.store.frame_arrays import FrameArrays, pack, unpack
from recon.store.ledger import Ledger
from recon.store.legacy import AGAIN
from recon.store.missing import why_no_map
from recon.store.versions import SUBMAP_VERSION, SUBMAPS_READ

SUBMAP = "submap_"
Matrix = list[list[float]]


@dataclass(frozen=True, eq=False)
class ReconstructedMap:
    """A map read from disk: placed frames in source order, frames without a pose, sparse points in the world.

    between: frames that were passed over and have a pose but no depth. metric: None if lengths are in the map's own
    unit, and while a run extends the map.
    """

    folder: Path
    frames: tuple[PlacedFrame, ...]
    skipped: tuple[SkippedFrame, ...]
    points: SparsePoints
    complete: bool
    between: tuple[PlacedFrame, ...] = ()
    metric: Metric | None = None

    @property
    def posed(self) -> tuple[PlacedFrame, ...]:
        """All frames with a pose, in source order."""
        return tuple(sorted(self.frames + self.between, key=lambda frame: frame.index))

    @property
    def images(self) -> Path:
        """Folder of the upright originals that ``PlacedFrame.name`` refers to."""
        return images_folder(self.folder)

    def geometry(self, only: Collection[int] | None = None) -> Iterator[tuple[PlacedFrame, FrameGeometry]]:
        """Every placed frame that has depth, read from disk one submap at a time. only: indices of the frames to read;
        submaps without any of them are not read."""
        placed = {frame.index: frame for frame in self.frames if only is None or frame.index in only}
        ledger = Ledger(self.folder)
        for stem in _submaps(ledger):
            if only is not None and placed.keys().isdisjoint(ledger.load(stem, frames_in)):
                continue
            path, arrays = ledger.load(stem, lambda path: (path, _submap_arrays(path)))
            for geometry in _unpacked(path, arrays, placed):
                yield placed[geometry.index], geometry

    @property
    def submap_files(self) -> list[Path]:
        """The files with depth, in order."""
        ledger = Ledger(self.folder)
        return [ledger.file(stem) for stem in _submaps(ledger)]

    def require_finished(self) -> None:
        """Raise MapError for a map whose run has not ended."""
        if not self.complete:
            raise MapError(f"The map in {self.folder} is not finished. Finish its run with --resume first.")


def images_folder(folder: Path) -> Path:
    """Folder of the upright originals of a run in ``folder``: beside the COLMAP model, as splatting trainers expect."""
    return folder / "colmap" / "images"


def submap_path(folder: Path, number: int) -> Path:
    """The file with the depth of the frames that a chunk added."""
    return Ledger(folder).file(_stem(number))


def submap_number(path: Path) -> int:
    """The number of the chunk whose depth is in a file."""
    return int(path.name.removeprefix(SUBMAP).partition(".")[0])


def _stem(number: int) -> str:
    return f"{SUBMAP}{number:04d}"


def _submaps(ledger: Ledger) -> list[str]:
    """The stems of the files with depth, in order."""
    return sorted(stem for stem in ledger.files() if stem.startswith(SUBMAP))


def places_path(folder: Path) -> Path:
    """The file that recon locate makes to search the map."""
    return folder / "map" / "places.npz"


def incoming_folder(folder: Path, *, resume: bool) -> Path:
    """Folder to which the source of a run in ``folder`` writes upright originals.

    Those of a resumed run move to the images folder only once they have names that no frame of the map has.
    """
    return folder / "map" / "incoming" if resume else images_folder(folder)


class MapStore:
    """Writes the map of one run to disk; keeps nothing in memory. ledger: of the run, to store within its
    transactions.
    """

    def __init__(self, folder: Path, ledger: Ledger | None = None) -> None:
        self.folder, self.ledger = folder, ledger or Ledger(folder)
        make_folder(folder / "map")

    def write_submap(self, submap: Submap, new_frames: set[int], other_frames: Sequence[FrameGeometry] = ()) -> None:
        """Store depth, confidence and colour of ``new_frames``; the other frames belong to earlier submaps.
        other_frames: those whose depth differs here. That depth is not part of the map, see ``Journal``.
        """
        kept = [frame for frame in submap.geometry.frames if frame.index in new_frames]
        arrays: dict[str, Any] = {
            "version": np.int64(SUBMAP_VERSION),
            "frame_indices": np.array([frame.index for frame in kept], dtype=np.int64),
            "cam_from_chunk": np.array([frame.cam_from_chunk for frame in kept]).reshape(-1, 4, 4),
            "intrinsics": np.array([frame.intrinsics for frame in kept]).reshape(-1, 3, 3),
            "world_from_chunk": submap.world_from_chunk.matrix(),
        }
        for frame in [*kept, *other_frames]:
            arrays |= pack(frame)
        self.write_arrays(submap.index, arrays)

    def write_arrays(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store the arrays of a submap. Raises OutputError."""
        self.ledger.write_file(_stem(number), lambda file: save_arrays(file, arrays))

    def read_submap(self, number: int, placed: Mapping[int, PlacedFrame]) -> dict[int, FrameGeometry]:
        """The placed frames that a submap added, by index. Raises MapError for a damaged file."""
        path = submap_path(self.folder, number)
        return {frame.index: frame for frame in read_submap(path, placed)}

    def write_places(
        self,
        frames: tuple[PlacedFrame, ...],
        skipped: tuple[SkippedFrame, ...],
        points: SparsePoints,
        *,
        complete: bool,
        between: tuple[PlacedFrame, ...] = (),
        metric: Metric | None = None,
    ) -> None:
        """Store the pose of every frame; ``complete`` says whether the run reached its end.

        between, metric: see ReconstructedMap; of an incomplete map, metric is that of the map which it extends.
        """
        arrays = {field.name: getattr(points, field.name) for field in fields(points)}
        with self.ledger.writing():
            self.ledger.write_file("points", lambda file: save_arrays(file, arrays))
            self.ledger.replace("map", [_state_row(Sim3.identity(), metric, complete=complete)])
            rows = [_frame_row(frame, 1) for frame in frames] + [_frame_row(frame, 0) for frame in between]
            self.ledger.replace("frames", rows)
            self.ledger.replace("skipped", map(vars, skipped))


def rewrite_depth(path: Path, frames: Iterable[FrameGeometry]) -> None:
    """Replace the depth, colour and intrinsics of frames in a submap's file; their poses in the chunk stay.

    Raises MapError for a damaged file, OutputError if it cannot be written.
    """
    arrays: dict[str, Any] = _submap_arrays(path)
    with _damage_named(path):
        rows = {int(index): row for row, index in enumerate(arrays["frame_indices"])}
        for frame in frames:
            arrays["intrinsics"][rows[frame.index]] = frame.intrinsics
            arrays |= pack(frame)
    MapStore(path.parents[1]).write_arrays(submap_number(path), arrays | {"version": np.int64(SUBMAP_VERSION)})


def _submap_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a submap's file. Raises MapError for a missing or damaged file, and for another version."""
    arrays = load_arrays(path)
    with _damage_named(path):
        version = int(arrays["version"])
    if version not in SUBMAPS_READ:
        raise MapError(f"{path} has version {version}, this program reads {SUBMAP_VERSION}. {AGAIN}")
    return arrays


def read_arrays(path: Path) -> dict[int, tuple[FrameArrays, Array | None]]:
    """The arrays of every frame in a submap's file, by index, and the intrinsics (3, 3) of the frames that it added.

    Raises MapError if the file is missing or damaged.
    """
    arrays = _submap_arrays(path)
    indices = [int(name.removeprefix("depth_")) for name in arrays if name.startswith("depth_")]
    with _damage_named(path):
        added = dict(zip(arrays["frame_indices"].tolist(), arrays["intrinsics"], strict=True))
        return {index: (unpack(arrays, index), added.get(index)) for index in indices}


def open_map(folder: Path) -> ReconstructedMap:
    """Read the map in ``folder``. Raises MapError if there is none, or if it is damaged or of another version."""
    stored, points = Ledger(folder).load("points", lambda _: _read_with_points(folder))
    points = replace(points, positions=stored.world_from_points.apply(points.positions))
    frames, between = ([frame for frame, kind in stored.frames if kind == mapped] for mapped in (1, 0))
    metric = stored.metric if stored.complete else None
    return ReconstructedMap(
        folder, tuple(frames), stored.skipped, points, stored.complete, between=tuple(between), metric=metric
    )


def stored_metric(folder: Path) -> Metric | None:
    """That of the map in ``folder``, or of the one that an unfinished run extends. Raises MapError for damage."""
    found = Ledger(folder).read("map", _State)
    return found[0].metric if found else None


def move_map(folder: Path, to_from_world: Sim3, metric: Metric | None) -> None:
    """Move a finished map into another world. metric: that its unit is the metre, None for the map's own unit.

    This is one transaction: a kill leaves either the old or the new map. The file of points stays as it is; the ledger
    says how to move them. Raises OutputError, and MapError for a damaged map.
    """
    ledger = Ledger(folder)
    with ledger.writing():
        stored = _read_places(folder, ledger)
        moved = [
            _frame_row(replace(frame, world_from_cam=to_from_world @ frame.world_from_cam), mapped)
            for frame, mapped in stored.frames
        ]
        ledger.replace("frames", moved)
        world_from_points = to_from_world @ stored.world_from_points
        ledger.replace("map", [_state_row(world_from_points, metric, complete=stored.complete)])


@dataclass(frozen=True)
class _FrameRow:
    """A frame with a pose in the ledger. world_from_cam: (4, 4). mapped: 0 for a frame between, which has no depth."""

    index: int
    timestamp: float
    name: str
    camera: Camera
    world_from_cam: Matrix
    mapped: Literal[0, 1]


@dataclass(frozen=True)
class _State:
    """A map as a whole in the ledger."""

    complete: Literal[0, 1]
    world_from_points: Matrix
    metric: Metric | None


@dataclass(frozen=True, eq=False)
class _Places:
    """What the ledger says about the world. frames: with 0 for those between. points: the file of points."""

    complete: bool
    frames: tuple[tuple[PlacedFrame, Literal[0, 1]], ...]
    skipped: tuple[SkippedFrame, ...]
    world_from_points: Sim3
    metric: Metric | None
    points: Path


def _read_places(folder: Path, ledger: Ledger | None = None) -> _Places:
    """The places of the map in ``folder``, in one state. Raises MapError."""
    ledger = ledger or Ledger(folder)
    with ledger.reading():
        states = ledger.read("map", _State)
        if not states:
            raise MapError(why_no_map(folder))
        rows, skipped = ledger.read("frames", _FrameRow), ledger.read("skipped", SkippedFrame)
        points = ledger.file("points")
    path = ledger.source("frames")
    try:
        frames = tuple((_placed(row), row.mapped) for row in rows)
        world_from_points = Sim3.from_matrix(np.array(states[0].world_from_points))
    except (ValueError, IndexError) as error:  # no pose, or no such frame
        raise MapError(f"{path} is damaged ({error!r}). {AGAIN}") from error
    for frame, _ in frames:
        refuse_to_leave(frame.name, path)
    if len({frame.index for frame, _ in frames}) < len(frames):
        raise MapError(f"{path} is damaged: it has a frame twice. {AGAIN}")
    return _Places(bool(states[0].complete), frames, tuple(skipped), world_from_points, states[0].metric, points)


def _read_with_points(folder: Path) -> tuple[_Places, SparsePoints]:
    stored = _read_places(folder)
    return stored, _read_points(stored.points)


def _frame_row(frame: PlacedFrame, mapped: Literal[0, 1]) -> dict[str, Any]:
    pose, camera = frame.world_from_cam.matrix().tolist(), vars(frame.camera)
    return vars(frame) | {"camera": camera, "world_from_cam": pose, "mapped": mapped}


def _state_row(world_from_points: Sim3, metric: Metric | None, *, complete: bool) -> dict[str, Any]:
    return {
        "complete": int(complete),
        "world_from_points": world_from_points.matrix().tolist(),
        "metric": asdict(metric) if metric else None,
    }


def _placed(row: _FrameRow) -> PlacedFrame:
    if row.index < 0:
        raise ValueError(f"frame {row.index}")
    return PlacedFrame(row.index, row.timestamp, row.name, row.camera, Sim3.from_matrix(np.array(row.world_from_cam)))


def _read_points(path: Path) -> SparsePoints:
    arrays = load_arrays(path)
    try:
        points = SparsePoints(**{field.name: arrays[field.name] for field in fields(SparsePoints)})
    except KeyError as error:
        raise MapError(f"{path} lacks the array {error}. {AGAIN}") from error
    if not _fits_together(points):
        raise MapError(f"{path} is damaged: its arrays do not fit together. {AGAIN}")
    return points


def _fits_together(points: SparsePoints) -> bool:
    count, ids, observations = len(points.positions), points.point_ids, (len(points.point_ids),)
    return (
        points.positions.shape == points.colours.shape == (count, 3)
        and ids.shape == points.frame_indices.shape == observations
        and points.pixels.shape == (*observations, 2)
        and all(array.dtype.kind in "iu" for array in (ids, points.frame_indices))
        and (not len(ids) or 0 <= int(ids.min()) <= int(ids.max()) < count)
    )


def frames_in(path: Path) -> list[int]:
    """Indices of the frames in a submap's file, without reading their depth. Raises MapError; see ``load_arrays``."""
    return [int(index) for index in load_arrays(path, ["frame_indices"])["frame_indices"]]


def read_submap(path: Path, placed: Mapping[int, PlacedFrame]) -> Iterator[FrameGeometry]:
    """The placed frames in a submap's file. Raises MapError, also while iterating, if it is missing or damaged."""
    return _unpacked(path, _submap_arrays(path), placed)


def _unpacked(
    path: Path, arrays: Mapping[str, np.ndarray], placed: Mapping[int, PlacedFrame]
) -> Iterator[FrameGeometry]:
    with _damage_named(path):
        for row, index in enumerate(arrays["frame_indices"].tolist()):
            if index not in placed:
                continue
            stored = unpack(arrays, index)
            yield FrameGeometry(
                index=index,
                cam_from_chunk=arrays["cam_from_chunk"][row],
                camera=placed[index].camera,
                # The joint adjustment may have changed the lens since the chunk was stored.
                intrinsics=placed[index].camera.matrix_at(*stored.depth.shape[::-1]),
                depth=stored.depth,
                confidence=stored.confidence,
                colour=stored.colour,
                propagated=stored.propagated,
            )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Raise MapError with the name of a submap's file for arrays that it lacks or that are damaged."""
    try:
        yield
    except KeyError as error:
        raise MapError(f"{path} lacks the array {error}. {AGAIN}") from error
    except ValueError as error:
        raise MapError(f"{path} is damaged: {error}. {AGAIN}") from error
