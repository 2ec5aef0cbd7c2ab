"""Evidence about the camera's motion: rotation, standing still and a change of place are distinguished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.refusal import Hindrance
from recon.core.similarity import Array
from recon.core.types import Camera, Frame
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import _find_lens, _Views, find_hindrance, hardly_moves, only_turned, rotation_residuals
from recon.sfm.matching import SiftMatcher
from recon.sfm.pairs import window_pairs
from recon.sources import SourceOptions, open_source
from tests.cases import motion
from tests.cases.case import Input, picture
from tests.cases.moving import Figure

SIZE = (320, 240)
CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (768.0, 320.0, 240.0, 0.0))
FOCAL = 560.0


def seen(points: Array, cam_from_world: Array) -> Array:
    """Pixels (n, 2) of points (n, 3)."""
    points_cam = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    return points_cam[:, :2] / points_cam[:, 2:] * FOCAL + (320, 240)


def views(points: Array, shift: Sequence[float], count: int = 5) -> list[_Views]:
    """Pairs of views: turned by 3 to 15 degrees, and shifted by so much each [m], with 0.3 px of noise."""
    noise = np.random.default_rng(0)
    found = []
    for number in range(1, count + 1):
        second = np.eye(4)
        second[:3, :3] = Rotation.from_euler("yxz", [3 * number, 4, number], degrees=True).as_matrix()
        second[:3, 3] = number * np.array(shift)
        pixels = [seen(points, pose) + noise.normal(0, 0.3, (len(points), 2)) for pose in (np.eye(4), second)]
        found.append(_Views(*pixels))
    return found


@pytest.fixture
def cloud() -> Array:
    """Points (200, 3), 2 to 6 m away."""
    random = np.random.default_rng(3)
    depth = random.uniform(2, 6, (200, 1))
    return np.hstack([random.uniform(-0.4, 0.4, (200, 2)) * depth, depth])


def test_rotations_are_fitted_in_spite_of_outliers(cloud: Array) -> None:
    rays = cloud / cloud[:, 2:]
    turned = rays @ Rotation.from_euler("xyz", [5, -20, 3], degrees=True).as_matrix().T
    turned[:40] = turned[:40][::-1]
    residuals = rotation_residuals(rays[None], turned[None])[0]
    assert residuals[40:].max() < 1e-4
    assert np.median(residuals[:40]) > 0.05


def test_rotation_determines_the_lens(cloud: Array) -> None:
    pairs = views(cloud, (0, 0, 0))
    assert _find_lens(pairs, CAMERA).focal == pytest.approx(FOCAL, rel=0.02)
    assert only_turned(pairs, CAMERA, 1.0, known=False)
    assert not only_turned(pairs, CAMERA, 1.0, known=True)  # with a focal length of 768 px no rotation explains them


def test_a_change_of_place_is_not_a_rotation(cloud: Array) -> None:
    assert not only_turned(views(cloud, (0.1, 0, 0)), CAMERA, 1.0, known=False)


def test_a_plane_seen_from_several_places_is_not_a_rotation(cloud: Array) -> None:
    plane = cloud / cloud[:, 2:] * 4.0
    assert not only_turned(views(plane, (0.15, 0.05, 0)), CAMERA, 1.0, known=False)
    assert only_turned(views(plane, (0, 0, 0)), CAMERA, 1.0, known=False)


def turned_a_little(figures: Sequence[Figure], folder: Path, most: float = 8, wander: float = 0) -> MatchDatabase:
    """Ten pictures from one place, turned by up to ``most`` degrees, with figures that walk in front.

    wander: standard deviation of the irregular steps of a figure, in widths.
    """
    random, lens = np.random.default_rng(0), np.array([[350.0, 0, 200], [0, 350, 150], [0, 0, 1]])
    room = cv2.resize(picture(0), (400, 300), interpolation=cv2.INTER_AREA)
    frames = []
    for step in range(10):
        turn = Rotation.from_euler("xyz", random.uniform(-most, most, 3), degrees=True).as_matrix()
        image = cv2.warpPerspective(room, lens @ turn @ np.linalg.inv(lens), (400, 300))
        for number, figure in enumerate(figures):
            astray = wander * np.random.default_rng(number).normal(size=step).sum()
            column = np.clip(figure.column + 0.02 * (2 * (number % 2) - 1) * step + astray, 0, 1)
            worn, covered = replace(figure, column=float(column)).place(step, (300, 400))
            image = np.where(covered[..., None], worn, image)
        usable = np.ones((300, 400), np.bool_)
        frames.append(Frame(step, 0.0, image.astype(np.uint8), "", (400, 300), "lens", 0.0, usable))
    database = MatchDatabase(folder / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    for frame in frames:
        database.add(frame)
    database.match([(a, b) for a in range(10) for b in range(a + 1, 10)])
    return database


TWO = (Figure(0.45, 0.25, 0.8), Figure(0.55, 0.25, 0.8, pattern=1))
LARGE = (Figure(0.4, 0.4, 0.95), Figure(0.6, 0.35, 0.95, pattern=1))
FOUR = tuple(Figure(0.2 + 0.2 * number, 0.15, 0.5, pattern=number) for number in range(4))
TREMBLE = 0.4  # degrees: a few pixels


@pytest.mark.parametrize(
    ("figures", "most", "wander"),
    [((), 8, 0), (TWO, 8, 0), (FOUR, 4, 0.04), (TWO, TREMBLE, 0.04), (LARGE, TREMBLE, 0.04)],
)
def test_a_rotating_or_trembling_camera_hardly_moves_whatever_moves_in_view(
    figures: Sequence[Figure], most: float, wander: float, tmp_path: Path
) -> None:
    database = turned_a_little(figures, tmp_path, most, wander)
    assert hardly_moves(database, range(10), None)
    database.close()


def test_a_walk_moves(database: MatchDatabase) -> None:
    assert not hardly_moves(database, range(14), None)


def hindrance(made: Input, tmp_path: Path) -> Hindrance | None:
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(max_features=500), "SIMPLE_RADIAL", None)
    source = open_source(str(made.source), SourceOptions(size=320), tmp_path / "kept")
    frames = [item for item in source if isinstance(item, Frame)]
    for frame in frames:
        database.add(frame)
    count = len(frames)
    database.match([(a, b) for a in range(count) for b in range(a + 1, min(a + 4, count))])
    database.match([(a, a + count // 2) for a in range(count - count // 2)])
    found = find_hindrance(database, range(count), None)
    database.close()
    return found


@pytest.mark.parametrize(("still", "expected"), [(12, Hindrance.STILL), (7, None)])
def test_stillness_shows_where_frames_half_way_are_not_matched(
    still: int, expected: Hindrance | None, tmp_path: Path
) -> None:
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(max_features=500), "SIMPLE_RADIAL", None)
    for index in range(12):
        image = cv2.resize(picture(4 * max(0, index - still + 1)), SIZE)
        usable = np.ones(SIZE[::-1], np.bool_)
        database.add(Frame(index, 0.0, np.asarray(image, np.uint8), "", SIZE, "lens", 0.0, usable))
    database.match(window_pairs(list(range(12)), (1, 2, 3)))
    assert find_hindrance(database, range(12), None) == expected
    database.close()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: motion.pan(folder, count=7, size=SIZE), Hindrance.TURNED),
        (lambda folder: motion.poster(folder, moves=0.25, count=6, size=SIZE), None),
        (lambda folder: motion.shoot(folder, motion.walk(-1.0, 6), SIZE), None),
        (lambda folder: motion.turntable(folder, count=6, size=SIZE), Hindrance.TURNTABLE),
        (lambda folder: motion.tripod(folder, count=6), Hindrance.STILL),
        (motion.blank, Hindrance.FEATURELESS),
    ],
)
def test_hindrances_are_identified_from_images(make, expected: Hindrance | None, tmp_path: Path) -> None:
    assert hindrance(make(tmp_path / "in"), tmp_path) == expected
