"""Sanity of a map: what is refused, what is doubted, and what passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import PlacedFrame, SparsePoints
from recon.mapping.sanity import InsaneMapError, examine, find_jumps, measure, widest_angle
from tests.support import placed_frame, sparse_points

FRAMES = {index: placed_frame(index) for index in range(8)}
DEPTHS = dict.fromkeys(FRAMES, 4.0)


@pytest.fixture(scope="module")
def points() -> SparsePoints:
    return sparse_points(tuple(FRAMES.values()))


def shifted(index: int, by: float) -> dict[int, PlacedFrame]:
    """The walk with a frame and all behind it further on [m]."""
    return {
        number: frame
        if number < index
        else replace(
            frame,
            world_from_cam=Sim3(
                frame.world_from_cam.scale,
                frame.world_from_cam.rotation,
                frame.world_from_cam.translation + np.array([by, 0, 0]),
            ),
        )
        for number, frame in FRAMES.items()
    }


def test_an_exact_map_passes(points: SparsePoints) -> None:
    assert examine(FRAMES, points, DEPTHS) == ()
    behind, error = measure(FRAMES, points)
    assert behind == 0
    assert error == pytest.approx(0, abs=1e-9)
    assert widest_angle(FRAMES, points) > np.radians(5)


def test_a_map_without_points_passes() -> None:
    assert examine(FRAMES, SparsePoints.empty(), DEPTHS) == ()


def test_a_map_of_next_to_no_points_is_refused(points: SparsePoints) -> None:
    few = replace(
        points,
        **{name: getattr(points, name)[points.point_ids < 4] for name in ("point_ids", "frame_indices", "pixels")},
    )
    with pytest.raises(InsaneMapError, match=r"half of the frames see \d points"):
        examine(FRAMES, few, DEPTHS)


def test_cameras_much_farther_apart_than_they_see_are_refused(points: SparsePoints) -> None:
    with pytest.raises(InsaneMapError, match="times as far apart as they see"):
        examine(FRAMES, points, dict.fromkeys(FRAMES, 1e-3))


def test_one_impossible_step_is_doubted() -> None:
    (sentence,) = examine(shifted(5, 600_000.0), SparsePoints.empty(), DEPTHS)
    assert sentence.startswith(f"{FRAMES[5].name} lies 1500")


def test_a_jump_between_pictures_that_hardly_differ_is_doubted(points: SparsePoints) -> None:
    jumped = list(shifted(5, 8.0).values())
    steps = np.linalg.norm(np.diff([frame.world_from_cam.translation for frame in jumped], axis=0), axis=1)
    assert find_jumps(jumped, points, steps) == [4]
    assert any("to " + FRAMES[5].name in sentence for sentence in examine(shifted(5, 8.0), points, DEPTHS))


def test_a_large_step_between_pictures_that_differ_passes(points: SparsePoints) -> None:
    """As between two groups of photographs."""
    later = points.frame_indices >= 5
    apart = replace(points, pixels=points.pixels + np.where(later, 60.0, 0.0)[:, None])
    far = list(shifted(5, 8.0).values())
    steps = np.linalg.norm(np.diff([frame.world_from_cam.translation for frame in far], axis=0), axis=1)
    assert find_jumps(far, apart, steps) == []


def test_errors_and_points_behind_cameras_are_doubted(points: SparsePoints) -> None:
    wrong = replace(points, pixels=points.pixels + 0.02 * FRAMES[0].camera.width)
    assert any("of the image's width from where" in sentence for sentence in examine(FRAMES, wrong, DEPTHS))
    mirrored = replace(points, positions=points.positions * np.where(points.positions[:, :1] > 0, (1, 1, -1), 1))
    assert any("lie behind cameras" in sentence for sentence in examine(FRAMES, mirrored, DEPTHS))


def test_hardly_any_parallax_is_doubted(points: SparsePoints) -> None:
    centre = FRAMES[0].world_from_cam.translation
    together = {
        index: replace(
            frame,
            world_from_cam=Sim3(
                frame.world_from_cam.scale,
                frame.world_from_cam.rotation,
                centre + 1e-3 * (frame.world_from_cam.translation - centre),
            ),
        )
        for index, frame in FRAMES.items()
    }
    assert any("directions only 0.0 degrees apart" in sentence for sentence in examine(together, points, DEPTHS))
