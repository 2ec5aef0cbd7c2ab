"""How far estimated camera poses are from reference poses, computed by evo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from evo import EvoException
from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType
from evo.core.sync import matching_time_indices
from evo.core.trajectory import PoseTrajectory3D

from recon.core.errors import SourceError
from recon.core.files import write_atomically
from recon.core.similarity import Array, Sim3
from recon.exports.trajectory import Trajectory, read_tum

MIN_MATCHES = 3
MAX_TIME_DIFFERENCE = 0.01
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
    pairs = matching_time_indices(estimated.timestamps, reference.timestamps, max_time_difference)
    if len(pairs[0]) < MIN_MATCHES:
        raise SourceError(
            f"{len(pairs[0])} rows of {names[0]} (time {_time_range(estimated)}) match {names[1]} "
            f"(time {_time_range(reference)}) within {max_time_difference:g} s, expected at least {MIN_MATCHES}. "
            "Use the same clock for both, and a reference of the same frames."
        )
    matched_estimated = _evo_trajectory(estimated, pairs[0])
    matched_reference = _evo_trajectory(reference, pairs[1])
    try:
        rotation, translation, scale = matched_estimated.align(matched_reference, correct_scale=align == "sim3")
    except EvoException as error:
        raise SourceError(
            f"{names[0]} and {names[1]} cannot be aligned: the camera centres of one lie on a line or coincide."
        ) from error
    alignment = Sim3(scale, rotation, translation)
    return _measure(matched_estimated, matched_reference, _evo_trajectory(reference), alignment)


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


def _measure(
    estimated: PoseTrajectory3D, reference: PoseTrajectory3D, whole_reference: PoseTrajectory3D, alignment: Sim3
) -> Evaluation:
    absolute = APE(PoseRelation.translation_part)
    step_translation = RPE(PoseRelation.translation_part)
    step_rotation = RPE(PoseRelation.rotation_angle_deg)
    for metric in (absolute, step_translation, step_rotation):
        metric.process_data((reference, estimated))
    return Evaluation(
        matched=estimated.num_poses,
        reference_rows=whole_reference.num_poses,
        ate_rmse=absolute.get_statistic(StatisticsType.rmse),
        ate_median=absolute.get_statistic(StatisticsType.median),
        ate_max=absolute.get_statistic(StatisticsType.max),
        rpe_translation_rmse=step_translation.get_statistic(StatisticsType.rmse),
        rpe_rotation_rmse_deg=step_rotation.get_statistic(StatisticsType.rmse),
        reference_from_estimated=alignment,
        extent=float(np.linalg.norm(np.ptp(whole_reference.positions_xyz, axis=0))),
        path_length=float(whole_reference.path_length),
        timestamps=np.asarray(estimated.timestamps),
        errors=np.asarray(absolute.error),
        estimated=np.asarray(estimated.positions_xyz),
        reference=np.asarray(reference.positions_xyz),
    )


def _evo_trajectory(trajectory: Trajectory, rows: list[int] | None = None) -> PoseTrajectory3D:
    kept = slice(None) if rows is None else rows
    return PoseTrajectory3D(poses_se3=list(trajectory.world_from_cam[kept]), timestamps=trajectory.timestamps[kept])


def _time_range(trajectory: Trajectory) -> str:
    return f"{trajectory.timestamps.min():g} to {trajectory.timestamps.max():g}"
