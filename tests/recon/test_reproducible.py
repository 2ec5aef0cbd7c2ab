"""The same input gives the same map, to the last bit, whatever the number of processors."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from recon.core.bundled import sample_folder

pytestmark = pytest.mark.slow
FILES = ("poses.txt", "cloud.ply", "colmap/sparse/0/cameras.bin", "colmap/sparse/0/points3D.bin")


def run_on(processors: set[int], out: Path) -> None:
    """Map 32 frames, enough for COLMAP to use several threads if it may."""
    command = [sys.executable, "-m", "cli", "run", str(sample_folder() / "images"), "--out", str(out)]
    command += ["--viewer", "none", "--max-frames", "32"]
    subprocess.run(command, check=True, preexec_fn=partial(os.sched_setaffinity, 0, processors))


def test_one_processor_gives_the_map_that_two_give(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        pytest.skip("needs Linux and two processors")
    for name, count in (("one", 1), ("two", 2)):
        run_on(set(allowed[:count]), tmp_path / name)
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
