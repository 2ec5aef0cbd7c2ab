"""The distance between two estimates of a lens."""

import pytest

from recon.core.types import Camera, SparseModel, SparsePoints
from recon.sfm.lens import largest_change, lens_change

LENS = Camera("SIMPLE_RADIAL", 600, 800, (500.0, 300.0, 400.0, 0.0))  # half a diagonal is 500 pixels


def test_a_lens_is_no_change_from_itself() -> None:
    assert lens_change(LENS, LENS) == 0


def test_a_focal_length_moves_the_corners_by_its_share() -> None:
    longer = Camera("SIMPLE_RADIAL", 600, 800, (510.0, 300.0, 400.0, 0.0))
    assert lens_change(LENS, longer) == pytest.approx(0.02)


def test_distortion_counts_as_well() -> None:
    bent = Camera("SIMPLE_RADIAL", 600, 800, (500.0, 300.0, 400.0, -0.03))
    # The corner's ray has length 1, so its pixel moves by 3 percent.
    assert lens_change(LENS, bent) == pytest.approx(0.03)


def test_the_largest_change_is_over_the_frames_of_both_models() -> None:
    longer, much_longer = (Camera("SIMPLE_RADIAL", 600, 800, (focal, 300.0, 400.0, 0.0)) for focal in (510.0, 600.0))
    before = SparseModel({}, {0: LENS, 1: LENS, 2: LENS}, SparsePoints.empty())
    after = SparseModel({}, {0: LENS, 1: longer, 3: much_longer}, SparsePoints.empty())
    assert largest_change(before, after) == pytest.approx(0.02)
    assert largest_change(before, SparseModel({}, {}, SparsePoints.empty())) == 0
