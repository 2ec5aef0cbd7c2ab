"""Many maps in common worlds: one similarity per map, from the joints between maps, as a sparse graph.

A joint is a pair of maps with several loops that agree. It may still be wrong as a whole: two rooms with the same
furniture agree in every loop. So groups of maps grow as ``retrieval.merge`` joins two maps, the strongest joint first:
of all loops between two groups, the majority must agree. Groups that several joints join in different ways stay apart.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import gtsam
import numpy as np

from recon.core.similarity import Array, Sim3
from recon.mapping.joining import DEVIATIONS, Bridge, join
from recon.mapping.loops import (
    DRIFT_LOG_SCALE,
    DRIFT_ROTATION,
    DRIFT_TRANSLATION,
    FEWEST_BRIDGES,
    LOOP_LOG_SCALE,
    LOOP_ROTATION,
    LOOP_TRANSLATION,
)
from recon.mapping.posegraph.solver import from_gtsam, to_gtsam

# Of a joint: the error of its loops, and the drift inside the maps near it.
ROTATION = float(np.hypot(LOOP_ROTATION, DRIFT_ROTATION))  # rad
TRANSLATION = float(np.hypot(LOOP_TRANSLATION, DRIFT_TRANSLATION))  # of the scene's depth
LOG_SCALE = float(np.hypot(LOOP_LOG_SCALE, DRIFT_LOG_SCALE))
MOST_COMPARED = 12  # joints between two groups, the strongest
LONG = 12  # joints of a circle in which drift may hide a mistake
STRONG = 2 * FEWEST_BRIDGES  # loops of a joint that is believed where it closes a long circle
ANCHOR = 1e-6
MAX_ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class Joint:
    """Two maps that meet, by name. first_from_second: between their worlds. bridges: the loops that agree on it."""

    maps: tuple[str, str]
    first_from_second: Sim3
    bridges: tuple[Bridge, ...]

    @classmethod
    def of(cls, maps: tuple[str, str], bridges: Sequence[Bridge]) -> Joint | None:
        """The joint that loops between two maps give; None if they are too few, or contradict each other."""
        found = join(bridges)
        return cls(maps, found[0], tuple(bridges[row] for row in found[1])) if found else None

    @property
    def strength(self) -> int:
        return len(self.bridges)

    @cached_property
    def scene(self) -> Sim3:
        """The place where the maps meet, in the world of the second: its middle, and as scale the depth seen there."""
        poses = [bridge.second_from_cam for bridge in self.bridges]
        middle = np.mean([pose.translation for pose in poses], axis=0)
        return Sim3(float(np.median([pose.scale for pose in poses])), np.eye(3), middle)


@dataclass(frozen=True, eq=False)
class Atlas:
    """groups: ``world_from_map`` by name of all maps that hang together, the largest group first; each has the world of
    its first map. apart: maps that meet no other. refused: joints that contradict others.
    """

    groups: tuple[Mapping[str, Sim3], ...]
    apart: tuple[str, ...]
    refused: tuple[Joint, ...]


def lay_out(names: Sequence[str], joints: Sequence[Joint]) -> Atlas:
    """Where all maps lie. names: of the maps, those first in whose world a group should be."""
    groups = _Groups(names, joints)
    believed, refused = list[Joint](), list[Joint]()
    for joint in joints:
        (believed if groups.agree_with(joint) else refused).append(joint)
    rank = {name: row for row, name in enumerate(names)}
    found: list[dict[str, Sim3]] = []
    for group in groups.poses.values():
        order = sorted(group, key=rank.__getitem__)
        base = group[order[0]].inverse()
        start = {name: base @ group[name] for name in order}
        found.append(_optimised(start, [one for one in believed if one.maps[0] in start]))
    together = sorted((group for group in found if len(group) > 1), key=len, reverse=True)
    apart = tuple(name for name in names if not any(name in group for group in together))
    return Atlas(tuple(together), apart, tuple(refused))


class _Groups:
    """Maps that hang together. poses: ``world_from_map`` by name of every group, by the name of one of its maps."""

    def __init__(self, names: Sequence[str], joints: Sequence[Joint]) -> None:
        self.poses: dict[str, dict[str, Sim3]] = {name: {name: Sim3.identity()} for name in names}
        self._group = {name: name for name in names}
        self._near: dict[str, dict[str, list[Joint]]] = {name: {} for name in names}  # joints of a group by the other
        self._tree: dict[str, list[Joint]] = {name: [] for name in names}  # one for every two groups that were joined
        for joint in joints:
            for one, other in (joint.maps, joint.maps[::-1]):
                self._near[one].setdefault(other, []).append(joint)
        self._queue: list[tuple[int, int, str, str]] = []
        self._found: dict[tuple[str, str], tuple[int, Joint]] = {}
        self._pushed = 0
        for name in names:
            for other in self._near[name]:
                if name < other:
                    self._consider(name, other)
        while self._queue:
            self._join_next()

    def _consider(self, one: str, other: str) -> None:
        """Queue two groups if joints with the majority of the loops between them agree."""
        pair = (one, other) if one < other else (other, one)
        self._found.pop(pair, None)
        joints = sorted(self._near[one][other], key=lambda joint: -joint.strength)[:MOST_COMPARED]
        agreeing = [
            sum(joint.strength for joint in joints if joint is base or self._agree(joint, base)) for base in joints
        ]
        strength = max(agreeing)
        if 2 * strength > sum(joint.strength for joint in joints):
            best = joints[agreeing.index(strength)]
            self._pushed += 1
            self._found[pair] = self._pushed, best
            heapq.heappush(self._queue, (-strength, self._pushed, *pair))

    def _agree(self, joint: Joint, base: Joint) -> bool:
        """Whether two joints between two groups agree on how these lie to each other."""
        same = self._group[joint.maps[0]] == self._group[base.maps[0]]
        near, far = base.maps if same else base.maps[::-1]
        step = base.first_from_second if same else base.first_from_second.inverse()
        first, second = joint.maps
        poses, others = self.poses[self._group[first]], self.poses[self._group[second]]
        first_from_other = poses[near] @ step @ others[far].inverse()
        path = [*self._path(first, near), base, *self._path(far, second)]
        placed = poses | {name: first_from_other @ others[name] for one in path for name in one.maps if name in others}
        return _closes(joint, path, placed | {second: first_from_other @ others[second]})

    def _path(self, first: str, second: str) -> list[Joint]:
        """The joints of the tree between two maps of a group, in order."""
        came: dict[str, tuple[str, Joint] | None] = {second: None}
        queue = [second]
        for name in queue:
            if name == first:
                break
            for joint in self._tree[name]:
                other = joint.maps[1] if name == joint.maps[0] else joint.maps[0]
                if other not in came:
                    came[other] = name, joint
                    queue.append(other)
        path = []
        while step := came[first]:
            first = step[0]
            path.append(step[1])
        return path

    def _join_next(self) -> None:
        _, stamp, first, second = heapq.heappop(self._queue)
        pair = first, second
        if pair not in self._found or self._found[pair][0] != stamp:
            return  # one of them has grown since
        joint = self._found.pop(pair)[1]
        if len(self.poses[first]) < len(self.poses[second]):
            first, second = second, first
        known = self._group[joint.maps[0]] == first
        near, far = joint.maps if known else joint.maps[::-1]
        step = joint.first_from_second if known else joint.first_from_second.inverse()
        first_from_second = self.poses[first][near] @ step @ self.poses[second][far].inverse()
        for name, pose in self.poses.pop(second).items():
            self.poses[first][name] = first_from_second @ pose
            self._group[name] = first
        for name in joint.maps:
            self._tree[name].append(joint)
        neighbours = self._near.pop(second)
        for other, joints in neighbours.items():
            self._near[other].pop(second)
            self._found.pop((min(second, other), max(second, other)), None)
            if other != first:
                self._near[first].setdefault(other, []).extend(joints)
                self._near[other][first] = self._near[first][other]
        for other in neighbours:
            if other != first:
                self._consider(first, other)

    def agree_with(self, joint: Joint) -> bool:
        """Whether a joint puts its maps where the other joints do."""
        first, second = joint.maps
        if self._group[first] != self._group[second]:
            return False
        path = self._path(first, second)
        return path == [joint] or _closes(joint, path, self.poses[self._group[first]])


def _closes(joint: Joint, path: Sequence[Joint], poses: Mapping[str, Sim3]) -> bool:
    """Whether a joint and a path of others between its maps close a circle, within the errors and the drift on it.

    poses: of the maps in one world, along the path.
    """
    if len(path) >= LONG and joint.strength < STRONG:
        return False
    first, second = joint.maps
    error = joint.first_from_second.inverse() @ poses[first].inverse() @ poses[second]
    errors, scene = np.sqrt(len(path) + 1), joint.scene
    scale = joint.first_from_second.scale
    off = np.linalg.norm(error.apply(scene.translation) - scene.translation) * scale
    # Drift grows with the way from one joint to the next, in the world of the first map.
    start, end = poses[first] @ joint.first_from_second @ scene, poses[second] @ scene
    between = [(poses[one.maps[1]] @ one.scene).translation for one in path]
    places = np.array([start.translation, *between, end.translation])
    way = np.linalg.norm(np.diff(places, axis=0), axis=1).sum() / poses[first].scale
    allowed = np.hypot(errors * TRANSLATION * scale * scene.scale, DRIFT_TRANSLATION * max(0.0, way - off))
    return bool(
        off <= DEVIATIONS * allowed
        and _angle(error) <= DEVIATIONS * errors * ROTATION
        and abs(np.log(error.scale)) <= DEVIATIONS * errors * LOG_SCALE
    )


def _angle(similarity: Sim3) -> float:
    """Of the rotation [rad]."""
    return float(np.arccos(np.clip((np.trace(similarity.rotation) - 1) / 2, -1, 1)))


def _optimised(start: Mapping[str, Sim3], joints: Sequence[Joint]) -> dict[str, Sim3]:
    """The poses that agree best with the joints, with the first map fixed; ``start`` if no circle is to be closed."""
    if len(joints) < len(start):
        return dict(start)
    number = {name: row for row, name in enumerate(start)}
    factors, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    fixed = gtsam.noiseModel.Isotropic.Sigma(7, ANCHOR)
    factors.add(gtsam.PriorFactorSimilarity3(0, to_gtsam(next(iter(start.values()))), fixed))
    for joint in joints:
        first, second = (number[name] for name in joint.maps)
        noise = gtsam.noiseModel.Gaussian.Covariance(_covariance(joint))
        factors.add(gtsam.BetweenFactorSimilarity3(first, second, to_gtsam(joint.first_from_second), noise))
    for name, pose in start.items():
        values.insert(number[name], to_gtsam(pose))
    parameters = gtsam.LevenbergMarquardtParams()
    parameters.setMaxIterations(MAX_ITERATIONS)
    found = gtsam.LevenbergMarquardtOptimizer(factors, values, parameters).optimize()
    return {name: from_gtsam(found.atSimilarity3(row)) for name, row in number.items()}


def _covariance(joint: Joint) -> Array:
    """Of a joint (7, 7), in the second map: certain at the scene where the maps meet, less so far from it."""
    at_scene = np.repeat([ROTATION, TRANSLATION, LOG_SCALE], [3, 3, 1]) ** 2
    moved = to_gtsam(joint.scene).AdjointMap()
    covariance: Array = moved @ np.diag(at_scene) @ moved.T
    return covariance
