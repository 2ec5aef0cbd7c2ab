"""Whether two places are the same, by geometry: local features with depth on both sides, then whole depth maps.

Matched features are points in both chunks, so three of them give a similarity, with scale. RANSAC finds the similarity
that projects most features of either side onto their matches on the other. It must then hold for the depth maps as
well: where both see a surface, they must see the same one. This excludes places that merely share a poster or a kind of
chair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from recon.core.projection import back_project, moved_to_chunk
from recon.core.similarity import Array, Sim3
from recon.core.types import Frame, FrameGeometry
from recon.mapping.overlap import shared_surface
from recon.sfm.matching import Features, Matcher, SiftMatcher

SEED = 0
JUDGES = 300  # matches used to compare hypotheses
MAX_DISTORTION = 1.5  # of a triangle's sides between the two chunks
FRAMES_IN_MEMORY = 256  # half a megabyte each
GRID = 4  # cells along a side in which inliers are counted


@dataclass(frozen=True)
class VerificationSettings:
    """Criteria for a loop. trials: RANSAC hypotheses. max_error: reprojection error as a share of the image's width.

    max_depth_error: relative, of a single point. min_inliers; min_share: of the matches. min_cells: of the 4 x 4 cells
    of each image that hold inliers. min_overlap: share of a depth map seen by the other. min_agreement: share of the
    overlap with the same depth. matcher: its features are fewer and stronger than those for mapping; they confirm as
    many loops in two thirds of the time.
    """

    trials: int = 1000
    max_error: float = 0.015
    max_depth_error: float = 0.15
    min_inliers: int = 20
    min_share: float = 0.3
    min_cells: int = 4
    min_overlap: float = 0.15
    min_agreement: float = 0.6
    matcher: Matcher = field(default_factory=lambda: SiftMatcher(max_features=1000, contrast=0.02))


@dataclass(frozen=True, eq=False)
class Verification:
    """first_from_second: between chunk frames; None if the places are not confirmed to be the same, with the
    ``reason``.

    residual: median reprojection error of the inliers as a share of the image's width. agreement: of depth, 0..1.
    """

    first_from_second: Sim3 | None
    matches: int
    inliers: int
    residual: float
    agreement: float
    reason: str


@dataclass(frozen=True, eq=False)
class _Side:
    """One end of the matches: points (n, 3) in the chunk, pixels (n, 2), depth (n,), and their cameras.

    cam_from_chunk: (n, 4, 4). intrinsics: (n, 3, 3). width: of the images [px].
    """

    points: Array
    pixels: Array
    depth: Array
    cam_from_chunk: Array
    intrinsics: Array
    width: int

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Side:
        return _Side(
            points=self.points[chosen],
            pixels=self.pixels[chosen],
            depth=self.depth[chosen],
            cam_from_chunk=self.cam_from_chunk[chosen],
            intrinsics=self.intrinsics[chosen],
            width=self.width,
        )


class Verifier:
    """Verifies candidates of one map or pair of maps, in which no two frames have the same index."""

    def __init__(self, settings: VerificationSettings | None = None) -> None:
        self._settings = settings or VerificationSettings()
        self._features = _FrameFeatures(self._settings.matcher)

    def in_turn(
        self, candidates: Iterable[tuple[Sequence[FrameGeometry], Sequence[FrameGeometry]]], patience: int
    ) -> list[Verification]:
        """``verify`` for each, until the last ``patience`` are all rejected; then the rest is left out."""
        found = list[Verification]()
        for first, second in candidates:
            found.append(self.verify(first, second))
            if len(found) >= patience and not any(one.first_from_second for one in found[-patience:]):
                break
        return found

    def verify(self, first: Sequence[FrameGeometry], second: Sequence[FrameGeometry]) -> Verification:
        """Compare two places, each seen by a few frames of one chunk, by confident depth."""
        with threadpool_limits(1, "blas"):  # the matrices are small: more threads mostly wait for each other
            return _verify(first, second, self._settings, self._features)


def verify(
    first: Sequence[FrameGeometry], second: Sequence[FrameGeometry], settings: VerificationSettings | None = None
) -> Verification:
    """See ``Verifier.verify``."""
    return Verifier(settings).verify(first, second)


def _verify(
    first: Sequence[FrameGeometry],
    second: Sequence[FrameGeometry],
    settings: VerificationSettings,
    features: _FrameFeatures,
) -> Verification:
    if not first or not second:
        return Verification(None, 0, 0, 0.0, 0.0, "a frame has no geometry")
    first, second = ([frame.sure() for frame in frames] for frames in (first, second))
    a, b = _matched(first, second, features)
    count = len(a.points)
    if count < settings.min_inliers:
        return Verification(None, count, 0, 0.0, 0.0, f"only {count} features with depth match")
    found, inliers = _search(a, b, settings)
    number = int(inliers.sum())
    if found is None or number < max(settings.min_inliers, settings.min_share * count):
        return Verification(None, count, number, 0.0, 0.0, f"only {number} of {count} matches agree on a similarity")
    found, inliers = _refined(found, inliers, a, b, settings)
    if not inliers.any():
        return Verification(None, count, 0, 0.0, 0.0, "no match agrees with the refined similarity")
    a, b = a.rows(inliers), b.rows(inliers)
    residual, agreement = float(np.median(_errors(found, a, b))), _dense_agreement(found, first, second, settings)
    cells = min(_cells(a, first), _cells(b, second))
    reason = _objection(len(a.points), cells, agreement, settings)
    return Verification(None if reason else found, count, len(a.points), residual, agreement or 0.0, reason)


def _objection(inliers: int, cells: int, agreement: float | None, settings: VerificationSettings) -> str:
    """Why a similarity is rejected; empty if it is accepted."""
    if inliers < settings.min_inliers or cells < settings.min_cells:
        return f"the {inliers} matches that agree lie in {cells} of {GRID * GRID} parts of the image"
    if agreement is None:
        return "the two views do not overlap enough to compare their depth"
    if agreement < settings.min_agreement:
        return f"only {agreement:.0%} of the depth agrees where both views see a surface"
    return ""


class _FrameFeatures:
    """The features of frames, those of the last FRAMES_IN_MEMORY kept: candidates share frames."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._found: dict[int, Features] = {}

    def with_depth(self, geometry: FrameGeometry) -> Features:
        """The features of a frame's undistorted image that have depth."""
        features = self._found.pop(geometry.index, None)
        if features is None:
            height, width = geometry.depth.shape
            mask = np.ones((height, width), dtype=bool)
            frame = Frame(geometry.index, 0.0, geometry.colour, "", (width, height), "", 0.0, mask)
            features = self.matcher.describe(frame)
        self._found[geometry.index] = features  # the latest come last
        if len(self._found) > FRAMES_IN_MEMORY:
            del self._found[next(iter(self._found))]
        rows, columns = _cell_of(features.keypoints, geometry)
        return features.rows(geometry.depth[rows, columns] > 0)


def _matched(
    first: Sequence[FrameGeometry], second: Sequence[FrameGeometry], features: _FrameFeatures
) -> tuple[_Side, _Side]:
    """Both ends of the matches between every frame of the one place and every frame of the other."""
    ends_a, ends_b = ([(frame, features.with_depth(frame)) for frame in frames] for frames in (first, second))
    sides = []
    for frame_a, features_a in ends_a:
        for frame_b, features_b in ends_b:
            rows = features.matcher.match(features_a, features_b).astype(np.int64)
            sides.append((_side(frame_a, features_a, rows[:, 0]), _side(frame_b, features_b, rows[:, 1])))
    return _joined([a for a, _ in sides]), _joined([b for _, b in sides])


def _cell_of(pixels: NDArray[np.floating], geometry: FrameGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the depth map under each pixel position."""
    limits = np.array(geometry.depth.shape[::-1]) - 1
    columns, rows = np.clip(np.floor(pixels[:, :2]).astype(np.int64), 0, limits).T
    return rows, columns


def _side(geometry: FrameGeometry, features: Features, chosen: NDArray[np.int64]) -> _Side:
    pixels = features.keypoints[chosen, :2].astype(np.float64)
    rows, columns = _cell_of(pixels, geometry)
    depth = geometry.depth[rows, columns].astype(np.float64)
    points = moved_to_chunk(back_project(pixels, depth, geometry.intrinsics), geometry.cam_from_chunk)
    cameras = np.broadcast_to(geometry.cam_from_chunk, (len(points), 4, 4))
    intrinsics = np.broadcast_to(geometry.intrinsics, (len(points), 3, 3))
    return _Side(points, pixels, depth, cameras, intrinsics, geometry.depth.shape[1])


def _joined(sides: Sequence[_Side]) -> _Side:
    return _Side(
        points=np.concatenate([side.points for side in sides]),
        pixels=np.concatenate([side.pixels for side in sides]),
        depth=np.concatenate([side.depth for side in sides]),
        cam_from_chunk=np.concatenate([side.cam_from_chunk for side in sides]),
        intrinsics=np.concatenate([side.intrinsics for side in sides]),
        width=sides[0].width,
    )


def _search(a: _Side, b: _Side, settings: VerificationSettings) -> tuple[Sim3 | None, NDArray[np.bool_]]:
    """The similarity, from three matches, with the most inliers, and these inliers."""
    rng, count = np.random.default_rng(SEED), len(a.points)
    samples = rng.integers(count, size=(settings.trials, 3))
    judges = np.sort(rng.permutation(count)[:JUDGES])
    trials = _from_threes(a.points[samples], b.points[samples])
    if not len(trials.scale):
        return None, np.zeros(count, dtype=bool)
    votes = _agreeing(trials, a.rows(judges), b.rows(judges), settings).sum(axis=0)
    best = trials.pick(int(votes.argmax()))
    return best, _inliers(best, a, b, settings)


@dataclass(frozen=True, eq=False)
class _Trials:
    """Hypotheses: scale (n,), rotation (n, 3, 3) and translation (n, 3) of a_from_b."""

    scale: Array
    rotation: Array
    translation: Array

    def pick(self, row: int) -> Sim3:
        return Sim3(float(self.scale[row]), self.rotation[row], self.translation[row])

    def matrices(self) -> Array:
        """a_from_b (n, 3, 4)."""
        return np.concatenate([self.scale[:, None, None] * self.rotation, self.translation[:, :, None]], axis=2)

    def inverse(self) -> _Trials:
        """b_from_a."""
        turned = np.swapaxes(self.rotation, 1, 2)
        moved = np.einsum("nij,nj->ni", turned, self.translation)
        return _Trials(1 / self.scale, turned, -moved / self.scale[:, None])


def _from_threes(points_a: Array, points_b: Array) -> _Trials:
    """Similarities from three points each (n, 3, 3), as in Umeyama 1991; points that coincide or differ in shape give
    none.
    """
    sides_a, sides_b = (np.linalg.norm(p - np.roll(p, 1, axis=1), axis=2) for p in (points_a, points_b))
    apart = np.minimum(sides_a.min(axis=1), sides_b.min(axis=1)) > 0
    ratios = sides_a[apart] / sides_b[apart]
    kept = np.flatnonzero(apart)[ratios.max(axis=1) <= MAX_DISTORTION * ratios.min(axis=1)]
    mean_a, mean_b = points_a[kept].mean(axis=1), points_b[kept].mean(axis=1)
    centred_a, centred_b = points_a[kept] - mean_a[:, None], points_b[kept] - mean_b[:, None]
    left, singular, right = np.linalg.svd(np.swapaxes(centred_a, 1, 2) @ centred_b)
    signs = np.ones((len(kept), 3))
    signs[:, 2] = np.sign(np.linalg.det(left) * np.linalg.det(right))
    rotation = (left * signs[:, None]) @ right
    scale = (singular * signs).sum(axis=1) / (centred_b**2).sum(axis=(1, 2))
    positive = scale > 0
    scale, rotation, mean_a, mean_b = (values[positive] for values in (scale, rotation, mean_a, mean_b))
    translation = mean_a - scale[:, None] * np.einsum("nij,nj->ni", rotation, mean_b)
    return _Trials(scale, rotation, translation)


def _inliers(first_from_second: Sim3, a: _Side, b: _Side, settings: VerificationSettings) -> NDArray[np.bool_]:
    """Which matches (n,) agree with a similarity."""
    one = _Trials(*(np.array([part]) for part in astuple(first_from_second)))
    return _agreeing(one, a, b, settings)[:, 0]


def _agreeing(trials: _Trials, a: _Side, b: _Side, settings: VerificationSettings) -> NDArray[np.bool_]:
    """(n, trials): which matches project onto each other on both sides, at the depth that was measured there."""
    agree = np.ones((len(a.points), len(trials.scale)), dtype=bool)
    for to_side, points, side in ((trials, b.points, a), (trials.inverse(), a.points, b)):
        x, y, depth = _projected(to_side.matrices(), points, side)
        off_x, off_y = x - side.pixels[:, :1] * depth, y - side.pixels[:, 1:] * depth
        agree &= off_x**2 + off_y**2 < (settings.max_error * side.width * depth) ** 2
        measured, tolerance = side.depth[:, None], 1 + settings.max_depth_error
        agree &= (depth < measured * tolerance) & (depth * tolerance > measured)
    return agree


def _projected(to_side: Array, points: Array, side: _Side) -> tuple[Array, Array, Array]:
    """Pixels times depth, and depth, each (n, trials), of points (n, 3) moved by similarities (trials, 3, 4).

    A projection is linear in the 12 values of a similarity, so that one matrix product does all of them.
    """
    cameras = side.intrinsics @ side.cam_from_chunk[:, :3]
    homogeneous = np.column_stack([points, np.ones(len(points))])
    coefficients = cameras[:, :, :3, None] * homogeneous[:, None, None, :]
    moved = coefficients.reshape(-1, 12) @ to_side.reshape(-1, 12).T + cameras[:, :, 3].reshape(-1, 1)
    x, y, depth = np.moveaxis(moved.reshape(len(points), 3, -1), 1, 0)
    return x, y, depth


def _errors(first_from_second: Sim3, a: _Side, b: _Side) -> Array:
    """The larger of the two reprojection errors of each match, as a share of the image's width."""
    into_a, _ = _project(first_from_second.apply(b.points), a)
    into_b, _ = _project(first_from_second.inverse().apply(a.points), b)
    errors = [np.linalg.norm(p - s.pixels, axis=1) / s.width for p, s in ((into_a, a), (into_b, b))]
    return np.asarray(np.maximum(errors[0], errors[1]))


def _project(points_chunk: Array, side: _Side) -> tuple[Array, Array]:
    """Pixels (n, 2) and depth (n,) of points (n, 3) of the side's chunk in its cameras."""
    points_cam = np.einsum("nij,nj->ni", side.cam_from_chunk[:, :3, :3], points_chunk)
    points_cam = points_cam + side.cam_from_chunk[:, :3, 3]
    homogeneous = np.einsum("nij,nj->ni", side.intrinsics[:, :2], points_cam)
    depth = points_cam[:, 2]
    return homogeneous / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[:, None], depth


def _refined(
    start: Sim3, inliers: NDArray[np.bool_], a: _Side, b: _Side, settings: VerificationSettings
) -> tuple[Sim3, NDArray[np.bool_]]:
    """The similarity with the least reprojection and depth error over its inliers, and its inliers."""
    kept_a, kept_b = a.rows(inliers), b.rows(inliers)

    def residuals(step: Array) -> Array:
        moved = start @ _similarity(step)
        parts = []
        for to_side, points, side in ((moved, kept_b.points, kept_a), (moved.inverse(), kept_a.points, kept_b)):
            pixels, depth = _project(to_side.apply(points), side)
            parts.append(((pixels - side.pixels) / (side.width * settings.max_error)).ravel())
            parts.append(np.log(np.maximum(depth, 1e-12) / side.depth) / settings.max_depth_error)
        return np.concatenate(parts)

    size = float(np.median(np.linalg.norm(kept_b.points - np.median(kept_b.points, axis=0), axis=1)))
    scales = np.array([0.01, 0.01, 0.01, *[0.01 * max(size, 1e-9)] * 3, 0.01])
    solved = least_squares(residuals, np.zeros(7), loss="soft_l1", f_scale=0.3, x_scale=scales, max_nfev=30)
    refined = start @ _similarity(solved.x)
    return refined, _inliers(refined, a, b, settings)


def _similarity(step: Array) -> Sim3:
    """Rotation vector (3), translation (3), log of scale (1)."""
    return Sim3(float(np.exp(step[6])), Rotation.from_rotvec(step[:3]).as_matrix(), step[3:6])


def _cells(side: _Side, frames: Sequence[FrameGeometry]) -> int:
    height, width = frames[0].depth.shape
    return occupied_cells(side.pixels, (width, height))


def occupied_cells(pixels: Array, size: tuple[int, int]) -> int:
    """Number of cells of an image of this (width, height) that contain pixels (n, 2)."""
    cells = np.clip(np.floor(pixels / size * GRID).astype(np.int64), 0, GRID - 1)
    return len(np.unique(cells[:, 0] * GRID + cells[:, 1]))


def _dense_agreement(
    first_from_second: Sim3,
    first: Sequence[FrameGeometry],
    second: Sequence[FrameGeometry],
    settings: VerificationSettings,
) -> float | None:
    """Share of the overlap in which both depth maps see the same surface, over both directions.

    None if even the best overlap of two frames is too small.
    """
    best: tuple[float, float] | None = None
    for a in first:
        for b in second:
            there = shared_surface(first_from_second, b, a, settings.max_depth_error)
            back = shared_surface(first_from_second.inverse(), a, b, settings.max_depth_error)
            overlap, agreement = min(there[0], back[0]), min(there[1], back[1])
            if overlap >= settings.min_overlap and (best is None or overlap > best[0]):
                best = overlap, agreement
    return None if best is None else best[1]
