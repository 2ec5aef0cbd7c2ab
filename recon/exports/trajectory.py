"""Camera trajectories as text: the formats of TUM, KITTI and EuRoC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.errors import SourceError
from recon.core.files import write_atomically
from recon.core.metric import Metric
from recon.core.similarity import Array
from recon.store.map import ReconstructedMap

EUROC_COLUMNS = "#timestamp [ns], p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z []"
TUM_COLUMNS = "timestamp tx ty tz qx qy qz qw"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Poses over time. timestamps: (poses,) in seconds or frame numbers. world_from_cam: (poses, 4, 4), rigid.

    indices: (poses,) of the frames with these poses; None for a file, which does not store them.
    """

    timestamps: Array
    world_from_cam: Array
    indices: NDArray[np.int64] | None = None


def write_tum(reconstruction: ReconstructedMap, path: Path) -> None:
    """One row per frame with a pose: ``timestamp tx ty tz qx qy qz qw``, camera-to-world, qw >= 0.

    Raises OutputError if ``path`` cannot be written.
    """
    write_trajectory(rigid_trajectory(reconstruction), path, reconstruction.metric)


def rigid_trajectory(reconstruction: ReconstructedMap, *, by_index: bool = False) -> Trajectory:
    """The rigid poses of all frames that have one, over their timestamps or, with ``by_index``, over their indices."""
    poses = np.tile(np.eye(4), (len(reconstruction.posed), 1, 1))
    for pose, frame in zip(poses, reconstruction.posed, strict=True):
        pose[:3, :3], pose[:3, 3] = frame.world_from_cam.rotation, frame.world_from_cam.translation
    indices = np.array([frame.index for frame in reconstruction.posed], dtype=np.int64)
    times = indices if by_index else [frame.timestamp for frame in reconstruction.posed]
    return Trajectory(np.array(times, dtype=np.float64), poses, indices)


def write_trajectory(trajectory: Trajectory, path: Path, metric: Metric | None = None) -> None:
    """Write poses in the TUM format, with a comment if they are in metres.

    Raises OutputError if ``path`` cannot be written.
    """
    lines = [f"# {TUM_COLUMNS} (camera-to-world)", *([f"# {metric}"] if metric else [])]
    for time, pose in zip(trajectory.timestamps, trajectory.world_from_cam, strict=True):
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat(canonical=True)
        lines.append(f"{time:.9f} {_numbers([*pose[:3, 3], *quaternion])}")
    _write_lines(path, lines)


def write_kitti(reconstruction: ReconstructedMap, path: Path) -> None:
    """One row per frame with a pose: the upper (3, 4) of camera-to-world, row by row.

    The format has neither timestamps nor names: row i belongs to the i-th frame with a pose.
    Raises OutputError if ``path`` cannot be written.
    """
    poses = [frame.world_from_cam for frame in reconstruction.posed]
    _write_lines(path, [_numbers(np.column_stack([pose.rotation, pose.translation]).ravel()) for pose in poses])


def write_euroc(reconstruction: ReconstructedMap, path: Path) -> None:
    """One row per frame with a pose: time in nanoseconds, camera centre, quaternion w x y z with w >= 0.

    As ``state_groundtruth_estimate0/data.csv`` of EuRoC without velocities and biases; R is the map's world and S the
    camera. The format says metres: the unit of a map without ``recon scale`` is its own.
    Raises OutputError if ``path`` cannot be written.
    """
    trajectory = rigid_trajectory(reconstruction)
    lines = [EUROC_COLUMNS]
    for time, pose in zip(trajectory.timestamps, trajectory.world_from_cam, strict=True):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat(canonical=True)
        numbers = (f"{value:.12g}" for value in (*pose[:3, 3], w, x, y, z))
        lines.append(f"{round(time * 1e9)},{','.join(numbers)}")
    _write_lines(path, lines)


def read_tum(path: Path) -> Trajectory:
    """Read a TUM file: columns are separated by white space, lines that start with ``#`` are comments.

    Raises SourceError, naming file and line, for a missing file, a row of another width, a value that is not a finite
    number, a quaternion of length zero, and a file without rows. Quaternions are normalised.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SourceError(f"Cannot read the trajectory {path}: {reason}. Give a text file in TUM format.") from error
    lines = enumerate(text.splitlines(), start=1)
    rows = [_parse_row(path, number, line) for number, line in lines if line.strip() and not line.startswith("#")]
    if not rows:
        raise SourceError(f"{path} has no poses, expected rows of: {TUM_COLUMNS}")
    table = np.array(rows)
    return Trajectory(table[:, 0], tum_poses(table))


def tum_poses(rows: Array) -> Array:
    """world_from_cam (n, 4, 4) of the rows (n, 8) of a TUM file."""
    world_from_cam = np.tile(np.eye(4), (len(rows), 1, 1))
    world_from_cam[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    world_from_cam[:, :3, 3] = rows[:, 1:4]
    return world_from_cam


def _parse_row(path: Path, number: int, line: str) -> NDArray[np.float64]:
    words = line.split()
    if len(words) != 8:
        raise SourceError(f"{path}, line {number}: {len(words)} columns, expected 8: {TUM_COLUMNS}")
    try:
        row = np.array([float(word) for word in words])
    except ValueError as error:
        raise SourceError(f"{path}, line {number}: {error}, expected 8 numbers: {TUM_COLUMNS}") from error
    if not np.isfinite(row).all():
        raise SourceError(f"{path}, line {number}: not every number is finite, expected 8 numbers: {TUM_COLUMNS}")
    if np.linalg.norm(row[4:]) < 1e-6:
        raise SourceError(f"{path}, line {number}: the quaternion is zero, expected a rotation as qx qy qz qw")
    return row


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def _write_lines(path: Path, lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    write_atomically(path, lambda file: file.write(text.encode()))
