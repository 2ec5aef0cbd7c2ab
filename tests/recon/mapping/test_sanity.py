"""Sanity of a map: what is refused, what is doubted, and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from recon.core.errors import InsaneMapError
from recon.core.similarity import Array, Sim3
from recon.core.types import PlacedFrame, SparsePoints
from recon.mapping.sanity import examine, find_jumps, measure, widest_angle
from tests.support import placed_frame, sparse_points

FRAMES = {index: placed_frame(index) for index in range(8)}
DEPTHS = dict.fromkeys(FRAMES, 4.0)


@pytest.fixture(scope="module")
def points() -> SparsePoints:
    return sparse_points(tuple(FRAMES.values()))


def shifted(index: int, by: float) -> dict[int, PlacedFrame]:
    """The walk with one frame and all later ones moved further [m]."""
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


def test_an_exact_map_is_not_doubted(points: SparsePoints) -> None:
    assert examine(FRAMES, points, DEPTHS) == ()
    behind, error = measure(FRAMES, points)
    assert behind == 0
    assert error == pytest.approx(0, abs=1e-9)
    assert widest_angle(FRAMES, points) > np.radians(5)


def test_a_map_without_points_is_not_doubted() -> None:
    assert examine(FRAMES, SparsePoints.empty(), DEPTHS) == ()


def test_a_map_with_hardly_any_points_is_refused(points: SparsePoints) -> None:
    few = replace(
        points,
        **{name: getattr(points, name)[points.point_ids < 4] for name in ("point_ids", "frame_indices", "pixels")},
    )
    with pytest.raises(InsaneMapError, match=r"half of the frames see at most \d points"):
        examine(FRAMES, few, DEPTHS)


def test_cameras_much_farther_apart_than_they_see_are_refused(points: SparsePoints) -> None:
    with pytest.raises(InsaneMapError, match="times as far apart as the scene is away"):
        examine(FRAMES, points, dict.fromkeys(FRAMES, 1e-3))


def test_one_impossible_step_is_doubted() -> None:
    (sentence,) = examine(shifted(5, 600_000.0), SparsePoints.empty(), DEPTHS)
    assert sentence.startswith(f"{FRAMES[5].name} is 1500")


def images(frames: dict[int, PlacedFrame]) -> list[PlacedFrame]:
    """The frames as from a folder, with their positions as times."""
    return [replace(frame, timestamp=float(index)) for index, frame in frames.items()]


def steps_of(frames: Sequence[PlacedFrame]) -> Array:
    return np.linalg.norm(np.diff([frame.world_from_cam.translation for frame in frames], axis=0), axis=1)


def test_a_jump_between_images_that_hardly_differ_is_doubted(points: SparsePoints) -> None:
    jumped = images(shifted(5, 8.0))
    found = find_jumps(jumped, points, steps_of(jumped))
    assert found == {4: "but the two images hardly differ more than others"}
    times = steps_of(jumped)[4] / np.median(steps_of(list(FRAMES.values())))
    (sentence,) = examine(dict(enumerate(jumped)), points, dict.fromkeys(FRAMES, 40.0))[:1]
    assert sentence.startswith(f"the step to {FRAMES[5].name} is {times:.0f} times as long as those around it, but")


def test_a_large_step_between_images_that_differ_is_accepted(points: SparsePoints) -> None:
    """As between two groups of photographs."""
    later = points.frame_indices >= 5
    apart = replace(points, pixels=points.pixels + np.where(later, 300.0, 0.0)[:, None])
    far = images(shifted(5, 8.0))
    assert find_jumps(far, apart, steps_of(far)) == {}


@pytest.mark.parametrize(("width", "doubted"), [(100_000, True), (1, False)])
def test_a_jump_over_which_no_point_is_seen_is_doubted_where_images_are_close(
    points: SparsePoints, width: int, *, doubted: bool
) -> None:
    later = points.frame_indices >= 5
    ids = points.point_ids + np.where(later, len(points.positions), 0)
    apart = replace(points, point_ids=ids, positions=np.vstack([points.positions, points.positions]))
    camera = replace(FRAMES[0].camera, width=width)
    far = [replace(frame, camera=camera) for frame in images(shifted(5, 8.0))]
    assert [*find_jumps(far, apart, steps_of(far))] == [4] * doubted


def test_a_jump_in_a_film_is_doubted_whatever_the_points_say(points: SparsePoints) -> None:
    film = list(shifted(5, 8.0).values())
    for told in (points, SparsePoints.empty()):
        assert find_jumps(film, told, steps_of(film)) == {4: "which the times of the frames do not explain"}
    paused = [replace(frame, timestamp=frame.timestamp + 60.0 * (frame.index >= 5)) for frame in film]
    assert find_jumps(paused, points, steps_of(paused)) == {}


@pytest.mark.parametrize(
    "steps",
    [
        [1e-3] * 6 + [1.0] * 6,
        [1.0] * 12 + [5e-3] * 6 + [1.0],
        [1.0] * 12 + [5e-3] * 6 + [1.0, 5e-3],
        [1.0] * 8 + [5e-3] * 6 + [1.0] + [5e-3] * 6 + [1.0] * 2,
    ],
    ids=["starts", "turns at the end", "turns at the end, and goes on", "turns, steps, turns"],
)
def test_a_camera_that_only_turns_for_a_while_does_not_jump(steps: list[float]) -> None:
    centres = np.cumsum(np.r_[0.0, steps])
    frames = [
        replace(FRAMES[0], index=row, timestamp=row / 30, world_from_cam=Sim3(1.0, np.eye(3), np.array([x, 0, 0])))
        for row, x in enumerate(centres)
    ]
    assert find_jumps(frames, SparsePoints.empty(), np.array(steps)) == {}


@pytest.mark.parametrize("row", [0, 6])
def test_a_step_at_an_end_is_compared_with_its_only_side(row: int) -> None:
    jumped = list(shifted(row + 1, 8.0).values())
    assert [*find_jumps(jumped, SparsePoints.empty(), steps_of(jumped))] == [row]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_steps_show_no_jump(count: int) -> None:
    few = dict(list(shifted(count - 1, 8.0).items())[:count])
    assert examine(few, SparsePoints.empty(), DEPTHS) == ()


def test_errors_and_points_behind_cameras_are_doubted(points: SparsePoints) -> None:
    wrong = replace(points, pixels=points.pixels + 0.02 * FRAMES[0].camera.width)
    assert any("of the image width from where" in sentence for sentence in examine(FRAMES, wrong, DEPTHS))
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


def test_cameras_of_a_rig_count_as_one_and_others_as_two(points: SparsePoints) -> None:
    """The walk by two cameras a little apart that see different points."""
    frames = {}
    for index, frame in FRAMES.items():
        pose = frame.world_from_cam
        moved = Sim3(pose.scale, pose.rotation, pose.translation + np.array([0, 1e-6, 0]))
        frames[2 * index] = replace(frame, index=2 * index, timestamp=0.1 * index)
        frames[2 * index + 1] = replace(frame, index=2 * index + 1, timestamp=0.1 * index, world_from_cam=moved)
    seen = replace(points, frame_indices=2 * points.frame_indices + points.point_ids % 2)
    depths = dict.fromkeys(frames, 4.0)
    assert examine(frames, seen, depths, views=2) == ()
    (doubt,) = examine(frames, seen, depths)
    assert doubt.startswith("only 0 points join the 8 frames")
