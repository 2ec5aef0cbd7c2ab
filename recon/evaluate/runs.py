"""Two runs side by side: what was set, what came out, what it cost, and how far their cameras lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.errors import SourceError
from recon.core.quantities import duration, size
from recon.evaluate.poses import compare
from recon.exports.trajectory import Trajectory
from recon.store.map import ReconstructedMap, open_map
from recon.store.report import RunReport, read

Row = tuple[str, str, str]  # what, and its value in the first and in the second run
NOTABLE = 0.01  # of the processor time of either run; stages with less are left out


def compare_runs(first: Path, second: Path) -> tuple[list[Row], str]:
    """The rows of a table about two runs, and a sentence about how far their cameras lie apart.

    Raises MapError if a map or a report.json is missing or damaged.
    """
    maps = open_map(first), open_map(second)
    reports = read(first / "report.json"), read(second / "report.json")
    return [*_settings(*reports), *_results(*reports), *_stages(*reports)], _apart(*maps)


def _settings(first: RunReport, second: RunReport) -> Iterator[Row]:
    if first.source != second.source:
        yield "source", first.source, second.source
    was, now = (dict(_flat(asdict(one.settings))) for one in (first, second))
    for name in dict.fromkeys((*was, *now)):
        values = tuple("" if one.get(name) is None else str(one[name]) for one in (was, now))
        if values[0] != values[1] and name not in ("overwrite", "resume"):
            yield name, values[0], values[1]


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _results(first: RunReport, second: RunReport) -> Iterator[Row]:
    told: dict[str, Callable[[RunReport], str]] = {
        "placed": lambda one: f"{one.frames_placed} of {one.frames_read}",
        "between them": lambda one: f"{one.passed_over_placed} of {one.passed_over}" if one.passed_over else "",
        "loops": lambda one: f"{sum(loop.verdict == 'accepted' for loop in one.loops)} of {len(one.loops)}",
        "doubts": lambda one: "; ".join(one.suspicions) or "none",
        "doubtful parts": lambda one: f"{sum(bool(chunk.warnings) for chunk in one.chunks)} of {len(one.chunks)}",
        "time": lambda one: duration(one.seconds),
        "processor time": lambda one: duration(one.processor_seconds),
        "peak memory": lambda one: size(one.peak_memory_bytes),
    }
    for what, tell in told.items():
        values = tell(first), tell(second)
        if any(values):
            yield what, values[0], values[1]


def _stages(first: RunReport, second: RunReport) -> Iterator[Row]:
    """Processor seconds by stage, in the order of the first run."""
    took = [{stage.name: stage.processor_seconds for stage in one.stages} for one in (first, second)]
    for name in dict.fromkeys((*took[0], *took[1])):
        was, now = (one.get(name, 0.0) for one in took)
        if was > NOTABLE * first.processor_seconds or now > NOTABLE * second.processor_seconds:
            yield f"  {name}", f"{was:.1f} s", f"{now:.1f} s"


def _apart(first: ReconstructedMap, second: ReconstructedMap) -> str:
    """The distance of the cameras of frames with the same name, after the best similarity."""
    poses = [{frame.name: frame.world_from_cam for frame in one.posed} for one in (first, second)]
    shared = [name for name in poses[0] if name in poses[1]]
    trajectories = []
    for own in poses:
        matrices = np.tile(np.eye(4), (len(shared), 1, 1))
        for matrix, name in zip(matrices, shared, strict=True):
            matrix[:3, :3], matrix[:3, 3] = own[name].rotation, own[name].translation
        trajectories.append(Trajectory(np.arange(len(shared), dtype=np.float64), matrices))
    names = str(first.folder), str(second.folder)
    try:
        found = compare(trajectories[1], trajectories[0], names=names)
    except (SourceError, ValueError):
        return f"The poses cannot be compared: the runs share {len(shared)} images by name, too few or all on a line."
    scale = found.reference_from_estimated.scale
    return (
        f"{len(shared)} images by name have a pose in both. After the best similarity, of scale {scale:.4g}, their "
        f"cameras lie {found.ate_rmse / found.extent:.3%} of the extent of the first run apart (RMSE; at most "
        f"{found.ate_max / found.extent:.3%})."
    )
