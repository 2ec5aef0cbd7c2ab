"""Guided matching: the errors equal their formulas written out, and true matches are allowed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from recon.sfm import verification
from recon.sfm.database import MatchDatabase
from recon.sfm.guidance import allowed_matches
from recon.sfm.matching import UNIT, Features, SiftMatcher
from tests.recon.sfm.conftest import read_frame

INTRINSICS = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])


def two_views(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of points (n, 3) in two cameras, and the fundamental matrix between them."""
    angle, offset = 0.1, np.array([0.4, 0.1, -0.05])
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    pixels = []
    for seen in (points, points @ turn.T + offset):
        projected = seen @ INTRINSICS.T
        pixels.append(projected[:, :2] / projected[:, 2:])
    cross = np.array([[0, -offset[2], offset[1]], [offset[2], 0, -offset[0]], [-offset[1], offset[0], 0]])
    inverse = np.linalg.inv(INTRINSICS)
    return pixels[0], pixels[1], inverse.T @ cross @ turn @ inverse


def test_epipolar_guidance_equals_the_sampson_error_written_out() -> None:
    random = np.random.default_rng(0)
    first, second, fundamental = two_views(random.uniform([-1, -1, 2], [1, 1, 5], (12, 3)))
    second = second + random.normal(0, 3, second.shape)
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
    geometry.F = fundamental
    allowed = allowed_matches(geometry, first, second, 4.0)
    for row in range(12):
        for column in range(12):
            a, b = np.append(first[row], 1), np.append(second[column], 1)
            line, back = fundamental @ a, fundamental.T @ b
            error = (b @ line) ** 2 / (line[0] ** 2 + line[1] ** 2 + back[0] ** 2 + back[1] ** 2)
            assert allowed[row, column] == (error <= 16)
    assert 0 < allowed.mean() < 0.5
    assert allowed.diagonal().mean() > 0.5


def test_planar_guidance_is_the_distance_from_the_mapped_pixel() -> None:
    homography = np.array([[1.1, 0.02, 5], [-0.03, 0.95, 2], [1e-4, 2e-5, 1]])
    first = np.random.default_rng(1).uniform(0, 400, (10, 2))
    mapped = np.column_stack([first, np.ones(10)]) @ homography.T
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = pycolmap.TwoViewGeometryConfiguration.PLANAR
    geometry.H = homography
    exact = mapped[:, :2] / mapped[:, 2:]
    assert allowed_matches(geometry, first, exact + np.array([3.9, 0]), 4.0).diagonal().all()
    assert not allowed_matches(geometry, first, exact + np.array([0, 4.1]), 4.0).diagonal().any()


def test_a_pair_without_a_geometry_guides_nothing() -> None:
    pixels = np.random.default_rng(2).uniform(0, 400, (5, 2))
    kinds = pycolmap.TwoViewGeometryConfiguration
    for kind in (kinds.UNDEFINED, kinds.DEGENERATE, kinds.WATERMARK, kinds.MULTIPLE, kinds.UNCALIBRATED, kinds.PLANAR):
        geometry = pycolmap.TwoViewGeometry()
        geometry.config = kind
        assert allowed_matches(geometry, pixels, pixels, 4.0) is None


def test_pairs_that_share_only_an_overlay_have_no_matches(tmp_path: Path) -> None:
    found = MatchDatabase(tmp_path / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    random = np.random.default_rng(3)
    for index in range(2):
        noise = cv2.resize(random.integers(60, 200, (60, 80, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        cv2.putText(noise, "35 km/h N52.00000 E13.00000 FRONT", (8, 465), 0, 0.6, (255, 255, 255), 2)
        found.add(replace(read_frame(index), image=noise))
    found.match([(0, 1)])
    assert len(found._database.read_matches(1, 2)) >= 15
    assert found.inliers(0, 1) == 0
    assert found.verified_pairs([0, 1]) == []


def test_only_allowed_matches_are_made() -> None:
    descriptors = np.repeat(91 * np.eye(4, dtype=np.uint8), 32, axis=1)  # nearly UNIT long
    features = Features(np.zeros((4, 4), np.float32), descriptors)
    everything = SiftMatcher().match(features, features)
    assert everything.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    allowed = np.ones((4, 4), dtype=bool)
    allowed[2, 2] = False
    assert SiftMatcher().match_guided(features, features, allowed).tolist() == [[0, 0], [1, 1], [3, 3]]


def random_features(random: np.random.Generator, count: int) -> Features:
    descriptors = np.abs(random.normal(size=(count, 128)))
    descriptors *= UNIT / np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Features(np.zeros((count, 4), np.float32), np.round(descriptors).astype(np.uint8))


@pytest.mark.parametrize(("counts", "share"), [((300, 200), 0.02), ((50, 60), 0.5), ((2, 3), 1.0), ((5, 4), 0.0)])
def test_guided_matches_equal_those_of_the_whole_matrix(counts: tuple[int, int], share: float) -> None:
    random = np.random.default_rng(4)
    for _ in range(10):
        first, second = (random_features(random, count) for count in counts)
        second.descriptors[:2] = np.round(0.98 * first.descriptors[:2] + 0.02 * second.descriptors[:2])
        second.descriptors[1] = second.descriptors[0]  # equally near: neither is distinctive
        allowed = random.random(counts) < share
        assert SiftMatcher().match_guided(first, second, allowed).tolist() == whole_matrix(first, second, allowed)


def whole_matrix(first: Features, second: Features, allowed: np.ndarray) -> list[list[int]]:
    products = first.descriptors.astype(np.float64) @ second.descriptors.T
    angles = np.arccos(np.clip(np.where(allowed, products / UNIT**2, -1), -1, 1))
    found = []
    for row, to_others in enumerate(angles):
        nearest, next_angle = np.argsort(to_others, kind="stable")[0], np.sort(to_others)[1]
        mutual = to_others[nearest] == angles[:, nearest].min()
        if mutual and to_others[nearest] < min(0.8 * next_angle, 0.7):
            found.append([row, int(nearest)])
    return found


def test_guided_pairs_gain_matches_and_none_leaves_the_geometry(
    database: MatchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "GUIDE_BELOW", 10_000)
    guided = MatchDatabase(tmp_path / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    for index in (0, 8):
        guided.add(read_frame(index))
    guided.match([(0, 8)])
    assert guided.inliers(0, 8) > 1.2 * database.inliers(0, 8) > 0
    geometry = guided._database.read_two_view_geometry(1, 9)
    rows = guided.verified_matches((0, 8))
    allowed = allowed_matches(geometry, guided.positions(0), guided.positions(8), 4.0)
    assert allowed[rows[:, 0], rows[:, 1]].all()
