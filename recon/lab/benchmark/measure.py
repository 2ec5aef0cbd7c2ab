"""The results of each program, measured against the references."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.core.errors import ReconError
from recon.core.similarity import Sim3
from recon.core.types import Camera
from recon.evaluate.depth import CloudEvaluation, DepthEvaluation, evaluate_cloud, evaluate_depth, find_true_depth
from recon.evaluate.poses import compare
from recon.exports.trajectory import Trajectory, read_tum, rigid_trajectory
from recon.lab.benchmark.plain_colmap import MODELS, POSES
from recon.lab.benchmark.programs import Process, run_pipeline, run_plain_colmap
from recon.lab.benchmark.ring import Ring, measure_ring
from recon.lab.benchmark.sets import BenchmarkSet, Requirement
from recon.sources import SourceOptions, open_source
from recon.store import report
from recon.store.map import ReconstructedMap, open_map

MIN_RING = 3


@dataclass(frozen=True)
class PathError:
    """RMSE of the camera centres after Sim(3) alignment: in the reference's unit, and as a share of the reference's
    extent (diagonal of its bounding box) and of its path length. scale: from the map's lengths to the reference's."""

    ate: float
    of_extent: float
    of_path: float
    reference_from_world: Sim3


@dataclass(frozen=True)
class Findings:
    """The results of one run. models: number of frames in each of its models, the largest first; the other figures are
    those of the largest. notices: the program's messages to the user. A figure without a reference is None.
    """

    models: tuple[int, ...]
    path: PathError | None = None
    depth: DepthEvaluation | None = None
    cloud: CloudEvaluation | None = None
    ring: Ring | None = None
    notices: tuple[str, ...] = ()

    @property
    def posed(self) -> int:
        """Frames in the largest model."""
        return self.models[0] if self.models else 0


@dataclass(frozen=True)
class RunResult:
    """One run of one program. failure: why there are no findings: it failed, or its output cannot be measured."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    findings: Findings | None
    failure: str | None


@dataclass(frozen=True)
class SetResult:
    """A set with ``frames`` images, its runs with both programs, and the requirements that the pipeline misses, from
    the worst run.
    """

    name: str
    frames: int
    every: int
    pipeline: tuple[RunResult, ...]
    colmap: tuple[RunResult, ...]
    shortfalls: tuple[str, ...]


Measure = Callable[[BenchmarkSet, Path, Path], Findings]


def measure_set(
    member: BenchmarkSet, data: Path, out: Path, repeat: int = 1, tell: Callable[[str], None] = print
) -> SetResult:
    """Run both programs on a set in turn, ``repeat`` times, into ``out / name``, and measure their results. A program
    that fails is a result, not an error. Raises SourceError if the set's images are missing.
    """
    source = open_source(str(data / member.folder / member.source), SourceOptions(every=member.every))
    frames = source.description.frames
    pipeline, colmap = [], []
    for _ in range(repeat):
        tell(f"{member.name}: recon run, {frames} frames")
        folder = out / member.name / "recon"
        pipeline.append(_measured(run_pipeline(member, data, folder), measure_map, member, data, folder))
        tell(f"{member.name}: plain COLMAP, {frames} frames")
        folder = out / member.name / "colmap"
        colmap.append(_measured(run_plain_colmap(member, data, folder), measure_colmap, member, data, folder))
    short = [sentence for run in pipeline for sentence in shortfalls(member.requirement, frames, run)]
    return SetResult(member.name, frames, member.every, tuple(pipeline), tuple(colmap), tuple(dict.fromkeys(short)))


def _measured(process: Process, measure: Measure, member: BenchmarkSet, data: Path, folder: Path) -> RunResult:
    findings, failure = None, process.failure
    if failure is None:
        try:
            findings = measure(member, data, folder)
        except ReconError as error:
            failure = str(error)
    return RunResult(process.seconds, process.processor_seconds, process.peak_bytes, findings, failure)


def measure_map(member: BenchmarkSet, data: Path, folder: Path) -> Findings:
    """Measure the run of the pipeline in ``folder``. Raises ReconError if something cannot be read."""
    reconstruction, run = open_map(folder), report.read(folder / "report.json")
    poses = rigid_trajectory(reconstruction, by_index=True)
    path = _path_error(member, data, poses)
    depth, cloud = _surface(member, data, reconstruction, path)
    return Findings((len(poses.timestamps),), path, depth, cloud, _ring(member, poses), run.notices)


def measure_colmap(member: BenchmarkSet, data: Path, folder: Path) -> Findings:
    """Measure plain COLMAP's output in ``folder``."""
    models = tuple(json.loads((folder / MODELS).read_text()))
    if not models:
        return Findings(models)
    poses = read_tum(folder / POSES)
    return Findings(models, _path_error(member, data, poses), ring=_ring(member, poses))


def shortfalls(requirement: Requirement, frames: int, run: RunResult) -> Iterator[str]:
    """A sentence for every requirement that a run misses."""
    found = run.findings
    if found is None:
        yield str(run.failure)
        return
    path, depth, cloud = found.path, found.depth, found.cloud
    if requirement.posed is not None and found.posed < requirement.posed * frames:
        yield f"{found.posed} of {frames} frames posed, at least {requirement.posed:.0%} expected"
    if requirement.depth_kept is not None and (depth is None or depth.kept < requirement.depth_kept):
        yield f"depth kept {_share(depth.kept if depth else None)}, at least {requirement.depth_kept:.0%} expected"
    if requirement.ring and not _keeps_the_ring(found, frames):
        yield "the cameras do not go once around, steadily"
    for name, limit, value in (
        ("ATE / extent", requirement.of_extent, path.of_extent if path else None),
        ("ATE / path", requirement.of_path, path.of_path if path else None),
        ("depth error", requirement.depth_error, depth.median_error if depth else None),
        ("cloud to surface", requirement.cloud, cloud.share if cloud else None),
    ):
        if limit is not None and (value is None or value > limit):
            yield f"{name} {_share(value)}, at most {limit:.2%} expected"
    if requirement.ate is not None and (path is None or path.ate > requirement.ate):
        yield f"ATE {f'{path.ate:.4g}' if path else 'not measured'}, at most {requirement.ate:g} expected"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2%}"


def _keeps_the_ring(found: Findings, frames: int) -> bool:
    """Whether the walk is complete or, if uncertain frames are left out, the rest is not folded."""
    if found.ring is None:
        return False
    return found.ring.once_around or (found.posed < frames and not found.ring.folded)


def _path_error(member: BenchmarkSet, data: Path, poses: Trajectory) -> PathError | None:
    if member.reference is None:
        return None
    found = compare(poses, read_tum(data / member.folder / member.reference))
    return PathError(
        found.ate_rmse,
        found.ate_rmse / found.extent,
        found.ate_rmse / found.path_length,
        found.reference_from_estimated,
    )


def _surface(
    member: BenchmarkSet, data: Path, reconstruction: ReconstructedMap, path: PathError | None
) -> tuple[DepthEvaluation | None, CloudEvaluation | None]:
    if not member.depth or member.reference is None or path is None:
        return None, None
    folder, alignment = data / member.folder, path.reference_from_world
    truth = find_true_depth(folder / "depth")
    fx, fy, cx, cy = np.loadtxt(folder / "intrinsics.txt").tolist()[:4]
    camera = reconstruction.frames[0].camera
    lens = Camera("PINHOLE", camera.width, camera.height, (fx, fy, cx, cy))
    reference = read_tum(folder / member.reference)
    cloud = evaluate_cloud(reconstruction.folder / "cloud.ply", truth, reference, lens, alignment)
    return evaluate_depth(reconstruction, truth, alignment), cloud


def _ring(member: BenchmarkSet, poses: Trajectory) -> Ring | None:
    if not member.requirement.ring or len(poses.timestamps) < MIN_RING:
        return None
    return measure_ring([int(time) for time in poses.timestamps], poses.world_from_cam)
