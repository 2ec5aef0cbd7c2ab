"""The tracker's own map: its adjustment, its beginning, and what it refuses; on points whose places are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.core.types import Camera
from recon.tracking.adjustment import Bundle, adjust
from recon.tracking.beginning import Beginning, begin
from recon.tracking.corners import View
from recon.tracking.lens import stretched

TRUE = Camera("SIMPLE_PINHOLE", 640, 480, (560.0, 320.0, 240.0))
GUESS = Camera("SIMPLE_PINHOLE", 640, 480, (640.0, 320.0, 240.0))
POINTS, NOISE = 250, 0.3  # [px]
STEPS = 16


def scene(depths: tuple[float, float], seed: int = 0) -> Array:
    """Points (n, 3) before the first camera, all in sight."""
    generator = np.random.default_rng(seed)
    z = generator.uniform(*depths, POINTS)
    return np.column_stack([generator.uniform(-0.4, 0.4, POINTS) * z, generator.uniform(-0.3, 0.3, POINTS) * z, z])


def path(shift: float, turn: float) -> Array:
    """Poses (n, 4, 4) of a camera that goes to the right and turns, each by so much in all [m, rad]."""
    poses = np.tile(np.eye(4), (STEPS, 1, 1))
    for pose, part in zip(poses, np.linspace(0, 1, STEPS), strict=True):
        pose[:3, :3] = Rotation.from_rotvec([0.3 * turn * part, turn * part, 0]).as_matrix()
        pose[:3, 3] = -pose[:3, :3] @ [shift * part, 0.1 * shift * part, 0.2 * shift * part]
    return poses


def projected(points: Array, poses: Array) -> Array:
    """Pixels (v, n, 2) with a little noise."""
    cam = np.einsum("vij,nj->vni", poses[:, :3, :3], points) + poses[:, None, :3, 3]
    noise = NOISE * np.random.default_rng(1).standard_normal((len(poses), len(points), 2))
    return np.asarray((cam @ TRUE.matrix().T)[..., :2] / cam[..., 2:] + noise)


def begun(points: Array, poses: Array, camera: Camera = TRUE, *, lens_is_known: bool = True) -> Beginning | None:
    tracks = np.arange(len(points))
    views = [View(index, tracks, pixels) for index, pixels in enumerate(projected(points, poses))]
    return begin(views, camera, lens_is_known=lens_is_known, noise_px=1.0)


def centres(poses: Array) -> Array:
    return np.asarray(-np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3]))


class TestBeginning:
    @pytest.mark.parametrize(("camera", "known"), [(TRUE, True), (GUESS, False)])
    def test_a_few_views_give_poses_points_and_the_lens(self, camera: Camera, *, known: bool) -> None:
        points, poses = scene((2, 6)), path(0.8, -0.15)
        found = begun(points, poses, camera, lens_is_known=known)
        assert found is not None
        assert found.camera.params[0] == pytest.approx(TRUE.params[0], rel=1e-9 if known else 0.09)
        true = poses[[view.index for view in found.views]]
        relative = true @ np.linalg.inv(true[0])
        here, there = centres(found.poses), centres(relative)
        scale = np.linalg.norm(there[-1]) / np.linalg.norm(here[-1])
        assert np.abs(scale * here - there).max() < (0.03 if known else 0.15) * np.linalg.norm(there[-1])
        turned = Rotation.from_matrix(found.poses[-1, :3, :3] @ relative[-1, :3, :3].T).magnitude()
        assert np.degrees(turned) < (0.3 if known else 1.0)
        cam = points[found.tracks] @ true[0, :3, :3].T + true[0, :3, 3]
        errors = np.linalg.norm(scale * found.positions - cam, axis=1) / np.linalg.norm(cam, axis=1)
        assert np.median(errors) < (0.03 if known else 0.25)  # a lens that is 7% too long deepens the scene
        assert len(found.tracks) > POINTS / 2
        depth = found.positions @ found.poses[-1, 2, :3] + found.poses[-1, 2, 3]
        assert np.median(depth) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("depths", "shift", "turn"),
        [
            pytest.param((2, 6), 0.0, 0.25, id="only turns"),
            pytest.param((4, 4.0001), 1.2, -0.1, id="flat scene"),
            pytest.param((2, 6), 0.0, 0.0, id="stands still"),
            pytest.param((200, 600), 0.8, 0.2, id="all is far away"),
        ],
    )
    @pytest.mark.parametrize("known", [True, False])
    def test_no_map_where_depth_is_not_determined(
        self, depths: tuple[float, float], shift: float, turn: float, *, known: bool
    ) -> None:
        assert begun(scene(depths), path(shift, turn), TRUE if known else GUESS, lens_is_known=known) is None

    def test_no_map_of_corners_that_move_by_themselves(self) -> None:
        points, poses = scene((2, 6)), path(0.8, -0.15)
        pixels = projected(points, poses)
        sway = np.random.default_rng(2).normal(0, 20, (POINTS, 2)) * np.linspace(0, 1, STEPS)[:, None, None]
        views = [View(index, np.arange(POINTS), seen) for index, seen in enumerate(pixels + sway)]
        assert begin(views, TRUE, lens_is_known=True, noise_px=1.0) is None


def test_the_adjustment_finds_poses_points_and_lens_despite_outliers() -> None:
    points, poses = scene((2, 6)), path(0.8, -0.15)[::3]
    seen = (projected(points, poses) - TRUE.params[1:]) / GUESS.params[0]
    generator = np.random.default_rng(3)
    wrong = generator.random(seen.shape[:2]) < 0.05
    seen[wrong] += generator.normal(0, 0.1, (int(wrong.sum()), 2))
    rows, cameras = np.repeat(np.arange(POINTS), len(poses)), np.tile(np.arange(len(poses)), POINTS)
    start = poses.copy()
    start[2:, :3, 3] += generator.normal(0, 0.03, (len(poses) - 2, 3))
    moved = points * generator.normal(1, 0.05, (POINTS, 1))
    bundle = Bundle(start, moved, np.full(POINTS, 0.5), cameras, rows, seen[cameras, rows])
    noise = NOISE / GUESS.params[0]
    found = adjust(bundle, noise, iterations=15, fixed=2, stretch_prior=0.25)
    assert stretched(GUESS, found.bundle.stretch).params[0] == pytest.approx(TRUE.params[0], rel=0.01)
    assert found.stretch_sigma < 0.01
    assert np.abs(centres(found.bundle.poses) - centres(poses)).max() < 0.005
    assert np.median(np.linalg.norm(found.bundle.points - points, axis=1)) < 0.03
    assert np.median(found.errors[~wrong[cameras, rows]]) < 1.5 < np.median(found.errors[wrong[cameras, rows]])
    assert np.array_equal(found.bundle.poses[:2], poses[:2])
    kept = adjust(replace(bundle, seen=seen[cameras, rows] * GUESS.params[0] / TRUE.params[0]), noise, iterations=15)
    assert (kept.bundle.stretch, kept.stretch_sigma) == (1.0, 0.0)
