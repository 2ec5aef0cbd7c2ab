"""Cleans depth maps just before they become a cloud or a mesh; the map itself keeps all depth.

First, depth of low confidence and flying pixels are removed from each frame. Then each frame is compared with frames
near it: depth that they do not confirm or that they see through is removed, and the rest is averaged over all of them.
Sky is removed on request. docs/formats.md gives the rules with their numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.types import DepthMap, FrameGeometry, Mask, PlacedFrame
from recon.core.warping import look_up
from recon.settings import CloudSettings
from recon.store.frame_arrays import CONFIDENCE_LEVELS
from recon.store.map import ReconstructedMap

PosedGeometry = tuple[PlacedFrame, FrameGeometry]

DOUBTFUL_SHARE = 0.05  # of the map's depth: the least confident part
EDGE_STEP = 0.05  # of the depth, between neighbouring pixels
NEIGHBOURS = (1, 2, 4, 8, 16)  # frames before and after
AGREEMENT = 0.01  # of the depth
SEEN_THROUGH = 0.03  # of the depth: distance by which a neighbour sees behind a point
SKY_BRIGHTNESS = 110
SKY_GRADIENT = 12  # grey levels per pixel
SKY_SHARE = 0.02  # of the image


@dataclass(frozen=True)
class Survey:
    """Statistics of all depth in a map.

    footprint: median over the frames of the size of a depth pixel on the surface, in world units; 1 if there is no
    depth. doubtful: the confidence in 0..1 below which DOUBTFUL_SHARE of the depth lies.
    """

    footprint: float
    doubtful: float


def own_depth(reconstruction: ReconstructedMap) -> Iterator[PosedGeometry]:
    """The frames whose depth was computed; propagated depth would only repeat that of others, errors included."""
    return (posed for posed in reconstruction.geometry() if not posed[1].propagated)


def survey(frames: Iterable[PosedGeometry]) -> Survey:
    """Read all depth once."""
    sizes = []
    histogram = np.zeros(CONFIDENCE_LEVELS + 1, dtype=np.int64)
    for frame, geometry in frames:
        found = (geometry.depth > 0) & (geometry.confidence > 0)
        if found.any():
            depth = float(np.median(geometry.depth[found]))
            sizes.append(frame.world_from_cam.scale * depth / geometry.intrinsics[0, 0])
            levels = np.round(geometry.confidence[found] * CONFIDENCE_LEVELS).astype(np.int64)
            histogram += np.bincount(levels, minlength=len(histogram))
    if not sizes:
        return Survey(1.0, 0.0)
    below = np.concatenate([[0], np.cumsum(histogram)[:-1]]) / histogram.sum()  # share of the depth below each level
    return Survey(float(np.median(sizes)), float(np.flatnonzero(below <= DOUBTFUL_SHARE).max()) / CONFIDENCE_LEVELS)


def surfaces(reconstruction: ReconstructedMap, known: Survey, settings: CloudSettings) -> Iterator[PosedGeometry]:
    """The frames for a cloud or mesh, without propagated depth, cleaned if ``settings`` says so.

    Propagated depth takes part in the cleaning, which would otherwise miss the nearest neighbours of most frames.
    """
    if not settings.clean:
        return own_depth(reconstruction)
    return cleaned(reconstruction.geometry(), known.doubtful, sky=settings.sky)


def cleaned(frames: Iterable[PosedGeometry], doubtful: float, *, sky: bool = True) -> Iterator[PosedGeometry]:
    """The frames whose depth was computed, with only trustworthy depth; propagated depth only confirms that of others.

    doubtful: least confidence to keep. sky: whether to keep its depth. Holds 33 frames at a time.
    """
    single = ((frame, _clean_alone(geometry, doubtful, sky=sky)) for frame, geometry in frames)
    for frame, neighbours in _with_neighbours(single):
        if not frame[1].propagated:
            yield frame[0], _clean_together(frame, neighbours)


def _clean_alone(geometry: FrameGeometry, doubtful: float, *, sky: bool) -> FrameGeometry:
    kept = (geometry.confidence > 0) & (geometry.confidence >= doubtful - 1e-6) & ~at_depth_edge(geometry.depth)
    if not sky:
        kept &= ~sky_of(geometry.colour)
    return replace(geometry, depth=np.where(kept, geometry.depth, np.float32(0)))


def at_depth_edge(depth: DepthMap) -> Mask:
    """Pixels (h, w) with a neighbour whose depth differs by more than EDGE_STEP: their depth may float in mid-air."""
    window = np.ones((3, 3), np.uint8)
    farthest = cv2.dilate(depth, window)
    nearest = cv2.erode(np.where(depth > 0, depth, np.float32(1e30)), window)
    return np.asarray((depth > 0) & (farthest > (1 + EDGE_STEP) * nearest))


def sky_of(colour: NDArray[np.uint8]) -> Mask:
    """Pixels (h, w) of bright, smooth areas without warm colour that reach the upper border of an upright image."""
    grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    window = np.ones((3, 3), np.uint8)
    smooth = cv2.dilate(grey, window).astype(int) - cv2.erode(grey, window) < SKY_GRADIENT
    red, green, blue = (colour[..., channel].astype(int) for channel in range(3))
    pale = (grey > SKY_BRIGHTNESS) & (blue >= red - 4) & (blue >= green - 4) & smooth
    count, areas, boxes, _ = cv2.connectedComponentsWithStats(pale.astype(np.uint8), connectivity=4)
    enough = boxes[:, cv2.CC_STAT_AREA] >= SKY_SHARE * grey.size
    at_top = np.isin(np.arange(count), areas[0]) & (np.arange(count) > 0)
    # Sky ends at the roofs, where the gradient leaves a seam.
    return np.asarray(cv2.dilate((at_top & enough)[areas].astype(np.uint8), window) > 0)


def _with_neighbours(frames: Iterable[PosedGeometry]) -> Iterator[tuple[PosedGeometry, list[PosedGeometry]]]:
    """Every frame with the frames at the distances NEIGHBOURS before and after it."""
    reach = max(NEIGHBOURS)
    offsets = [reach + sign * distance for distance in NEIGHBOURS for sign in (-1, 1)]
    window: deque[PosedGeometry | None] = deque(maxlen=2 * reach + 1)
    for item in chain(repeat(None, reach), frames, repeat(None, reach)):
        window.append(item)
        if len(window) == window.maxlen and (middle := window[reach]) is not None:
            yield middle, [other for offset in offsets if (other := window[offset]) is not None]


def _clean_together(posed: PosedGeometry, others: Sequence[PosedGeometry]) -> FrameGeometry:
    """Keep depth that two other views confirm, or the only one that sees it, unless more see through it; at its mean
    depth.

    Depth that no other view sees stays. The mean over the views smooths ripples, since depth errors are independent
    between views.
    """
    frame, geometry = posed
    seen, confirmed, through = (np.zeros(geometry.depth.shape, np.int32) for _ in range(3))
    total = np.ones(geometry.depth.shape, np.float32)
    for other, found in others:
        other_from_frame = (other.world_from_cam.inverse() @ frame.world_from_cam).matrix()
        z, stored = look_up(geometry.depth, geometry.intrinsics, found.depth, found.intrinsics, other_from_frame)
        ratio = np.divide(stored, z, out=np.zeros_like(stored), where=stored > 0)
        agrees = np.abs(ratio - 1) < AGREEMENT
        seen += stored > 0
        confirmed += agrees
        through += ratio > 1 + SEEN_THROUGH
        total += np.where(agrees, ratio, 0)
    kept = (confirmed >= np.minimum(seen, 2)) & (through <= confirmed)
    depth = np.where(kept, geometry.depth * total / (1 + confirmed), 0).astype(np.float32)
    return replace(geometry, depth=depth)
