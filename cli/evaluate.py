"""``recon eval``: measures a run against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import Folder, calibrated_camera
from cli.text import Row, print_rows
from recon.core.errors import SettingsError, SourceError

if TYPE_CHECKING:
    from recon.core.similarity import Sim3
    from recon.evaluate.depth import CloudEvaluation, DepthEvaluation, TrueDepth
    from recon.evaluate.poses import Evaluation
    from recon.exports.trajectory import Trajectory
    from recon.store.tracked import TrackedRun


def evaluate(
    folder: Folder,
    *,
    reference: Annotated[Path, typer.Option(metavar="POSES", help="Reference poses in TUM format.")],
    by: Annotated[
        Literal["time", "frame"], typer.Option(help="First column of the reference: timestamps or frame numbers.")
    ] = "time",
    at_capture: Annotated[
        bool, typer.Option("--at-capture", help="Compare the poses that a live run gave at capture.")
    ] = False,
    align: Annotated[
        Literal["sim3", "se3"], typer.Option(help="Alignment with scale (sim3) or without (se3).")
    ] = "sim3",
    depth: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="True depth: 16-bit PNG files named by frame index.")
    ] = None,
    depth_scale: Annotated[float, typer.Option(help="Stored value per unit of length.")] = 1000.0,
    intrinsics: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS|FILE", help="True calibration, as for run; measures the cloud, needs --depth."),
    ] = None,
    loops: Annotated[
        bool, typer.Option("--loops", help="Also evaluate loops and plot precision and recall in DIR.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PNG", help="File for the error plot.  [default: DIR/evaluation.png]")
    ] = None,
) -> None:
    """Compare a run's poses, depth and cloud with a reference."""
    from recon.evaluate import poses as evaluation
    from recon.evaluate.depth import find_true_depth
    from recon.exports.trajectory import read_tum

    if depth is None and intrinsics is not None:
        raise SettingsError("--intrinsics measures the cloud against true depth: add --depth.")
    true_poses = read_tum(reference)
    if at_capture and (depth is not None or loops):
        raise SettingsError("--depth and --loops measure the finished map: omit --at-capture.")
    said = _said_at_capture(folder) if at_capture else None
    estimate = _of_pieces(said, by)[0] if said else _estimate(folder, by)
    poses = evaluation.compare(estimate, true_poses, align, names=(str(folder), str(reference)))
    rows = _trajectory_rows(poses)
    if said:
        rows += _capture_rows(said) + _piece_rows(_of_pieces(said, by)[1:], true_poses, align)
    if depth is not None:
        truth = find_true_depth(depth, depth_scale)
        rows += _surface_rows(folder, truth, poses.reference_from_estimated, reference, intrinsics)
    if loops:
        rows += _loop_rows(folder, by, true_poses, poses.reference_from_estimated.scale)
    print_rows(f"Errors after {align.upper()} alignment, lengths in the reference's unit", rows)
    picture = plot or folder / "evaluation.png"
    evaluation.plot(poses, picture)
    width = max(len(label) for label, _ in rows)
    typer.echo(f"  {'plot':<{width}}  {picture}")


def _estimate(folder: Path, by: Literal["time", "frame"]) -> Trajectory:
    from recon.exports.trajectory import read_tum, rigid_trajectory
    from recon.store.map import open_map

    if by == "time":
        return read_tum(folder / "poses.txt")
    return rigid_trajectory(open_map(folder), by_index=True)


def _said_at_capture(folder: Path) -> TrackedRun:
    from recon.store.tracked import NAME, read_tracked

    said = read_tracked(folder)
    if not said.pieces:
        raise SourceError(f"{folder / NAME} holds no pose: no frame was tracked.")
    return said


def _of_pieces(said: TrackedRun, by: Literal["time", "frame"]) -> list[Trajectory]:
    """What was said at capture in each piece of the map; the one with the most poses first."""
    from recon.exports.trajectory import Trajectory

    times = [one.timestamps if by == "time" else one.indices.astype(float) for one in said.pieces.values()]
    return [Trajectory(t, p.world_from_cam, p.indices) for t, p in zip(times, said.pieces.values(), strict=True)]


def _capture_rows(said: TrackedRun) -> list[Row]:
    """How many images have a pose, and how soon."""
    import numpy as np

    posed = sum(len(one.indices) for one in said.pieces.values())
    rows = [
        ("with a pose", f"{posed} of {len(said.milliseconds)} images, the first after {said.first_pose:.1f} s"),
        ("image to pose", "{:.0f} ms (95%: {:.0f})".format(*np.percentile(said.milliseconds, [50, 95]))),
    ]
    if not len(said.map_milliseconds):
        return rows
    figures = "{:.0f} ms (95%: {:.0f})".format(*np.percentile(said.map_milliseconds, [50, 95]))
    return [*rows, ("keyframe to map", f"{figures}, {len(said.map_milliseconds)} keyframes of the local map")]


def _piece_rows(pieces: list[Trajectory], reference: Trajectory, align: Literal["sim3", "se3"]) -> list[Row]:
    """The other pieces of the map, each with its own alignment."""
    from recon.evaluate import poses as evaluation

    rows = []
    for piece in pieces:
        try:
            error = f"ATE RMSE {evaluation.compare(piece, reference, align).ate_rmse:.4g}"
        except SourceError:
            error = "cannot be compared"
        rows.append(("another piece", f"{len(piece.timestamps)} poses, {error}"))
    return rows


def _loop_rows(folder: Path, by: Literal["time", "frame"], reference: Trajectory, scale: float) -> list[Row]:
    """Evaluate the loops of the run and plot them."""
    from recon.evaluate.loops import evaluate_loops, plot_loops, reference_by_frame
    from recon.store.map import open_map
    from recon.store.report import read

    reconstruction = open_map(folder)
    true_poses = reference_by_frame(reconstruction, reference, by_index=by == "frame")
    result = evaluate_loops(reconstruction, read(folder / "report.json").loops, true_poses, scale)
    plot_loops(result, folder / "loops.png")
    return [
        ("loop candidates", str(result.candidates)),
        ("loops accepted", f"{result.accepted}, {result.right} of them right (precision {result.precision:.1%})"),
        ("revisits found", f"{result.recall:.1%} of {result.revisits} pairs of frames"),
        ("loop curves", str(folder / "loops.png")),
    ]


def _surface_rows(
    folder: Path, truth: TrueDepth, reference_from_world: Sim3, reference: Path, intrinsics: str | None
) -> list[Row]:
    """Measure the depth maps, and the cloud if the true lens is known."""
    from recon.evaluate.depth import evaluate_cloud, evaluate_depth
    from recon.exports.trajectory import read_tum
    from recon.store.map import open_map

    reconstruction = open_map(folder)
    rows = _depth_rows(evaluate_depth(reconstruction, truth, reference_from_world))
    if intrinsics is None:
        return rows
    sizes = list(dict.fromkeys((frame.camera.width, frame.camera.height) for frame in reconstruction.frames))
    lens = calibrated_camera(intrinsics, None, sizes)
    cloud = evaluate_cloud(folder / "cloud.ply", truth, read_tum(reference), lens, reference_from_world)
    return rows + _cloud_rows(cloud)


def _trajectory_rows(result: Evaluation) -> list[Row]:
    return [
        ("matched poses", f"{result.matched} of {result.reference_rows}"),
        ("ATE RMSE", f"{result.ate_rmse:.4g}"),
        ("ATE median", f"{result.ate_median:.4g}"),
        ("ATE max", f"{result.ate_max:.4g}"),
        ("RPE translation RMSE", f"{result.rpe_translation_rmse:.4g} per pose"),
        ("RPE rotation RMSE", f"{result.rpe_rotation_rmse_deg:.4g} degrees per pose"),
        ("scale", f"{result.reference_from_estimated.scale:.6g}"),
        ("ATE / extent", f"{result.ate_rmse / result.extent:.3%} of {result.extent:.4g}"),
        ("ATE / path length", f"{result.ate_rmse / result.path_length:.3%} of {result.path_length:.4g}"),
    ]


def _depth_rows(depth: DepthEvaluation) -> list[Row]:
    return [
        ("depth images", str(depth.frames)),
        ("depth error", f"{depth.median_error:.2%} of the depth (median)"),
        ("with frames scaled", f"{depth.median_error_frame_scaled:.2%} of the depth (median)"),
        ("depth kept", f"{depth.kept:.1%} of the pixels with true depth"),
    ]


def _cloud_rows(cloud: CloudEvaluation) -> list[Row]:
    figures = f"{cloud.median_distance:.4g} (median), {cloud.share:.2%} of the scene's {cloud.scene_size:.4g}"
    return [("cloud to surface", figures)]
