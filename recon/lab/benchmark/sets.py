"""The sequences of the benchmark, and the requirements for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon.core.bundled import sample_folder
from recon.core.errors import SettingsError

Matching = Literal["sequential", "exhaustive"]


@dataclass(frozen=True)
class Requirement:
    """Limits that a run must keep; None for no limit.

    posed: smallest share of frames. ate: largest RMSE after Sim(3) alignment, in the reference's unit; of_extent,
    of_path: the same as a share. depth_error: largest median relative error, depth_kept: smallest share of pixels.
    cloud: largest median distance from the true surface as a share of scene size. ring: the cameras move once around an
    object, steadily; uncertain parts may be kept apart.
    """

    posed: float | None = 1.0
    ate: float | None = None
    of_extent: float | None = None
    of_path: float | None = None
    depth_error: float | None = None
    depth_kept: float | None = None
    cloud: float | None = None
    ring: bool = False


@dataclass(frozen=True)
class BenchmarkSet:
    """One sequence in ``folder``, which is relative to the data folder.

    source: folder or video with the frames. every: use one frame in this many. matching: how plain COLMAP pairs
    the images: each with the 20 before it, or all with all. reference: poses whose timestamps are frame indices.
    depth: whether ``depth`` holds true depth in millimetres and ``intrinsics.txt`` the true lens.
    """

    name: str
    folder: Path
    requirement: Requirement
    matching: Matching = "sequential"
    source: str = "images"
    every: int = 1
    reference: str | None = "poses.txt"
    depth: bool = False


SETS = (
    BenchmarkSet("sample", sample_folder(), Requirement(of_path=0.005, cloud=0.02), depth=True),
    BenchmarkSet(
        "seven-scenes",
        Path("seven-scenes"),
        Requirement(posed=0.95, ate=0.06, depth_error=0.08, depth_kept=0.40),
        depth=True,
    ),
    BenchmarkSet("hololens-000", Path("hololens-000"), Requirement(posed=0.95, ate=0.12), depth=True),
    BenchmarkSet("castle-P30", Path("strecha/castle-P30"), Requirement(of_extent=0.005), "exhaustive"),
    BenchmarkSet("entry-P10", Path("strecha/entry-P10"), Requirement(of_extent=0.005), "exhaustive"),
    BenchmarkSet("kitti03", Path("kitti03"), Requirement(ate=2.0), every=2),
    BenchmarkSet("fox", Path("fox"), Requirement(of_extent=0.01), "exhaustive"),
    BenchmarkSet("sceaux", Path("sceaux"), Requirement(of_extent=0.01), "exhaustive"),
    BenchmarkSet(
        "great_wall", Path("videos"), Requirement(), source="great_wall.mp4", every=6, reference="great_wall-poses.txt"
    ),
    BenchmarkSet("dup-cup", Path("dup-cup"), Requirement(posed=None, ring=True), "exhaustive", reference=None),
)


def chosen_sets(names: str | None) -> tuple[BenchmarkSet, ...]:
    """The sets named in a list such as ``fox,sceaux``; all without a list. Raises SettingsError for an unknown name."""
    if names is None:
        return SETS
    by_name = {member.name: member for member in SETS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in by_name:
            raise SettingsError(f"--sets: there is no set {name}. Sets: {', '.join(by_name)}.")
    return tuple(by_name[name] for name in dict.fromkeys(wanted))
