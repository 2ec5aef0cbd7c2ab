"""Evaluation on real sequences, here the bundled sample, and the resulting figures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recon.core.errors import ReconError
from recon.depth.learned import LearnedSweep
from recon.depth.plane_sweep import PlaneSweep
from recon.lab.training.evaluate import Outcome, constant_depth, measure, table
from recon.lab.training.real import MeasuredSet, MeasuredViews, read_chunk
from tests.recon.depth.test_network import tiny_net

SAMPLE = Path(__file__).parents[4] / "data" / "sample"


@pytest.fixture(scope="module")
def measured() -> MeasuredViews:
    return read_chunk(SAMPLE, MeasuredSet("sample", step=2), count=5, longest_side=160)


def test_points_are_triangulated_where_the_true_depth_is(measured: MeasuredViews) -> None:
    assert [view.index for view in measured.views] == [0, 2, 4, 6, 8]
    assert sorted(measured.depth) == [0, 6]
    for view in measured.views:
        if view.index in measured.depth:
            columns, rows = np.floor(view.sparse[:, :2]).astype(int).T
            true = measured.depth[view.index][rows, columns]
            assert len(true) > 30
            assert np.median(np.abs(view.sparse[:, 2] / true - 1)) < 0.03


def test_another_focal_length_of_the_images_moves_the_depth(measured: MeasuredViews) -> None:
    wider = read_chunk(SAMPLE, MeasuredSet("sample", step=2, image_focal=250.0), count=1, longest_side=160)
    true, found = measured.depth[0], wider.depth[0]
    assert found[60, 80] == pytest.approx(true[60, 80], rel=0.05)
    assert (found[:, 0] == 0).all()  # half the focal length has twice the field of view: no depth is known there
    assert found[60, 60] == pytest.approx(true[60, 40], rel=0.05)


def test_the_classical_stage_beats_constant_depth(measured: MeasuredViews) -> None:
    classical, constant = measure(PlaneSweep(), measured), constant_depth(measured)
    everywhere = np.ones_like(classical.kept)
    assert classical.median(everywhere) < 0.02
    assert constant.median(everywhere) > 0.1
    learned = measure(LearnedSweep(tiny_net(), torch.device("cpu")), measured)
    rows = table({"classical": classical, "learned": learned}, classical).splitlines()
    assert rows[0].startswith("| classical |")
    assert rows[1].startswith("| learned | 100.0 |")


def test_figures_of_an_outcome() -> None:
    outcome = Outcome(np.array([0.01, 0.2, np.nan, 0.03]), np.array([0.9, 0.5, 0.0, 0.1]), 1.0)
    first_three = np.array([True, True, True, False])
    assert outcome.median(first_three) == pytest.approx(0.105)
    assert outcome.within(0.1, first_three) == 0.5
    assert np.isnan(outcome.median(np.array([False, False, True, False])))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"intrinsics\.txt is missing"):
        read_chunk(tmp_path, MeasuredSet("none", 1), 0, 320)
