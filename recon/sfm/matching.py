"""Local features and their matching: the interface for SIFT and learned matchers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.registry import Registry, loaded
from recon.core.types import Frame
from recon.sfm.products import Product, Products, in_floats

UNIT = 512  # length of a descriptor in bytes, as COLMAP stores it
Pair = tuple[int, int]  # frame indices, the smaller first


@dataclass(frozen=True, eq=False)
class Features:
    """What a matcher needs of one frame.

    keypoints: (n, 4), x, y, scale [px of the original image], angle [rad]; scale 1 and angle 0 if unknown, which gives
    no evidence of zooms. descriptors: (n, d) of any type; for an ``ImageMatcher`` of any shape, such as the image
    itself. size: (width, height) of the original [px].
    """

    keypoints: NDArray[np.float32]
    descriptors: NDArray[Any]
    size: tuple[int, int] = (0, 0)

    def largest(self, count: int) -> Features:
        """The ``count`` features of the largest scale; the first ones if scales are equal."""
        if len(self.keypoints) <= count:
            return self
        return self.rows(np.argsort(-self.keypoints[:, 2], kind="stable")[:count])

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Features:
        """The features of some rows."""
        return replace(self, keypoints=self.keypoints[chosen], descriptors=self.descriptors[chosen])


class Matcher(Protocol):
    """Matches the features of two frames, called from several threads at once. ``GuidedMatcher`` is an optional
    addition."""

    def describe(self, frame: Frame) -> Features:
        """Features of one frame, only inside its mask; the best first if they have no scale."""
        ...

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        """Matched rows (m, 2) of ``first`` and ``second``."""
        ...


@runtime_checkable
class GuidedMatcher(Protocol):
    """A matcher that finds more matches once the geometry of a pair is known; called if a pair has few."""

    def match_guided(self, first: Features, second: Features, allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Like ``match``. allowed: (n1, n2), True for features that may be matched."""
        ...


@runtime_checkable
class ImageMatcher(Protocol):
    """Matches images rather than features, two at a time or many together."""

    def describe(self, frame: Frame) -> Features:
        """What ``match_images`` needs of a frame, such as its image as descriptors; keypoints are optional. Called from
        several threads at once."""
        ...

    def match_images(
        self, pairs: Sequence[Pair], features: Callable[[int], Features]
    ) -> Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]:
        """Matched original pixels (m, 2) in both frames of each pair, in the order of ``pairs``, the best first.

        pairs: all pairs to match in this call, such as those of a chunk. features: gives a frame's features by index.
        A pixel at most one working pixel from a keypoint stands for that keypoint; others become new keypoints.
        """
        ...


AnyMatcher = Matcher | ImageMatcher


@dataclass(frozen=True)
class SiftMatcher:
    """RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012), matched by ratio test and mutual nearest neighbours.

    Descriptors are bytes: UNIT times those of unit length. contrast, edge_ratio: OpenCV's thresholds, chosen so that
    blank walls still give tracks: on a walk through an office they yield nearly as many verified matches as COLMAP's
    detector at its own low threshold, and half as many again as a contrast of 0.02. max_ratio: of the angles to the two
    nearest descriptors. max_angle: to the nearest [rad]. product: of all descriptors with all, see ``fastest_product``.
    """

    max_features: int = 2048
    contrast: float = 0.005
    edge_ratio: float = 20.0
    max_ratio: float = 0.8
    max_angle: float = 0.7
    product: Product = in_floats

    def describe(self, frame: Frame) -> Features:
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        mask = None if frame.mask.all() else frame.mask.astype(np.uint8)
        sift = cv2.SIFT.create(
            self.max_features,
            contrastThreshold=self.contrast,
            edgeThreshold=self.edge_ratio,
            enable_precise_upscale=True,
        )
        points, descriptors = sift.detectAndCompute(grey, mask)
        if not points:
            return Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8), frame.original_size)
        # Ties and orientations can make the detector exceed its limit.
        points, descriptors = points[: self.max_features], descriptors[: self.max_features]
        to_original = frame.original_size[0] / frame.image.shape[1]
        keypoints = np.array([(p.pt[0] + 0.5, p.pt[1] + 0.5, p.size / 2, np.deg2rad(p.angle)) for p in points])
        keypoints[:, :3] *= to_original
        root = UNIT * np.sqrt(descriptors / np.maximum(np.abs(descriptors).sum(1, keepdims=True), 1e-9))
        as_bytes = np.minimum(np.round(root), 255).astype(np.uint8)
        return Features(keypoints.astype(np.float32), as_bytes, frame.original_size)

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        if min(len(first.keypoints), len(second.keypoints)) < 2:
            return np.zeros((0, 2), np.uint32)
        similarity = _similarity(self.product, first, second)
        rows, partner = np.arange(len(similarity)), similarity.argmax(axis=1)
        best = similarity[rows, partner]
        mutual = best == similarity.max(axis=0)[partner]
        similarity[rows, partner] = -1
        keep = mutual & self._is_distinctive(best, similarity.max(axis=1))
        similarity[rows, partner] = best
        return np.column_stack([rows[keep], partner[keep]]).astype(np.uint32)

    def match_guided(self, first: Features, second: Features, allowed: NDArray[np.bool_]) -> NDArray[np.uint32]:
        # Few are allowed, so a list of them is shorter than the matrix.
        places = np.flatnonzero(allowed)
        if not len(places):
            return np.zeros((0, 2), np.uint32)
        rows, columns = places // allowed.shape[1], places % allowed.shape[1]
        similarity = _similarity(self.product, first, second).ravel()[places]
        starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
        group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(rows)]))
        best = np.maximum.reduceat(similarity, starts)
        at = np.flatnonzero(similarity == best[group])
        at = at[np.r_[True, group[at[1:]] != group[at[:-1]]]]  # the first of equal ones
        best_of_column = np.full(allowed.shape[1], -1, similarity.dtype)
        np.maximum.at(best_of_column, columns, similarity)
        similarity[at] = -1
        mutual = best == best_of_column[columns[at]]
        keep = mutual & self._is_distinctive(best, np.maximum.reduceat(similarity, starts))
        return np.column_stack([rows[at][keep], columns[at][keep]]).astype(np.uint32)

    def _is_distinctive(self, best: Products, following: Products) -> NDArray[np.bool_]:
        """Whether products with the nearest descriptor pass the ratio test with those with the following one."""
        angle, next_angle = (np.arccos(np.clip(one / np.float32(UNIT**2), -1, 1)) for one in (best, following))
        return np.asarray((angle < self.max_ratio * next_angle) & (angle < self.max_angle))


_memory = threading.local()


def _similarity(product: Product, first: Features, second: Features) -> Products:
    """Products (n1, n2) of all descriptors. The thread keeps those of one pair of frames: a guided match follows the
    first one, and allocating a matrix takes a fifth of the matching time."""
    last = getattr(_memory, "pair", None)
    if last is None or first.descriptors is not last[0] or second.descriptors is not last[1]:
        matrix = _scratch(len(first.keypoints), len(second.keypoints))
        _memory.similarity = product(first.descriptors, second.descriptors, matrix)
        _memory.pair = first.descriptors, second.descriptors
    similarity: Products = _memory.similarity
    return similarity


def _scratch(rows: int, columns: int) -> NDArray[np.int32]:
    """A matrix that the thread's next call overwrites."""
    if getattr(_memory, "values", np.empty(0, np.int32)).size < rows * columns:
        _memory.values = np.empty(rows * columns, np.int32)
    return np.asarray(_memory.values[: rows * columns].reshape(rows, columns))


MATCHERS: Registry[str | Callable[[], AnyMatcher]] = Registry("matcher", {"sift": SiftMatcher})


def open_matcher(name: str) -> AnyMatcher:
    """The matcher of that name, with its weights loaded. Raises ReconError if it is unknown or cannot work."""
    return loaded(MATCHERS.known(name))()
