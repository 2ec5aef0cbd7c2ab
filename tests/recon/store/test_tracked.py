"""``tracked.csv``: what it keeps, what a resumed run forgets, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import SourceError
from recon.core.events import FrameTracked
from recon.store.tracked import NAME, TrackedFile, forget_tracked, read_tracked


def track(folder: Path, indices: range, along: float) -> None:
    file = TrackedFile(folder)
    for index in indices:
        pose = np.eye(4)
        pose[0, 3] = along * index
        file.add(FrameTracked(index, 0.1 * index, "tracking", pose, None, 99, 0, 0.01, 20.0))
    file.close()


def test_a_resumed_run_forgets_the_frames_whose_numbers_it_gives_to_others(tmp_path: Path) -> None:
    track(tmp_path, range(6), 1.0)
    forget_tracked(tmp_path, 4)
    assert list(read_tracked(tmp_path).timestamps) == [0, 1, 2, 3]
    track(tmp_path, range(4, 5), 7.0)
    found = read_tracked(tmp_path).pieces[0]
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert found.world_from_cam[:, 0, 3].tolist() == [0, 1, 2, 3, 28]
    forget_tracked(tmp_path, 5)
    assert list(read_tracked(tmp_path).timestamps) == [0, 1, 2, 3, 4]
    forget_tracked(tmp_path / "none", 0)


def test_the_last_row_of_a_frame_counts(tmp_path: Path) -> None:
    track(tmp_path, range(3), 1.0)
    track(tmp_path, range(1, 2), 5.0)
    assert read_tracked(tmp_path).pieces[0].world_from_cam[:, 0, 3].tolist() == [0, 5, 2]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("frame", "-5"),
        ("frame", "9" * 25),
        ("time", "inf"),
        ("piece", "inf"),
        ("piece", ""),
        ("tx", "inf"),
        ("ty", ""),
        ("qw", "0"),
        ("qw", "x" * 200_000),
    ],
)
def test_damage_is_one_sentence(column: str, value: str, tmp_path: Path) -> None:
    track(tmp_path, range(4), 1.0)
    lines = (tmp_path / NAME).read_text().splitlines()
    row = lines[2].split(",")
    row[lines[0].split(",").index(column)] = value
    (tmp_path / NAME).write_text("\n".join([*lines[:2], ",".join(row), *lines[3:], ""]))
    with pytest.raises(SourceError, match=r"tracked\.csv is damaged"):
        read_tracked(tmp_path)
