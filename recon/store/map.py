"""The map on disk: ``DIR/map``. Finished submaps move there from memory; every file is complete or absent.

    map.json         version, cameras, one row per placed frame, skipped frames, whether the run finished
    points.npz       sparse points in the world with their observations
    submap_0000.npz  depth, confidence and colour of the frames that a chunk added

docs/formats.md describes every field. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.errors import MapError
from recon.core.files import make_folder, write_atomically
from recon.core.metric import Metric
from recon.core.names import refuse_to_leave
from recon.core.similarity import Array, Sim3
from recon.core.typed_json import read_object, typed
from recon.core.types import Camera, FrameGeometry, PlacedFrame, SkippedFrame, SparsePoints, Submap
from recon.store.archive import load_arrays, save_arrays
from recon.store.frame_arrays import FrameArrays, pack, unpack
from recon.store.missing import why_no_map
from recon.store.versions import MAP_VERSION, VERSIONS_READ

AGAIN = "Run the reconstruction again."
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
        for path in self.submap_files:
            if only is not None and placed.keys().isdisjoint(frames_in(path)):
                continue
            for geometry in read_submap(path, placed):
                yield placed[geometry.index], geometry

    @property
    def submap_files(self) -> list[Path]:
        """The files with depth, in order."""
        return sorted((self.folder / "map").glob("submap_*.npz"))

    def require_finished(self) -> None:
        """Raise MapError for a map whose run has not ended."""
        if not self.complete:
            raise MapError(f"The map in {self.folder} is not finished. Finish its run with --resume first.")


def images_folder(folder: Path) -> Path:
    """Folder of the upright originals of a run in ``folder``: beside the COLMAP model, as splatting trainers expect."""
    return folder / "colmap" / "images"


def submap_path(folder: Path, number: int) -> Path:
    """The file with the depth of the frames that a chunk added."""
    return folder / "map" / f"submap_{number:04d}.npz"


def places_path(folder: Path) -> Path:
    """The file that recon locate makes to search the map."""
    return folder / "map" / "places.npz"


def incoming_folder(folder: Path, *, resume: bool) -> Path:
    """Folder to which the source of a run in ``folder`` writes upright originals.

    Those of a resumed run move to the images folder only once they have names that no frame of the map has.
    """
    return folder / "map" / "incoming" if resume else images_folder(folder)


class MapStore:
    """Writes the map of one run to disk; keeps nothing in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder / "map")

    def write_submap(self, submap: Submap, new_frames: set[int], other_frames: Sequence[FrameGeometry] = ()) -> None:
        """Store depth, confidence and colour of ``new_frames``; the other frames belong to earlier submaps.
        other_frames: those whose depth differs here. That depth is not part of the map, see ``Journal``.
        """
        kept = [frame for frame in submap.geometry.frames if frame.index in new_frames]
        arrays: dict[str, Any] = {
            "version": np.int64(MAP_VERSION),
            "frame_indices": np.array([frame.index for frame in kept], dtype=np.int64),
            "cam_from_chunk": np.array([frame.cam_from_chunk for frame in kept]).reshape(-1, 4, 4),
            "intrinsics": np.array([frame.intrinsics for frame in kept]).reshape(-1, 3, 3),
            "world_from_chunk": submap.world_from_chunk.matrix(),
        }
        for frame in [*kept, *other_frames]:
            arrays |= pack(frame)
        path = submap_path(self.folder, submap.index)
        write_atomically(path, lambda file: save_arrays(file, arrays))

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
        write_atomically(self.folder / "map" / "points.npz", lambda file: save_arrays(file, arrays))
        content = _places_to_json(frames, between, skipped, complete) | {"metric": metric and asdict(metric)}
        _write_json(self.folder, content)


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
    arrays["version"] = np.int64(MAP_VERSION)
    write_atomically(path, lambda file: save_arrays(file, arrays))


def _submap_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a submap's file. Raises MapError for a missing or damaged file, and for another version."""
    arrays = load_arrays(path)
    with _damage_named(path):
        version = int(arrays["version"])
    if version not in VERSIONS_READ:
        raise MapError(f"{path} has version {version}, this program reads {MAP_VERSION}. {AGAIN}")
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
    path = folder / "map" / "map.json"
    _, stored = _read_places(folder)
    try:
        frames, between = (
            tuple(_placed(row, stored.cameras) for row in rows) for rows in (stored.frames, stored.between)
        )
        world_from_points = Sim3.from_matrix(np.array(stored.world_from_points))
    except (ValueError, IndexError) as error:  # no pose, or no such camera
        raise MapError(f"{path} is damaged ({error!r}). {AGAIN}") from error
    for named in (*frames, *between):
        refuse_to_leave(named.name, path)
    if len({frame.index for frame in frames + between}) < len(frames + between):
        raise MapError(f"{path} is damaged: it has a frame twice. {AGAIN}")
    points = _read_points(folder / "map" / "points.npz")
    points = replace(points, positions=world_from_points.apply(points.positions))
    metric = stored.metric if stored.complete else None
    return ReconstructedMap(folder, frames, stored.skipped, points, stored.complete, between, metric)


def stored_metric(folder: Path) -> Metric | None:
    """That of the map in ``folder``, or of the one that an unfinished run extends. Raises MapError for damage."""
    return _read_places(folder)[1].metric if (folder / "map" / "map.json").is_file() else None


def move_map(folder: Path, to_from_world: Sim3, metric: Metric | None) -> None:
    """Move a finished map into another world. metric: that its unit is the metre, None for the map's own unit.

    Only map.json is written, so that a kill leaves either the old or the new map. The file of points stays as it is;
    map.json says how to move them. Raises OutputError, and MapError for a damaged map.
    """
    content, stored = _read_places(folder)
    for row in (*content["frames"], *content.get("between", ())):
        row["world_from_cam"] = (to_from_world.matrix() @ row["world_from_cam"]).tolist()
    moved = to_from_world.matrix() @ stored.world_from_points
    _write_json(folder, content | {"world_from_points": moved.tolist(), "metric": metric and asdict(metric)})


@dataclass(frozen=True)
class _FrameRow:
    """A placed frame in map.json. camera: its number. world_from_cam: (4, 4)."""

    index: int
    timestamp: float
    name: str
    camera: int
    world_from_cam: Matrix


@dataclass(frozen=True)
class _Places:
    """What map.json holds."""

    complete: bool
    cameras: tuple[Camera, ...]
    frames: tuple[_FrameRow, ...]
    skipped: tuple[SkippedFrame, ...]
    between: tuple[_FrameRow, ...] = ()
    world_from_points: Matrix = field(default_factory=lambda: np.eye(4).tolist())
    metric: Metric | None = None


def _read_places(folder: Path) -> tuple[dict[str, Any], _Places]:
    """The content of map.json, as it is and by type. Raises MapError."""
    path = folder / "map" / "map.json"
    if not path.is_file():
        raise MapError(why_no_map(folder))
    content = read_object(path, VERSIONS_READ, AGAIN)
    return content, typed(with_kinds(content), _Places, path, AGAIN)


def _write_json(folder: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1)
    write_atomically(folder / "map" / "map.json", lambda file: file.write(text.encode()))


def _places_to_json(
    frames: tuple[PlacedFrame, ...],
    between: tuple[PlacedFrame, ...],
    skipped: tuple[SkippedFrame, ...],
    complete: bool,
) -> dict[str, Any]:
    cameras = list(dict.fromkeys(frame.camera for frame in frames + between))
    numbers = {camera: number for number, camera in enumerate(cameras)}
    return {
        "version": MAP_VERSION,
        "complete": complete,
        "cameras": [vars(camera) for camera in cameras],
        "frames": [_frame_to_json(frame, numbers) for frame in frames],
        "between": [_frame_to_json(frame, numbers) for frame in between],
        "skipped": [vars(frame) for frame in skipped],
    }


def _frame_to_json(frame: PlacedFrame, numbers: Mapping[Camera, int]) -> dict[str, Any]:
    return {
        "index": frame.index,
        "timestamp": frame.timestamp,
        "name": frame.name,
        "camera": numbers[frame.camera],
        "world_from_cam": frame.world_from_cam.matrix().tolist(),
    }


def _placed(row: _FrameRow, cameras: Sequence[Camera]) -> PlacedFrame:
    if row.index < 0 or not 0 <= row.camera < len(cameras):
        raise IndexError(f"frame {row.index} with camera {row.camera} of {len(cameras)}")
    pose = Sim3.from_matrix(np.array(row.world_from_cam))
    return PlacedFrame(row.index, row.timestamp, row.name, cameras[row.camera], pose)


def with_kinds(content: dict[str, Any]) -> dict[str, Any]:
    """A map or report in JSON, with the kind of every skipped frame. Early builds wrote no kind; the reason shows which
    frames were passed over.
    """
    rows = content.get("skipped")
    return content | {"skipped": [_with_kind(row) for row in rows]} if isinstance(rows, list) else content


def _with_kind(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    passed = str(row.get("reason")).startswith("was passed over as it shows little new")
    return {"kind": "passed" if passed else "unplaced"} | row


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
    """The placed frames in a submap's file. Raises MapError, while iterating, if it is missing or damaged."""
    arrays = _submap_arrays(path)
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
