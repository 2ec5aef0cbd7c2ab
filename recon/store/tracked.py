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
from recon.core.similarity import Array

NAME = "tracked.csv"
COLUMNS = ("frame", "time", "state", "piece", "inliers", "drift", "ms", "tx", "ty", "tz", "qx", "qy", "qz", "qw")


class TrackedFile:
    """Appends a row for each frame, at once. Raises OSError if that is impossible."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / NAME).open("a", encoding="ascii", newline="", buffering=1)
        self._rows = csv.writer(self._file, lineterminator="\n")
        if not self._file.tell():
            self._rows.writerow(COLUMNS)

    def add(self, event: FrameTracked) -> None:
        """Append a frame."""
        numbers = [""] * 7
        if event.world_from_cam is not None:
            quaternion = Rotation.from_matrix(event.world_from_cam[:3, :3]).as_quat(canonical=True)
            numbers = [f"{value:.9g}" for value in (*event.world_from_cam[:3, 3], *quaternion)]
        figures = event.piece, event.inliers, f"{event.drift:.4f}", f"{event.milliseconds:.1f}"
        self._rows.writerow([event.index, f"{event.timestamp:.9f}", event.state, *figures, *numbers])

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, eq=False)
class TrackedPoses:
    """The poses of a file, in the piece of the map that has the most. indices: (n,) of the frames. timestamps: (n,)
    seconds. world_from_cam: (n, 4, 4) rigid.
    """

    indices: NDArray[np.int64]
    timestamps: Array
    world_from_cam: Array


def read_tracked(folder: Path) -> TrackedPoses:
    """Read the file of a run. Raises SourceError if it is missing or damaged, or holds no pose."""
    path = folder / NAME
    try:
        with path.open(encoding="ascii", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["tx"]]
        table = np.array([[float(row[name]) for name in COLUMNS if name != "state"] for row in rows])
    except OSError as error:
        raise SourceError(f"Cannot read {path}: {error.strerror}. Only recon live writes it.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(f"{path} is damaged ({error}). Run recon live again.") from error
    if not len(table):
        raise SourceError(f"{path} holds no pose: no frame was tracked.")
    pieces, counts = np.unique(table[:, 2], return_counts=True)
    table = table[table[:, 2] == pieces[counts.argmax()]]
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(table[:, 9:]).as_matrix(), table[:, 6:9]
    return TrackedPoses(table[:, 0].astype(np.int64), table[:, 1], poses)
