"""Judges the camera's motion from the matches of some frames, before mapping.

Two views of a camera that only turns differ by the homography ``K R K^-1``, whatever the scene. A flat scene seen from
several places also gives homographies, but no single lens brings them into that form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import cv2
import numpy as np

from recon.core.cameras import colmap_camera, points_at_depth_one
from recon.core.refusal import Hindrance
from recon.core.similarity import Array
from recon.core.types import Camera
from recon.sfm.database import MatchDatabase
from recon.sfm.mapping import read_camera
from recon.sfm.matching import Pair

FEW_FEATURES = 60  # in a frame
ENOUGH_MATCHES = 30
STILL_MANY = 0.25
FEWEST_PAIRS = 3  # some lens explains one or two homographies as rotations
NEARLY_ALL = 0.8  # of the pairs, by number or by matches
PAIRS_FOR_LENS, MATCHES_FOR_LENS = 12, 80
FLAT_WITHIN, FLAT_SHARE = 2.0, 0.9  # px; share of the area with matches that one plane explains
FLAT_CELLS = 12  # along either side of an image
FOCALS = np.geomspace(0.3, 2.5, 24)  # in widths
LONGEST_FOCAL = 1.5  # in widths; for longer lenses, turning looks like a shift along a plane
REFINEMENTS = (1.05, 1.025, 1.012, 1.006)
NO_PARALLAX = np.radians(0.25)  # a sixth of the angle that the most lenient mapping needs
STANDS_STILL = 1.5  # px
ENOUGH_MOVING = 0.1  # of the matches
ROUNDS = 6
ORDERED_SHARE = 0.7  # of the frames


@dataclass(frozen=True, eq=False)
class _Views:
    """Matches of one pair of frames: pixels (n, 2) in each."""

    first: Array
    second: Array

    def thinned(self, count: int) -> _Views:
        rows = np.random.default_rng(0).permutation(len(self.first))[:count]
        return _Views(self.first[rows], self.second[rows])


def find_hindrance(database: MatchDatabase, frames: Sequence[int], lens: Camera | None) -> Hindrance | None:
    """Why these frames, at least two, cannot give a map; None if nothing prevents it.

    lens: the calibrated lens; None to estimate it.
    """
    if np.median([len(database.positions(index)) for index in frames]) < FEW_FEATURES:
        return Hindrance.FEATURELESS
    if database.shots.within(frames) and not database.shots.to_begin_with(frames, database.inliers):
        return Hindrance.RIG
    scale = database.pixel_scale(frames)
    if still := _find_stillness(database, frames, scale):
        return still
    if not far_pairs(database, frames):
        return Hindrance.APART
    return Hindrance.TURNED if hardly_moves(database, frames, lens) else None


def hardly_moves(database: MatchDatabase, frames: Sequence[int], lens: Camera | None) -> bool:
    """Whether rotation alone explains nearly all matches between distant frames."""
    pairs = far_pairs(database, frames)
    if len(pairs) < FEWEST_PAIRS:
        return False
    views = [_verified(database, pair) for pair in pairs]
    camera, scale = read_camera(database.lenses[frames[0]]), database.pixel_scale(frames)
    return only_turned(views, camera, scale, known=lens is not None)


def is_nearly_flat(database: MatchDatabase, frames: Sequence[int]) -> bool:
    """Whether, between distant frames, one homography per pair explains the matches nearly everywhere.

    That also holds for a camera that only turns; see ``hardly_moves``.
    """
    camera, scale = read_camera(database.lenses[frames[0]]), database.pixel_scale(frames)
    shares = [_flat_share(_verified(database, pair), camera, scale) for pair in far_pairs(database, frames)]
    return len(shares) >= FEWEST_PAIRS and float(np.quantile(shares, 1 - NEARLY_ALL)) >= FLAT_SHARE


def _flat_share(views: _Views, camera: Camera, scale: float) -> float:
    """Share of the area with matches, not of the matches, that the best homography explains."""
    flat = _homography_residuals(views, scale) < FLAT_WITHIN * scale
    cells = (views.first / (camera.width, camera.height) * FLAT_CELLS).astype(np.int64) @ (1, FLAT_CELLS)
    _, numbers, counts = np.unique(cells, return_inverse=True, return_counts=True)
    return float((np.bincount(numbers, flat) / counts).mean())


def far_pairs(database: MatchDatabase, frames: Sequence[int]) -> list[Pair]:
    """Each frame paired with the last later one that shares many matches, relative to its best partner.

    Fewer matches may come from two places that look alike.
    """
    partners: dict[int, dict[int, int]] = {}
    for first, second in database.verified_pairs(frames):
        partners.setdefault(first, {})[second] = database.inliers(first, second)
    pairs = []
    for first, counts in sorted(partners.items()):
        enough = max(ENOUGH_MATCHES, STILL_MANY * max(counts.values()))
        pairs += [(first, second) for second in sorted(counts) if counts[second] >= enough][-1:]
    return pairs


def _verified(database: MatchDatabase, pair: Pair) -> _Views:
    rows = database.verified_matches(pair)
    return _Views(database.positions(pair[0])[rows[:, 0]], database.positions(pair[1])[rows[:, 1]])


def only_turned(pairs: Sequence[_Views], camera: Camera, scale: float, *, known: bool) -> bool:
    """Whether rotations of one lens explain nearly all pairs as well as any homography does, without parallax.

    scale: original pixels per working pixel. known: ``camera`` is calibrated; if not, only its size is used.
    """
    lens = _KnownLens(camera) if known else _find_lens(pairs, camera)
    if not known and lens.focal > LONGEST_FOCAL * max(camera.width, camera.height):
        return False
    explained = [_explained(lens, views, scale) for views in pairs]
    weights = [len(views.first) for views in pairs]
    return float(np.average(explained, weights=weights)) >= NEARLY_ALL


def _explained(lens: _Lens, views: _Views, scale: float) -> bool:
    angle = float(np.median(rotation_residuals(lens.rays(views.first)[None], lens.rays(views.second)[None])))
    return angle < NO_PARALLAX and angle * lens.focal < 1.5 * _homography_residual(views, scale) + 0.1 * scale


def _homography_residual(views: _Views, scale: float) -> float:
    """Median residual [px] of the best homography."""
    return float(np.median(_homography_residuals(views, scale)))


def _homography_residuals(views: _Views, scale: float) -> Array:
    """Residuals (n,) [px] of the best homography; infinite if there is none."""
    homography, _ = cv2.findHomography(views.first, views.second, cv2.RANSAC, 4 * scale)
    if homography is None:
        return np.full(len(views.first), np.inf)
    mapped = cv2.perspectiveTransform(views.first[None], homography)[0]
    return np.asarray(np.linalg.norm(mapped - views.second, axis=1))


@dataclass(frozen=True)
class _SimpleLens:
    """focal: [px]. bend: undistorting scales the radius r, in focal lengths, by 1 + bend * r**2."""

    width: int
    height: int
    focal: float
    bend: float = 0.0

    def rays(self, pixels: Array) -> Array:
        """Directions (..., 3) of pixels (..., 2)."""
        plane = (pixels - (self.width / 2, self.height / 2)) / self.focal
        plane = plane * (1 + self.bend * (plane**2).sum(axis=-1, keepdims=True))
        return np.concatenate([plane, np.ones_like(plane[..., :1])], axis=-1)


@dataclass(frozen=True)
class _KnownLens:
    camera: Camera

    @property
    def focal(self) -> float:
        return float(self.camera.matrix()[0, 0])

    def rays(self, pixels: Array) -> Array:
        """Directions (n, 3) of pixels (n, 2)."""
        return np.column_stack([points_at_depth_one(colmap_camera(self.camera), pixels), np.ones(len(pixels))])


_Lens = _SimpleLens | _KnownLens


def _find_lens(pairs: Sequence[_Views], camera: Camera) -> _SimpleLens:
    """The lens for which rotations explain the pairs best."""
    some = [views for views in pairs[:: max(1, len(pairs) // PAIRS_FOR_LENS)] if len(views.first) >= ENOUGH_MATCHES]
    count = min(MATCHES_FOR_LENS, *(len(views.first) for views in some))
    thinned = [views.thinned(count) for views in some]
    first, second = np.stack([views.first for views in thinned]), np.stack([views.second for views in thinned])

    def cost(lens: _SimpleLens) -> float:
        residuals = np.median(rotation_residuals(lens.rays(first), lens.rays(second)), axis=-1)
        return float(np.minimum(lens.focal * residuals, 0.03 * camera.width).mean())

    size = camera.width, camera.height
    best = min((_SimpleLens(*size, share * max(size)) for share in FOCALS), key=cost)
    for step in REFINEMENTS:
        for _ in range(2):
            near = product((best.focal / step, best.focal, best.focal * step), (1 - step, 0, step - 1))
            best = min((_SimpleLens(*size, focal, best.bend + change) for focal, change in near), key=cost)
    return best


def rotation_residuals(first: Array, second: Array) -> Array:
    """Angles (pairs, n) [rad] between rays (pairs, n, 3) after the best rotation of each pair.

    The fit is Kabsch's method, reweighted by Geman and McClure's kernel.
    """
    first, second = (rays / np.linalg.norm(rays, axis=-1, keepdims=True) for rays in (first, second))
    weights = np.ones(first.shape[:2])
    residuals = weights
    for _ in range(ROUNDS):
        left, _, right = np.linalg.svd(np.einsum("pn,pni,pnj->pij", weights, second, first))
        left[:, :, 2] *= np.sign(np.linalg.det(left) * np.linalg.det(right))[:, None]
        residuals = np.linalg.norm(first @ (left @ right).mT - second, axis=-1)
        widths = 1.5 * np.maximum(np.median(residuals, axis=-1, keepdims=True), 1e-9)
        weights = 1 / (1 + (residuals / widths) ** 2) ** 2
    return np.asarray(residuals)


def _find_stillness(database: MatchDatabase, frames: Sequence[int], scale: float) -> Hindrance | None:
    """STILL or TURNTABLE if most matches between distant frames have not moved."""
    shares = _still_shares(database, list(zip(frames, frames[len(frames) // 2 :], strict=False)), scale)
    if not shares:  # those pairs were not matched; require that all matched ones stand still
        shares = [min(_still_shares(database, _farthest_pairs(database, frames), scale), default=0.0)]
    if np.median(shares) < 0.5:
        return None
    neighbours = [_shifts(database, pair) for pair in pairwise(frames)]
    moving = [float((shift > 2 * STANDS_STILL * scale).mean()) for shift in neighbours if len(shift)]
    return Hindrance.TURNTABLE if np.median(moving) > ENOUGH_MOVING else Hindrance.STILL


def _still_shares(database: MatchDatabase, pairs: Sequence[Pair], scale: float) -> list[float]:
    """Share of matches that have not moved, for each pair with enough matches."""
    shifts = [_shifts(database, pair) for pair in pairs]
    return [float((shift < STANDS_STILL * scale).mean()) for shift in shifts if len(shift) >= ENOUGH_MATCHES]


def _farthest_pairs(database: MatchDatabase, frames: Sequence[int]) -> list[Pair]:
    """Each frame paired with the last later one that it was matched with."""
    after = [[(first, last) for last in frames[row + 1 :]] for row, first in enumerate(frames)]
    matched = [[pair for pair in pairs if database.matched(pair)] for pairs in after]
    return [pairs[-1] for pairs in matched if pairs]


def _shifts(database: MatchDatabase, pair: Pair) -> Array:
    """Shifts (n,) [px of the original] of a pair's matches, before geometric verification."""
    rows = database.matches(pair)
    first, second = (database.positions(index)[rows[:, side]] for side, index in enumerate(pair))
    return np.asarray(np.linalg.norm(first - second, axis=1))


def shared_over(database: MatchDatabase, indices: list[int], step: int) -> float:
    """Matches of frames ``step`` places apart, relative to neighbours; near 1 in slow motion."""
    windows = (database.shots.window(indices, (gap,), same=True) for gap in (1, step))
    near, far = ([database.inliers(*pair) for pair in window] for window in windows)
    return float(np.median(far) / max(np.median(near), 1)) if far else 0.0


def is_ordered(database: MatchDatabase, indices: list[int]) -> bool:
    """Whether most frames match the next one, as in a walk or a ring of photos; of a rig, any of a shot."""
    neighbours: dict[int, bool] = {}
    for first, second in database.shots.window(indices, (1,)):
        shot = database.shots.of(first)
        neighbours[shot] = neighbours.get(shot, False) or database.inliers(first, second) > 0
    return sum(neighbours.values()) >= ORDERED_SHARE * len(neighbours)
