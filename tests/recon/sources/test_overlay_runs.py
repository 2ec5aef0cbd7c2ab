"""Whole runs on pictures with an overlay, and on flat ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.map import open_map
from tests.cases import overlays
from tests.cases.__main__ import centre_error

SETTINGS = RunSettings(SourceOptions(size=320), depth="classical", refine="none")


def test_a_clock_in_the_picture_moves_no_pose_and_gets_no_depth(tmp_path: Path) -> None:
    made = overlays.drawn_over(overlays.with_clock, 13)(tmp_path / "in")
    found = reconstruct(str(made.source), tmp_path / "out", SETTINGS)
    assert found.frames_placed == 13
    assert [notice for notice in found.notices if "is left out of the map" in notice] == [found.notices[0]]
    opened = open_map(tmp_path / "out")
    error = centre_error(opened, made)
    assert error is not None
    assert error < 0.02
    for _, geometry in opened.geometry():
        assert np.mean(geometry.depth[226:234, 152:243] > 0) < 0.02  # the area of the clock without its seconds
        assert np.mean(geometry.depth[40:200] > 0) > 0.3


def test_flat_ground_seen_from_above_is_placed(tmp_path: Path) -> None:
    made = overlays.flat_ground(tmp_path / "in", count=9, size=320)
    found = reconstruct(str(made.source), tmp_path / "out", SETTINGS)
    assert found.frames_placed == 9
    error = centre_error(open_map(tmp_path / "out"), made)
    assert error is not None
    assert error < 0.2  # of 10 m
