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
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError
from recon.core.similarity import Array, Sim3
from recon.core.types import DepthMap, Image, PlacedFrame
from recon.exports.cleaning import own_depth, surfaces, survey
from recon.exports.ply import CloudPoints, frame_points, thin
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

VOXEL = 2.0  # of the compared clouds, in depth pixels on the surface
SAME = 0.1  # relative difference of depth that may be the same surface while the maps are aligned
ROUNDS, FEWEST_PAIRS = 8, 100  # of the alignment, and points that it needs
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
    """A map ready to be compared. cloud: thinned to a voxel. voxel: its edge. views: frames with depth of their own."""

    cloud: CloudPoints
    voxel: float
    views: tuple[View, ...]

    @classmethod
    def at(cls, reconstruction: ReconstructedMap) -> Looked:
        """Reads and cleans the depth of a map. Raises MapError if a file is damaged, or no depth is certain."""
        known = survey(own_depth(reconstruction))
        voxel, views, parts = VOXEL * known.footprint, list[View](), list[CloudPoints]()
        for placed, cleaned in surfaces(reconstruction, known, CloudSettings()):
            geometry = cleaned.sure()
            views.append(View(placed, geometry.intrinsics, geometry.depth, geometry.colour))
            parts.append(thin(frame_points(geometry, placed.world_from_cam), voxel)[0])
        if not sum(len(part.positions) for part in parts):
            raise MapError(
                f"The map in {reconstruction.folder} has no certain depth, so nothing can be compared with it."
            )
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
        np.concatenate([part.normals for part in parts if part.normals is not None]),
    )


def _aligned(first: Looked, second: Looked, second_from_first: Sim3) -> tuple[Sim3, float]:
    """The alignment refined by the surfaces that both maps have, and their median relative difference of depth.

    Points of the first map are paired with what the frames of the second see along the same ray, and moved to its plane
    (projective ICP, Blais and Levine 1995; point to plane, Chen and Medioni 1992).
    """
    points, normals, error = first.cloud.positions, first.cloud.normals, SAME
    assert normals is not None
    for _ in range(ROUNDS):
        pairs, differences = list[tuple[Array, Array, Array]](), list[Array]()
        for view in second.views:
            moved = second_from_first.apply(points)
            depth, rows, columns, which = view.projected(moved)
            ratio = view.depth[rows, columns] / depth
            near = np.abs(ratio - 1) < min(SAME, 3 * error)
            here, centre = moved[which[near]], view.placed.world_from_cam.translation
            pairs.append((here, (here - centre) * (ratio[near, None] - 1), normals[which[near]]))
            differences.append(np.abs(ratio[near] - 1))
        here, step, normal = (np.concatenate(values) for values in zip(*pairs, strict=True))
        if len(here) < FEWEST_PAIRS:
            break
        second_from_first = _towards(here, step, normal @ second_from_first.rotation.T) @ second_from_first
        error = float(np.median(np.concatenate(differences)))
    return second_from_first, error


def _towards(points: Array, steps: Array, normals: Array) -> Sim3:
    """The small similarity that moves points (n, 3) by steps (n, 3), as far as these lie along the normals (n, 3)."""
    middle = points.mean(axis=0)
    away = points - middle
    size = float(np.sqrt((away**2).sum(axis=1).mean()))
    equations = np.column_stack([np.cross(away / size, normals), normals, ((away / size) * normals).sum(axis=1)])
    distance = (steps * normals).sum(axis=1) / size
    width = max(3 * float(np.median(np.abs(distance))), 1e-9)
    weights = 1 / (1 + (distance / width) ** 2)
    found = np.linalg.lstsq(equations * weights[:, None], distance * weights, rcond=None)[0]
    rotation, scale = Rotation.from_rotvec(found[:3]).as_matrix(), float(np.exp(found[6]))
    return Sim3(scale, rotation, middle + size * found[3:6] - scale * rotation @ middle)


def _gone(these: Looked, others: Looked, others_from_these: Sim3, step: float) -> tuple[list[Array], float]:
    """The surfaces of one map, (n, 3) each, that the other has seen past, and the share of its surface that the other
    has looked at. A surface that its own map sees past as often as not is none.
    """
    points = these.cloud.positions
    past, same = _votes(others_from_these.apply(points), others.views, step)
    gone = points[(past >= FEWEST_PAST) & (past > MORE_THAN * same)]
    own_past, own_same = _votes(gone, these.views, step)
    return _connected(gone[own_same > own_past], these.voxel), float(((past > 0) | (same > 0)).mean())


def _votes(points: Array, views: Sequence[View], step: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many frames see past each of some points (n, 3), and how many see a surface there."""
    past, same = (np.zeros(len(points), np.int64) for _ in range(2))
    for view in views:
        depth, rows, columns, which = view.projected(points)
        nearest = cv2.erode(view.depth, np.ones((3, 3), np.uint8))  # around each pixel; 0 where any is unknown
        past[which] += nearest[rows, columns] > (1 + step) * depth
        same[which] += np.abs(view.depth[rows, columns] / depth - 1) <= step
    return past, same


def _connected(points: Array, voxel: float) -> list[Array]:
    """Groups of points (n, 3) that are near each other, without small ones."""
    if not len(points):
        return []
    pairs = cKDTree(points).query_pairs(REACH * voxel, output_type="ndarray")
    links = csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    count, group = connected_components(links, directed=False)
    return [points[group == one] for one in np.flatnonzero(np.bincount(group, minlength=count) >= SMALLEST)]
