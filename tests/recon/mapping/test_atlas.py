"""Made-up maps in one world, joints between them with small errors, and wrong ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.mapping.atlas import Joint, _angle, lay_out
from recon.mapping.joining import Bridge

DEPTH = 3.0


def random_pose(rng: np.random.Generator, position: np.ndarray | None = None) -> Sim3:
    centre = rng.uniform(-20, 20, 3) if position is None else position
    rotation = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
    return Sim3(float(np.exp(rng.uniform(-1, 1))), rotation, centre)


def noisy(rng: np.random.Generator, scene: Sim3, scale: float) -> Sim3:
    """A small error at a scene, in deviations of a loop."""
    rotation = Rotation.from_rotvec(scale * 0.008 * rng.normal(size=3)).as_matrix()
    step = Sim3(float(np.exp(scale * 0.015 * rng.normal())), rotation, scale * 0.015 * rng.normal(size=3))
    return scene @ step @ scene.inverse()


def bridges(
    rng: np.random.Generator, first_from_second: Sim3, second: Sim3, count: int, where: np.ndarray
) -> list[Bridge]:
    """Loops near a place of the world, in the second map's world."""
    found = []
    for number in range(count):
        position = second.inverse().apply(where + 0.3 * rng.normal(size=3))
        cam = Sim3(DEPTH / second.scale, Rotation.random(random_state=number).as_matrix(), position)
        found.append(Bridge((number, number), first_from_second @ noisy(rng, cam, 1.0), cam))
    return found


def right(rng: np.random.Generator, poses: dict[str, Sim3], first: str, second: str, count: int = 6) -> Joint:
    where = (poses[first].translation + poses[second].translation) / 2
    joint = Joint.of(
        (first, second),
        bridges(rng, poses[first].inverse() @ poses[second], poses[second], count, where),
    )
    assert joint
    return joint


def wrong(rng: np.random.Generator, poses: dict[str, Sim3], first: str, second: str, count: int = 3) -> Joint:
    """Loops that agree with each other, on a wrong similarity."""
    false = poses[first].inverse() @ random_pose(rng) @ poses[second]
    joint = Joint.of((first, second), bridges(rng, false, poses[second], count, poses[second].translation))
    assert joint
    return joint


def errors(group: dict[str, Sim3], poses: dict[str, Sim3]) -> np.ndarray:
    """Distances of the maps' scenes from where they are, in depths seen."""
    base = next(iter(group))
    found = []
    for name, pose in group.items():
        inside = poses[name].inverse().apply(poses[name].translation)
        found.append(np.linalg.norm(poses[base].apply(pose.apply(inside)) - poses[name].translation) / DEPTH)
    return np.array(found)


def walk(rng: np.random.Generator, count: int) -> dict[str, Sim3]:
    """Maps side by side along a street that turns back to where it began."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    ring = 2.0 * count / (2 * np.pi)
    return {
        f"m{row:04d}": random_pose(rng, ring * np.array([np.cos(angle), np.sin(angle), 0]))
        for row, angle in enumerate(angles)
    }


def neighbours(rng: np.random.Generator, poses: dict[str, Sim3], steps: Sequence[int] = (1, 2)) -> list[Joint]:
    names = list(poses)
    return [
        right(rng, poses, names[row], names[(row + step) % len(names)]) for row in range(len(names)) for step in steps
    ]


def test_maps_of_a_circle_come_together_and_the_circle_closes() -> None:
    rng = np.random.default_rng(0)
    poses = walk(rng, 12)
    atlas = lay_out(list(poses), neighbours(rng, poses, steps=[1]))
    assert len(atlas.groups) == 1
    assert not atlas.refused
    assert errors(dict(atlas.groups[0]), poses).max() < 0.5
    open_ended = lay_out(list(poses), neighbours(rng, poses, steps=[1])[:-1])
    assert errors(dict(atlas.groups[0]), poses).max() < errors(dict(open_ended.groups[0]), poses).max()


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_among_many_maps_no_wrong_joint_puts_one_in_a_wrong_place(count: int) -> None:
    """Two places of many maps. A twentieth of the joints is wrong, within a place and between the two."""
    rng = np.random.default_rng(count)
    places = [walk(rng, count), {f"n{name}": pose for name, pose in walk(rng, count).items()}]
    poses = places[0] | places[1]
    joints = [joint for place in places for joint in neighbours(rng, place, steps=[1, 2])]
    names = list(poses)
    false = [
        wrong(rng, poses, *(names[row] for row in rng.choice(2 * count, 2, replace=False))) for _ in range(count // 5)
    ]
    atlas = lay_out(names, [*joints, *false])
    members = [set(group) for group in atlas.groups]
    assert set(false) == set(atlas.refused)
    assert sorted(map(len, members)) == [count, count]
    assert {frozenset(group) for group in members} == {frozenset(place) for place in places}
    for group in atlas.groups:
        assert errors(dict(group), poses).max() < 1.5  # at the far end of a street of 100 maps


def test_what_cannot_be_decided_stays_apart() -> None:
    rng = np.random.default_rng(1)
    poses = {name: random_pose(rng) for name in "abcd"}
    chain = [right(rng, poses, "a", "b", 12), right(rng, poses, "b", "c", 4)]
    for count, group in ((3, {"a", "b", "c"}), (4, {"a", "b"})):  # four loops are the majority of seven, not of eight
        false = wrong(rng, poses, "c", "a", count)
        atlas = lay_out(list(poses), [*chain, false])
        assert [set(found) for found in atlas.groups] == [group]
        assert set(atlas.apart) == set(poses) - group
        assert false in atlas.refused
        assert (chain[1] in atlas.refused) == ("c" not in group)


def test_the_first_map_is_the_world_and_few_loops_are_no_joint() -> None:
    rng = np.random.default_rng(2)
    poses = {name: random_pose(rng) for name in "ab"}
    joint = right(rng, poses, "a", "b")
    (group,) = lay_out(["b", "a"], [joint]).groups
    assert group["b"].isclose(Sim3.identity())
    assert group["a"].isclose(joint.first_from_second.inverse())
    assert _angle(group["a"].inverse() @ poses["b"].inverse() @ poses["a"]) < 0.05
    few = bridges(rng, poses["a"].inverse() @ poses["b"], poses["b"], 2, np.zeros(3))
    assert Joint.of(("a", "b"), few) is None
    contradicting = [one for _ in range(5) for one in bridges(rng, random_pose(rng), poses["b"], 1, np.zeros(3))]
    assert Joint.of(("a", "b"), contradicting) is None
