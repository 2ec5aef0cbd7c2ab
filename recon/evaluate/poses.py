"""How far estimated camera poses are from reference poses: absolute and relative errors (Sturm et al. 2012)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.errors import SourceError
from recon.core.files import write_atomically
from recon.core.similarity import Array, Sim3
from recon.exports.trajectory import Trajectory, read_tum
from recon.mapping.alignment import fit_similarity

MIN_MATCHES = 3
MAX_TIME_DIFFERENCE = 0.01
FARTHEST, NEAREST = 1e100, 1e-100  # beyond these, squares leave the range of numbers
Alignment = Literal["sim3", "se3"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Errors of an estimated trajectory after alignment; lengths are in the unit of the reference.

    matched, reference_rows: rows compared, and rows in the reference. ate_*: distance between aligned camera centres.
    rpe_translation_rmse, rpe_rotation_rmse_deg: error of the motion from one matched row to the next.
    reference_from_estimated: the alignment, of scale 1 for SE(3). extent: diagonal of the bounding box of the whole
    reference; path_length: its length. timestamps, errors: (matched,). estimated, reference: (matched, 3) camera
    centres, both in the reference's frame.
    """

    matched: int
    reference_rows: int
    ate_rmse: float
    ate_median: float
    ate_max: float
    rpe_translation_rmse: float
    rpe_rotation_rmse_deg: float
    reference_from_estimated: Sim3
    extent: float
    path_length: float
    timestamps: Array
    errors: Array
    estimated: Array
    reference: Array


def evaluate(
    estimated: Path, reference: Path, align: Alignment = "sim3", max_time_difference: float = MAX_TIME_DIFFERENCE
) -> Evaluation:
    """``compare`` for two TUM files. Raises SourceError, also if a file cannot be read."""
    names = str(estimated), str(reference)
    return compare(read_tum(estimated), read_tum(reference), align, max_time_difference, names)


def compare(
    estimated: Trajectory,
    reference: Trajectory,
    align: Alignment = "sim3",
    max_time_difference: float = MAX_TIME_DIFFERENCE,
    names: tuple[str, str] = ("the estimate", "the reference"),
) -> Evaluation:
    """Compare poses at equal timestamps, after a least squares alignment of the camera centres.

    Rows match if their timestamps differ by at most ``max_time_difference``. names: of both, for error messages.
    Raises SourceError if fewer than 3 rows match, or the centres are collinear or coincide.
    """
    for trajectory, name in ((estimated, names[0]), (reference, names[1])):
        if not np.abs(trajectory.world_from_cam).max() < FARTHEST:
            raise SourceError(f"{name} has a coordinate of {FARTHEST:g} or more. Use another unit.")
    rows, reference_rows = matching_rows(estimated.timestamps, reference.timestamps, max_time_difference)
    if len(rows) < MIN_MATCHES:
        raise SourceError(
            f"{len(rows)} rows of {names[0]} (time {_time_range(estimated)}) match {names[1]} "
            f"(time {_time_range(reference)}) within {max_time_difference:g} s, expected at least {MIN_MATCHES}. "
            "Use the same clock for both, and a reference of the same frames."
        )
    poses, true_poses = estimated.world_from_cam[rows], reference.world_from_cam[reference_rows]
    if min(_dimensions(poses[:, :3, 3]), _dimensions(true_poses[:, :3, 3])) < 2:
        raise SourceError(
            f"{names[0]} and {names[1]} cannot be aligned: the camera centres of one lie on a line or coincide."
        )
    alignment = _align(poses[:, :3, 3], true_poses[:, :3, 3], align)
    aligned = poses.copy()
    aligned[:, :3, :3] = alignment.rotation @ poses[:, :3, :3]
    aligned[:, :3, 3] = alignment.apply(poses[:, :3, 3])
    return _measure(estimated.timestamps[rows], aligned, true_poses, reference.world_from_cam[:, :3, 3], alignment)


def matching_rows(
    first: Array, second: Array, max_difference: float = MAX_TIME_DIFFERENCE
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the timestamps (n,) and (m,) that match: for each of the fewer ones, the nearest of the others.

    None matches one that differs by more than ``max_difference``.
    """
    if len(second) < len(first):
        others, rows = matching_rows(second, first, max_difference)
        return rows, others
    order = np.argsort(second, kind="stable")
    after = np.searchsorted(second[order], first)
    around = order[np.clip([after - 1, after], 0, len(second) - 1)]
    differences = np.abs(second[around] - first)
    nearest = np.where(differences[1] < differences[0], around[1], around[0])
    rows = np.flatnonzero(differences.min(axis=0) <= max_difference)
    return rows, nearest[rows]


def plot(evaluation: Evaluation, path: Path) -> None:
    """Plot both paths, viewed along the narrowest axis of the reference, and the error over time, as a PNG.

    Raises OutputError if ``path`` cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes half a second, needed for plots only

    widest = np.sort(np.argsort(np.ptp(evaluation.reference, axis=0))[1:])
    figure = Figure(figsize=(12, 5), layout="constrained")
    paths, errors = figure.subplots(1, 2)
    paths.plot(*evaluation.reference[:, widest].T, color="0.6", label="reference")
    paths.plot(*evaluation.estimated[:, widest].T, color="tab:blue", label="estimated, aligned")
    paths.set(xlabel="xyz"[widest[0]], ylabel="xyz"[widest[1]], title=f"{evaluation.matched} matched poses")
    paths.set_aspect("equal", adjustable="datalim")
    paths.legend()
    errors.plot(evaluation.timestamps, evaluation.errors, color="tab:blue")
    errors.axhline(evaluation.ate_rmse, color="0.6", label=f"RMSE {evaluation.ate_rmse:.4g}")
    errors.set(
        xlabel="timestamp", ylabel="distance to the reference", ylim=(0, None), title="Absolute trajectory error"
    )
    errors.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def _dimensions(centres: Array) -> int:
    """Of the space that camera centres (n, 3) span: 0 for a point, 1 for a line."""
    tolerance = max(1e-9 * float(np.abs(centres).max()), NEAREST)
    return int(np.linalg.matrix_rank(centres - centres.mean(axis=0), tol=tolerance))


def _align(centres: Array, reference: Array, align: Alignment) -> Sim3:
    """The least squares alignment of camera centres (n, 3) with those of the reference."""
    similarity = fit_similarity(centres, reference, np.ones(len(centres)))
    if align == "sim3":
        return similarity
    rotation = similarity.rotation
    return Sim3(1.0, rotation, reference.mean(axis=0) - rotation @ centres.mean(axis=0))


def _measure(
    timestamps: Array, estimated: Array, reference: Array, whole_reference: Array, alignment: Sim3
) -> Evaluation:
    """estimated, reference: matched world_from_cam (n, 4, 4). whole_reference: all of its centres (m, 3)."""
    errors = np.linalg.norm(estimated[:, :3, 3] - reference[:, :3, 3], axis=1)
    steps = np.linalg.inv(_motions(reference)) @ _motions(estimated)
    turns_deg = np.degrees(Rotation.from_matrix(steps[:, :3, :3]).magnitude())
    return Evaluation(
        matched=len(estimated),
        reference_rows=len(whole_reference),
        ate_rmse=_rms(errors),
        ate_median=float(np.median(errors)),
        ate_max=float(errors.max()),
        rpe_translation_rmse=_rms(np.linalg.norm(steps[:, :3, 3], axis=1)),
        rpe_rotation_rmse_deg=_rms(turns_deg),
        reference_from_estimated=alignment,
        extent=float(np.linalg.norm(np.ptp(whole_reference, axis=0))),
        path_length=float(np.linalg.norm(np.diff(whole_reference, axis=0), axis=1).sum()),
        timestamps=timestamps,
        errors=errors,
        estimated=estimated[:, :3, 3],
        reference=reference[:, :3, 3],
    )


def _motions(world_from_cam: Array) -> Array:
    """The motion (n - 1, 4, 4) from each pose to the next."""
    return np.asarray(np.linalg.inv(world_from_cam[:-1]) @ world_from_cam[1:])


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _time_range(trajectory: Trajectory) -> str:
    return f"{trajectory.timestamps.min():g} to {trajectory.timestamps.max():g}"
