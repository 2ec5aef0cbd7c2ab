"""SIFT features: where they lie, what they ignore, and what they match."""

from __future__ import annotations

import numpy as np
import pytest

from recon.core.types import Frame, Image, Mask
from recon.plan import random_texture
from recon.sfm.matching import UNIT, Features, SiftMatcher
from recon.sfm.products import Product, in_floats, in_integers

SHIFT = (40, 24)  # columns and rows


def frame(image: Image, mask: Mask | None = None, scale: int = 1) -> Frame:
    height, width = image.shape[:2]
    usable = np.ones((height, width), dtype=bool) if mask is None else mask
    return Frame(0, 0.0, image, "0.jpg", (scale * width, scale * height), "lens", 0.0, usable)


def blob(column: float, row: float) -> Image:
    """A bright blob whose centre has these coordinates, counted from the image's upper left corner."""
    columns, rows = np.arange(160) + 0.5, np.arange(120) + 0.5
    distance = (columns[None] - column) ** 2 + (rows[:, None] - row) ** 2
    grey = np.round(30 + 200 * np.exp(-distance / (2 * 5.0**2))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("scale", [1, 4])
def test_a_blob_is_found_at_its_centre_in_pixels_of_the_original(scale: int) -> None:
    keypoints = SiftMatcher().describe(frame(blob(70.0, 45.5), scale=scale)).keypoints
    distance = np.linalg.norm(keypoints[:, :2] / scale - [70.0, 45.5], axis=1)
    assert distance.min() < 0.1
    assert keypoints[distance.argmin(), 2] == pytest.approx(5.0 * scale, rel=0.2)


def test_a_shifted_picture_matches_by_the_shift() -> None:
    texture = random_texture(360, 264)
    matcher = SiftMatcher()
    first = matcher.describe(frame(texture[:240, :320]))
    second = matcher.describe(frame(texture[SHIFT[1] :, SHIFT[0] :]))
    matches = matcher.match(first, second)
    assert matches.shape[1:] == (2,)
    assert len(matches) > 200
    moved = first.keypoints[matches[:, 0], :2] - second.keypoints[matches[:, 1], :2]
    assert (np.abs(moved - SHIFT).max(axis=1) < 0.5).mean() > 0.99
    assert len(np.unique(matches[:, 0])) == len(np.unique(matches[:, 1])) == len(matches)


def plain_match(matcher: SiftMatcher, first: Features, second: Features) -> list[list[int]]:
    """``SiftMatcher.match`` by the angles of all pairs."""
    ours, theirs = (one.descriptors.astype(np.float32) / UNIT for one in (first, second))
    angles = np.arccos(np.clip(ours @ theirs.T, -1, 1))
    nearest, rows = angles.argmin(axis=1), np.arange(len(angles))
    best, following = np.partition(angles, 1, axis=1)[:, :2].T
    mutual = angles.argmin(axis=0)[nearest] == rows
    keep = mutual & (best < matcher.max_ratio * following) & (best < matcher.max_angle)
    return np.column_stack([rows, nearest])[keep].tolist()


@pytest.mark.parametrize("product", [in_floats, in_integers])
def test_features_match_as_the_angles_of_all_pairs_say(product: Product) -> None:
    texture = random_texture(360, 264)
    matcher = SiftMatcher(product=product)
    first = matcher.describe(frame(texture[:240, :320]))
    second = matcher.describe(frame(texture[SHIFT[1] :, SHIFT[0] :]))
    assert matcher.match(first, second).tolist() == plain_match(matcher, first, second)


def test_pictures_of_different_things_hardly_match() -> None:
    texture = random_texture(640, 240)
    matcher = SiftMatcher()
    first, second = (matcher.describe(frame(half)) for half in (texture[:, :320], texture[:, 320:]))
    assert len(matcher.match(first, second)) < 0.02 * len(first.keypoints)


def test_nothing_is_found_outside_the_mask() -> None:
    mask = np.zeros((240, 320), dtype=bool)
    mask[:, :160] = True
    keypoints = SiftMatcher().describe(frame(random_texture(320, 240), mask)).keypoints
    assert len(keypoints) > 100
    assert keypoints[:, 0].max() < 161


def test_a_picture_with_little_texture_has_features_too() -> None:
    faint = (100 + random_texture(320, 240).astype(np.float32) / 10).astype(np.uint8)
    demanding = SiftMatcher(contrast=0.04)
    assert len(SiftMatcher().describe(frame(faint)).keypoints) > 2 * len(demanding.describe(frame(faint)).keypoints)


def test_features_are_limited_and_descriptors_have_length_1() -> None:
    features = SiftMatcher(max_features=50).describe(frame(random_texture(320, 240)))
    assert features.keypoints.shape == (50, 4)
    lengths = np.linalg.norm(features.descriptors.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, UNIT, rtol=0.01)


def test_a_blank_wall_gives_no_features_and_no_matches() -> None:
    matcher = SiftMatcher()
    blank = matcher.describe(frame(np.full((120, 160, 3), 128, dtype=np.uint8)))
    assert (blank.keypoints.shape, blank.descriptors.shape) == ((0, 4), (0, 128))
    assert matcher.match(blank, matcher.describe(frame(random_texture(320, 240)))).shape == (0, 2)


def test_a_match_must_be_mutual_and_better_than_the_next() -> None:
    """Three directions in a plane; of the second set, two look alike."""

    def features(*angles_deg: float) -> Features:
        angles = np.radians(angles_deg)
        plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        positive = np.maximum(np.concatenate([plane, -plane], axis=1), 0)  # bytes have no sign
        descriptors = np.round(UNIT * np.tile(positive, 32) / np.sqrt(32)).astype(np.uint8)
        return Features(np.zeros((len(angles), 4), np.float32), descriptors)

    matcher = SiftMatcher()
    assert matcher.match(features(0, 90), features(91, 2)).tolist() == [[0, 1], [1, 0]]
    assert matcher.match(features(0, 90), features(10, 12, 95)).tolist() == [[1, 2]]  # 10 and 12 are too alike
    assert matcher.match(features(0, 20, 90), features(25, 90)).tolist() == [[1, 0], [2, 1]]  # 25 prefers 20
    assert matcher.match(features(0, 90), features(48, -48)).tolist() == []  # too far
