"""Plane sweep on the bundled sample with true poses, compared with the true depth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.types import SURE
from recon.depth.consistency import keep_consistent
from recon.depth.plane_sweep import PlaneSweep, enlarged, semi_global, sub_plane_offset
from recon.depth.views import Depth, PosedView

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
INTRINSICS = np.array([[125.0, 0, 80], [0, 125, 60], [0, 0, 1]])  # the sample's lens at a quarter of its size
TARGET = 30


def cam_from_world(index: int) -> np.ndarray:
    row = np.loadtxt(SAMPLE / "poses.txt")[index]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_quat(row[4:8]).as_matrix(), row[1:4]
    return np.linalg.inv(pose)


def true_depth() -> np.ndarray:
    millimetres = cv2.imread(str(SAMPLE / "depth" / f"{TARGET:06d}.png"), cv2.IMREAD_UNCHANGED)
    return cv2.resize(millimetres, (160, 120), interpolation=cv2.INTER_NEAREST) / 1000.0


def view(index: int, points_world: np.ndarray) -> PosedView:
    image = cv2.cvtColor(cv2.imread(str(SAMPLE / "images" / f"{index:06d}.jpg")), cv2.COLOR_BGR2RGB)
    pose = cam_from_world(index)
    points_cam = points_world @ pose[:3, :3].T + pose[:3, 3]
    pixels = points_cam @ INTRINSICS.T
    return PosedView(
        index=index,
        image=np.asarray(cv2.resize(image, (160, 120), interpolation=cv2.INTER_AREA), dtype=np.uint8),
        mask=np.ones((120, 160), dtype=bool),
        intrinsics=INTRINSICS,
        cam_from_chunk=pose,
        sparse=np.column_stack([pixels[:, :2] / pixels[:, 2:], points_cam[:, 2]]),
        point_ids=np.arange(len(points_world)),
    )


@pytest.fixture(scope="module")
def views() -> list[PosedView]:
    """Five neighbours and 300 points that the middle one sees."""
    rows, columns = (np.random.default_rng(0).integers(5, limit - 5, 300) for limit in (120, 160))
    pixels = np.column_stack([columns + 0.5, rows + 0.5, np.ones(300)])
    points_cam = pixels @ np.linalg.inv(INTRINSICS).T * true_depth()[rows, columns, None]
    world_from_cam = np.linalg.inv(cam_from_world(TARGET))
    points_world = points_cam @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    return [view(index, points_world) for index in range(TARGET - 2, TARGET + 3)]


def test_depth_of_a_textured_room_is_right(views: list[PosedView]) -> None:
    found = PlaneSweep().depth(views, {})[2]
    kept = found.depth > 0
    error = np.abs(found.depth - true_depth())[kept] / true_depth()[kept]
    assert kept.mean() > 0.5
    assert np.median(error) < 0.01
    assert (error < 0.05).mean() > 0.9
    assert (found.confidence[~kept] == 0).all()
    assert (found.confidence[kept] >= SURE).all()


def test_masked_pixels_get_no_depth(views: list[PosedView]) -> None:
    masked = [PosedView(**(vars(view) | {"mask": np.arange(160)[None] < 80 * np.ones((120, 1))})) for view in views]
    found = PlaneSweep().depth(masked, {})[2]
    assert (found.depth[:, 80:] == 0).all()
    assert (found.depth[:, :80] > 0).any()


def test_a_single_view_gets_no_depth(views: list[PosedView]) -> None:
    assert not PlaneSweep().depth(views[:1], {})[0].depth.any()


def test_existing_depth_is_kept(views: list[PosedView]) -> None:
    once = PlaneSweep().depth(views, {})
    given = {view.index: depth for view, depth in zip(views[:2], once, strict=False)}
    again = PlaneSweep().depth(views, given)
    assert again[0] is once[0]
    assert again[1] is once[1]
    both = (again[2].depth > 0) & (once[2].depth > 0)
    assert both.mean() > 0.5
    np.testing.assert_array_equal(again[2].depth[both], once[2].depth[both])


def test_depth_that_the_others_contradict_is_dropped(views: list[PosedView]) -> None:
    depth = true_depth().astype(np.float32)
    truth = Depth(depth, np.ones_like(depth))
    wrong = Depth(depth * np.float32(1.2), np.ones_like(depth))
    view = views[2]
    assert (keep_consistent(view, truth, [(view, truth), (view, truth)]).depth > 0).mean() > 0.99
    assert not keep_consistent(view, truth, [(view, wrong), (view, wrong)]).depth.any()


def test_semi_global_costs_equal_the_recursion_written_out() -> None:
    rng = np.random.default_rng(0)
    cost = rng.random((5, 1, 6)).astype(np.float32)
    flat = np.zeros((1, 6, 3), np.uint8)
    step, jump = 0.1, 0.3

    def scan(line: np.ndarray) -> np.ndarray:
        out = [line[0]]
        for here in line[1:]:
            before = out[-1]
            best = [
                min(
                    [before[plane], before.min() + jump]
                    + [before[other] + step for other in (plane - 1, plane + 1) if 0 <= other < 5]
                )
                for plane in range(5)
            ]
            out.append(here + np.array(best) - before.min())
        return np.array(out)

    line = cost[:, 0].T
    # A single row has no neighbours above or below: those two directions add the plain cost each.
    expected = scan(line) + scan(line[::-1])[::-1] + 2 * line
    np.testing.assert_allclose(semi_global(cost, flat, step, jump)[:, 0].T, expected, rtol=1e-5)


def test_sub_plane_offset_finds_the_bottom_of_a_parabola() -> None:
    planes = np.arange(7, dtype=np.float32)
    cost = ((planes - 3.3) ** 2)[:, None, None]
    best = cost.argmin(axis=0)
    assert best[0, 0] + sub_plane_offset(cost, best)[0, 0] == pytest.approx(3.3, abs=1e-5)


def test_a_larger_map_keeps_steps_and_smooths_the_rest() -> None:
    slope = np.array([[1.0, 1.01, 1.02, 2.0]], np.float32)
    found = enlarged(slope, (2, 8))
    np.testing.assert_allclose(found[0, :5], [1.0, 1.0025, 1.0075, 1.0125, 1.0175], rtol=1e-5)
    np.testing.assert_array_equal(found[0, 5:], np.array([1.02, 2.0, 2.0], np.float32))
