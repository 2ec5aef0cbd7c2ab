"""``DIR/tracked.csv``: what was known of every captured frame at once. docs/formats.md describes it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.errors import SourceError
from recon.core.events import FrameTracked
from recon.core.files import write_atomically
from recon.core.similarity import Array

NAME = "tracked.csv"
POSE = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")
LARGEST = 1e15  # of any number: indices are exact up to there
COLUMNS = ("frame", "time", "state", "piece", "inliers", "drift", "jump", "ms", "map_ms", *POSE)


class TrackedFile:
    """Appends a row for each frame, at once. Raises OSError if that is impossible."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / NAME).open("a", encoding="ascii", newline="", buffering=1)
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not self._file.tell():
            self._rows.writerow(COLUMNS)

    def add(self, event: FrameTracked, shown: float | None = None) -> None:
        """Append a frame. shown: milliseconds until it was a keyframe of the local map, None if it is none."""
        numbers = [""] * 7
        if event.world_from_cam is not None:
            quaternion = Rotation.from_matrix(event.world_from_cam[:3, :3]).as_quat(canonical=True)
            numbers = [f"{value:.9g}" for value in (*event.world_from_cam[:3, 3], *quaternion)]
        figures = event.piece, event.inliers, f"{event.drift:.4f}", f"{event.jump:.4f}", f"{event.milliseconds:.1f}"
        shown_ms = "" if shown is None else f"{shown:.1f}"
        self._rows.writerow([event.index, f"{event.timestamp:.9f}", event.state, *figures, shown_ms, *numbers])

    def close(self) -> None:
        self._file.close()


def forget_tracked(folder: Path, first: int) -> None:
    """Forget the frames from an index on, which a run that was killed captured and did not map: others take their
    numbers. A damaged file stays. Raises OutputError.
    """
    path = folder / NAME
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines[1:] if int(line.partition(b",")[0]) < first]
    except (OSError, ValueError):
        return
    if len(kept) + 1 < len(lines):
        write_atomically(path, lambda file: file.writelines([lines[0], *kept]))


@dataclass(frozen=True, eq=False)
class TrackedPoses:
    """The poses in one piece of the map. indices: (n,) of the frames, ascending. timestamps: (n,) seconds.
    world_from_cam: (n, 4, 4) rigid.
    """

    indices: NDArray[np.int64]
    timestamps: Array
    world_from_cam: Array


@dataclass(frozen=True, eq=False)
class TrackedRun:
    """What a file says. timestamps: [s] of all frames, by index. pieces: the poses by piece of the map, those with the
    most first. milliseconds: (frames,) from the arrival of each image to its pose. map_milliseconds: (keyframes,) the
    same to its place in the local map. first_pose: seconds after the first frame.
    """

    timestamps: dict[int, float]
    pieces: dict[int, TrackedPoses]
    milliseconds: Array
    map_milliseconds: Array
    first_pose: float


def read_tracked(folder: Path) -> TrackedRun:
    """Read the file of a run. Raises SourceError if it is missing or damaged."""
    path = folder / NAME
    try:
        with path.open(encoding="ascii", newline="") as file:
            rows = list({int(row["frame"]): row for row in csv.DictReader(file)}.values())  # a resumed run repeats some
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS if name != "state"}
        columns = _in_order(columns)
        posed = np.isfinite(columns["tx"])
        found, counts = np.unique(columns["piece"][posed], return_counts=True)
        pieces = {int(one): _poses(columns, posed & (columns["piece"] == one)) for one in found[np.argsort(-counts)]}
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}. Only recon live writes it.") from error
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise SourceError(f"{path} is damaged ({error}). Run recon live again.") from error
    shown = columns["map_ms"]
    first = columns["time"][posed][:1] - columns["time"][:1]
    timestamps = dict(zip(columns["frame"].astype(int).tolist(), columns["time"].tolist(), strict=True))
    return TrackedRun(timestamps, pieces, columns["ms"], shown[np.isfinite(shown)], float(first.sum()))


def _in_order(columns: dict[str, Array]) -> dict[str, Array]:
    """By frame. Raises ValueError if a number of a frame is missing or impossible, or one of a pose that has others."""
    posed = ~np.isnan(columns["tx"])
    for name, values in columns.items():
        if name != "map_ms" and np.isnan(values[posed] if name in POSE else values).any():
            raise ValueError(f"a row lacks {name}")
        if (np.abs(values) > LARGEST).any() or (name == "frame" and (values < 0).any()):
            raise ValueError(f"a number of {name} is impossible")
    order = np.argsort(columns["frame"])
    return {name: values[order] for name, values in columns.items()}


def _poses(columns: dict[str, Array], rows: NDArray[np.bool_]) -> TrackedPoses:
    poses = np.tile(np.eye(4), (int(rows.sum()), 1, 1))
    numbers = np.column_stack([columns[name][rows] for name in POSE])
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(numbers[:, 3:]).as_matrix(), numbers[:, :3]
    return TrackedPoses(columns["frame"][rows].astype(np.int64), columns["time"][rows], poses)
