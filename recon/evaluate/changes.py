"""What has changed between two aligned maps of one place: surfaces of one that the other has looked at and seen past.

That a map lacks a surface says nothing, since it may never have looked there, or something may have stood before it. A
surface has gone only if frames of the other map see farther at its place, and hardly any still sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from recon.core.similarity import Array, Sim3
from recon.core.types import DepthMap, Image, PlacedFrame
from recon.exports.cleaning import surfaces, survey
from recon.exports.ply import CloudPoints, frame_points, thin
from recon.mapping.alignment import fit_similarity
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

VOXEL = 2.0  # of the compared clouds, in depth pixels on the surface
SAME = 0.1  # relative difference of depth that may be the same surface while the maps are aligned
ROUNDS = 5  # of the alignment
LEAST_STEP, DEVIATIONS = 0.03, 6.0  # relative distance by which a frame sees past a surface: at least, and in errors
FEWEST_PAST, MORE_THAN = 2, 3  # frames that see past a point, and how many times as often as others still see it
REACH = 2.0  # voxels between points of one change
SMALLEST = 60  # voxels


@dataclass(frozen=True, eq=False)
class View:
    """A frame of a map. depth: (h, w), cleaned, in the unit of the frame. colour: (h, w, 3)."""

    placed: PlacedFrame
    intrinsics: Array
    depth: DepthMap
    colour: Image

    def projected(self, points: Array) -> tuple[Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Points (n, 3) of the world that lie in the image: their depth, rows, columns, and which they are."""
        in_camera = self.placed.world_from_cam.inverse().apply(points)
        ahead = np.flatnonzero(in_camera[:, 2] > 1e-9)
        pixels = in_camera[ahead] @ self.intrinsics.T
        columns, rows = np.floor(pixels[:, :2] / pixels[:, 2:]).T.astype(np.int64)
        height, width = self.depth.shape
        inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
        which = ahead[inside]
        return in_camera[which, 2], rows[inside], columns[inside], which


@dataclass(frozen=True, eq=False)
class Looked:
    """A map ready to be compared. cloud: thinned to a voxel. voxel: its edge. views: all frames."""

    cloud: CloudPoints
    voxel: float
    views: tuple[View, ...]

    @classmethod
    def at(cls, reconstruction: ReconstructedMap) -> Looked:
        """Reads and cleans the depth of a map. Raises MapError if a file of it is damaged."""
        known = survey(reconstruction.geometry())
        voxel, views, parts = VOXEL * known.footprint, list[View](), list[CloudPoints]()
        for placed, geometry in surfaces(reconstruction, known, CloudSettings()):
            views.append(View(placed, geometry.intrinsics, geometry.depth, geometry.colour))
            parts.append(thin(frame_points(geometry, placed.world_from_cam), voxel)[0])
        return cls(thin(_joined(parts), voxel)[0], voxel, tuple(views))


@dataclass(frozen=True, eq=False)
class Change:
    """A connected surface that only one of the maps has. appeared: in the second map; else it has gone with the first.

    points: (n, 3) in the world of the first map.
    """

    appeared: bool
    points: Array

    @property
    def centre(self) -> Array:
        return np.asarray((self.points.min(axis=0) + self.points.max(axis=0)) / 2)

    @property
    def extent(self) -> Array:
        """Sides (3,) of the box around it."""
        return np.asarray(np.ptp(self.points, axis=0))


@dataclass(frozen=True, eq=False)
class Comparison:
    """first_from_second: between the worlds. changes: the largest first. step: relative distance that counts as past.

    seen: shares of the first and of the second map's surface that the other map has looked at.
    """

    first_from_second: Sim3
    changes: tuple[Change, ...]
    step: float
    seen: tuple[float, float]


def compare(first: Looked, second: Looked, first_from_second: Sim3) -> Comparison:
    """What has changed from the first to the second map, which lie about so to each other."""
    second_from_first, error = _aligned(first, second, first_from_second.inverse())
    step = max(LEAST_STEP, DEVIATIONS * error)
    gone, of_first = _gone(first, second, second_from_first, step)
    new, of_second = _gone(second, first, second_from_first.inverse(), step)
    back = second_from_first.inverse()
    changes = [Change(False, points) for points in gone] + [Change(True, back.apply(points)) for points in new]
    changes.sort(key=lambda change: len(change.points), reverse=True)
    return Comparison(back, tuple(changes), step, (of_first, of_second))


def _joined(parts: Sequence[CloudPoints]) -> CloudPoints:
    return CloudPoints(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.colours for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def _aligned(first: Looked, second: Looked, second_from_first: Sim3) -> tuple[Sim3, float]:
    """The alignment refined by the surfaces that both maps have (projective ICP, Blais and Levine 1995), and their
    median relative difference of depth.
    """
    points, error = first.cloud.positions, SAME
    for _ in range(ROUNDS):
        here, there, differences = list[Array](), list[Array](), list[Array]()
        for view in second.views:
            depth, rows, columns, which = view.projected(second_from_first.apply(points))
            measured = view.depth[rows, columns].astype(np.float64)
            near = (measured > 0) & (np.abs(measured / depth - 1) < min(SAME, 3 * error))
            centre = view.placed.world_from_cam.translation
            moved = second_from_first.apply(points[which[near]])
            here.append(points[which[near]])
            there.append(centre + (moved - centre) * (measured / depth)[near, None])
            differences.append(np.abs(measured / depth - 1)[near])
        if sum(map(len, here)) < 3:
            break
        second_from_first = fit_similarity(np.concatenate(here), np.concatenate(there), np.ones(sum(map(len, here))))
        error = float(np.median(np.concatenate(differences)))
    return second_from_first, error


def _gone(these: Looked, others: Looked, others_from_these: Sim3, step: float) -> tuple[list[Array], float]:
    """The surfaces of one map, (n, 3) each, that the other has seen past, and the share of its surface that the other
    has looked at.
    """
    points = others_from_these.apply(these.cloud.positions)
    past, same = (np.zeros(len(points), np.int64) for _ in range(2))
    for view in others.views:
        depth, rows, columns, which = view.projected(points)
        nearest, farthest = _around(view.depth)
        past[which] += nearest[rows, columns] > (1 + step) * depth
        reached = farthest[rows, columns] >= (1 - step) * depth
        same[which] += reached & (view.depth[rows, columns] > 0) & (nearest[rows, columns] <= (1 + step) * depth)
    gone = (past >= FEWEST_PAST) & (past > MORE_THAN * same)
    return _connected(these.cloud.positions[gone], these.voxel), float(((past > 0) | (same > 0)).mean())


def _around(depth: DepthMap) -> tuple[DepthMap, DepthMap]:
    """The least and greatest depth in the 3x3 around each pixel; the least is 0 where any is unknown."""
    around = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.erode(depth, around), np.float32), np.asarray(cv2.dilate(depth, around), np.float32)


def _connected(points: Array, voxel: float) -> list[Array]:
    """Groups of points (n, 3) that are near each other, without small ones."""
    if not len(points):
        return []
    pairs = cKDTree(points).query_pairs(REACH * voxel, output_type="ndarray")
    links = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    count, group = connected_components(links, directed=False)
    return [points[group == one] for one in np.flatnonzero(np.bincount(group, minlength=count) >= SMALLEST)]
