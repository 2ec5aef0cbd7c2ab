"""The pose graph on a long walk with known poses, true loops and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.mapping.alignment import fit_similarity
from recon.mapping.posegraph.agreement import agreement, largest_clique
from recon.mapping.posegraph.graph import Edge, EdgeNoise, PoseGraph
from recon.mapping.posegraph.solver import closing_error, from_gtsam, optimise, to_gtsam

CHAIN = EdgeNoise(0.016, 0.08, 0.016)
LOOP = EdgeNoise(0.01, 0.05, 0.01)
LOOPS = 50


@dataclass(frozen=True)
class Walk:
    true: tuple[Sim3, ...]
    graph: PoseGraph
    wrong: int  # the first rows of the loops


def noisy(rng: np.random.Generator, similarity: Sim3, noise: EdgeNoise) -> Sim3:
    step = Sim3(
        float(np.exp(rng.normal(0, noise.log_scale))),
        Rotation.from_rotvec(rng.normal(0, noise.rotation, 3)).as_matrix(),
        rng.normal(0, noise.translation, 3),
    )
    return similarity @ step


def walk(seed: int, wrong_share: float, count: int = 1000, loops: int = LOOPS) -> Walk:
    """Streets that cross. Wrong loops join random places as if they were a few metres apart."""
    rng = np.random.default_rng(seed)
    a = np.linspace(0, 2 * np.pi, count)
    centres = np.stack(
        [60 * np.sin(3 * a) + 20 * np.sin(7 * a), 60 * np.cos(2 * a) + 20 * np.cos(5 * a), 3 * np.sin(4 * a)], axis=1
    )
    heading = np.arctan2(np.gradient(centres[:, 1]), np.gradient(centres[:, 0]))
    true = tuple(Sim3(1.0, Rotation.from_euler("z", h).as_matrix(), c) for h, c in zip(heading, centres, strict=True))
    chain = [Edge(i, i + 1, noisy(rng, true[i].inverse() @ true[i + 1], CHAIN), CHAIN) for i in range(count - 1)]
    poses = {0: true[0]}
    for edge in chain:
        poses[edge.second] = poses[edge.first] @ edge.first_from_second
    wrong = round(loops * wrong_share)
    edges = [wrong_loop(rng, count) for _ in range(wrong)]
    edges += [
        Edge(i, j, noisy(rng, true[i].inverse() @ true[j], LOOP), LOOP) for i, j in meetings(rng, centres)[wrong:loops]
    ]
    return Walk(true, PoseGraph(poses, chain, edges), wrong)


def meetings(rng: np.random.Generator, centres: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places less than 8 m and more than 50 steps apart, in random order."""
    near = np.linalg.norm(centres[:, None] - centres[None], axis=2) < 8
    first, second = np.nonzero(near & (np.arange(len(centres))[None] - np.arange(len(centres))[:, None] > 50))
    order = rng.permutation(len(first))
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def wrong_loop(rng: np.random.Generator, count: int) -> Edge:
    first, second = sorted(rng.choice(count, 2, replace=False).tolist())
    turn = Rotation.from_euler("z", rng.normal(0, 0.3)).as_matrix()
    return Edge(first, second, Sim3(1.0, turn, rng.normal(0, [2, 2, 0.2])), LOOP)


def error(poses: list[Sim3], true: tuple[Sim3, ...]) -> float:
    """ATE after alignment by a similarity."""
    a, b = (np.array([pose.translation for pose in some]) for some in (poses, true))
    return float(np.sqrt(((fit_similarity(a, b, np.ones(len(a))).apply(a) - b) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("wrong_share", [0.1, 0.4])
def test_wrong_loops_are_rejected_and_have_no_influence(seed: int, wrong_share: float) -> None:
    scene = walk(seed, wrong_share)
    result = optimise(scene.graph)
    only_true = PoseGraph(scene.graph.world_from_submap, scene.graph.chain, scene.graph.loops[scene.wrong :])
    ideal = error(list(optimise(only_true).world_from_submap.values()), scene.true)
    ours = error(list(result.world_from_submap.values()), scene.true)
    before = error(list(scene.graph.world_from_submap.values()), scene.true)
    assert result.refused == ""
    assert set(result.rejected) == set(range(scene.wrong))
    assert ours <= 1.3 * ideal
    assert ours < 0.3 * before
    assert result.error_after < 0.1 * result.error_before
    assert result.iterations > 0


def test_a_result_that_rejects_most_loops_is_refused() -> None:
    scene = walk(3, 0.9, loops=20)
    result = optimise(scene.graph)
    assert "loops contradict" in result.refused
    assert result.world_from_submap is scene.graph.world_from_submap


def test_scale_drift_of_e_squared_is_closed() -> None:
    count, shrink = 40, np.exp(2 / 39)
    true = [Sim3(1.0, Rotation.from_euler("z", a).as_matrix(), 10 * np.array([np.sin(a), 1 - np.cos(a), 0]))
            for a in np.linspace(0, 2 * np.pi, count)]  # fmt: skip
    noise = EdgeNoise(0.02, 0.05, 0.1)
    drift = Sim3(1 / shrink, np.eye(3), np.zeros(3))
    chain = [Edge(i, i + 1, true[i].inverse() @ true[i + 1] @ drift, noise) for i in range(count - 1)]
    poses = {0: true[0]}
    for edge in chain:
        poses[edge.second] = poses[edge.first] @ edge.first_from_second
    loops = [Edge(i, count - 1 - i, true[i].inverse() @ true[count - 1 - i], LOOP) for i in (0, 1, 2)]
    result = optimise(PoseGraph(poses, chain, loops))
    assert poses[count - 1].scale < 0.14
    assert result.world_from_submap[count - 1].scale == pytest.approx(1, abs=0.05)
    assert result.rejected == ()


def test_same_graph_gives_the_same_poses() -> None:
    first, second = (optimise(walk(5, 0.1, count=200, loops=10).graph) for _ in range(2))
    assert all(
        np.array_equal(first.world_from_submap[n].matrix(), p.matrix()) for n, p in second.world_from_submap.items()
    )


def test_a_graph_without_loops_is_unchanged() -> None:
    scene = walk(6, 0.0, count=60, loops=0)
    assert optimise(scene.graph).world_from_submap is scene.graph.world_from_submap


def test_true_loops_agree_with_each_other_and_with_the_chain() -> None:
    scene = walk(7, 0.2, count=300, loops=20)
    agrees = agreement(scene.graph)
    assert (agrees == agrees.T).all()
    right = agrees[scene.wrong :, scene.wrong :]
    assert right.mean() > 0.9
    assert agrees[: scene.wrong, scene.wrong :].mean() < 0.3
    alone = [PoseGraph(scene.graph.world_from_submap, scene.graph.chain, [loop]) for loop in scene.graph.loops]
    assert max(closing_error(graph) for graph in alone[scene.wrong :]) < 5
    assert min(closing_error(graph) for graph in alone[: scene.wrong]) > 5


def test_a_lost_scale_lets_a_loop_shrink_the_path_but_not_rotate_or_shift_it() -> None:
    step = Sim3(1.0, np.eye(3), np.array([2.0, 0.0, 0.0]))
    lost = EdgeNoise(CHAIN.rotation, CHAIN.translation, 1.0)
    chain = [Edge(n, n + 1, step, lost if n == 4 else CHAIN) for n in range(9)]
    poses = {0: Sim3.identity()}
    for edge in chain:
        poses[edge.second] = poses[edge.first] @ step

    def error(first_from_second: Sim3) -> float:
        return closing_error(PoseGraph(poses, chain, [Edge(0, 9, first_from_second, LOOP)]))

    shrunk = Sim3(
        0.4, np.eye(3), np.array([10 + 0.4 * 8, 0.0, 0.0])
    )  # everything after node 5 at two fifths of its size
    assert error(shrunk) < 1
    assert error(Sim3(1.0, np.eye(3), shrunk.translation)) > 5  # nearer, and not smaller
    assert error(Sim3(0.4, np.eye(3), np.array([18.0, 0.0, 0.0]))) > 5  # smaller, and not nearer
    assert error(Sim3(0.4, np.eye(3), shrunk.translation + np.array([0.0, 2.0, 0.0]))) > 5
    assert error(Sim3(0.4, Rotation.from_euler("z", 0.6).as_matrix(), shrunk.translation)) > 5


@given(st.integers(1, 9), st.integers(0, 10_000))
def test_the_result_is_a_clique_and_as_large_as_the_largest(count: int, seed: int) -> None:
    adjacent = np.random.default_rng(seed).random((count, count)) < 0.6
    adjacent = np.triu(adjacent, 1)
    adjacent = adjacent | adjacent.T | np.eye(count, dtype=bool)
    found = largest_clique(adjacent)
    assert adjacent[np.ix_(found, found)].all()
    sets = [[n for n in range(count) if mask >> n & 1] for mask in range(1, 2**count)]
    largest = max(len(nodes) for nodes in sets if adjacent[np.ix_(nodes, nodes)].all())
    assert len(found) >= largest - 1  # the search is greedy


def plain_clique(adjacent: np.ndarray) -> list[int]:
    """The plain search: from every node, with all counts recomputed in every step."""
    best: list[int] = []
    for start in range(len(adjacent)):
        clique, candidates = [start], {node for node in np.flatnonzero(adjacent[start]) if node != start}
        while candidates:
            chosen = max(sorted(candidates), key=lambda node: sum(adjacent[node, other] for other in candidates))
            clique.append(int(chosen))
            candidates = {node for node in candidates if adjacent[node, chosen] and node != chosen}
        best = max(best, clique, key=len)
    return sorted(best)


@given(st.integers(2, 30), st.floats(0.3, 1.0), st.integers(0, 10_000))
def test_the_clique_equals_that_of_the_plain_search(count: int, share: float, seed: int) -> None:
    adjacent = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1)
    adjacent = adjacent | adjacent.T | np.eye(count, dtype=bool)
    assert largest_clique(adjacent) == plain_clique(adjacent)


def test_of_many_loops_those_with_the_most_neighbours_lead_to_the_largest_clique() -> None:
    right, wrong = 150, 60
    adjacent = np.random.default_rng(0).random((right + wrong, right + wrong)) < 0.1
    adjacent = np.triu(adjacent, 1)
    adjacent = adjacent | adjacent.T | np.eye(right + wrong, dtype=bool)
    adjacent[wrong:, wrong:] = True
    assert set(largest_clique(adjacent)) >= set(range(wrong, right + wrong))


@given(
    st.floats(-2, 2),
    st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3),
)
def test_gtsam_sees_the_same_similarity(log_scale: float, turn: list[float], shift: list[float]) -> None:
    ours = Sim3(float(np.exp(log_scale)), Rotation.from_rotvec(turn).as_matrix(), np.array(shift))
    point = np.array([0.3, -2.0, 5.0])
    theirs = to_gtsam(ours)
    assert np.allclose(theirs.transformFrom(point), ours.apply(point))
    assert from_gtsam(theirs).isclose(ours, atol=1e-6)


def test_a_graph_refuses_edges_to_unknown_submaps() -> None:
    pose, edge = Sim3.identity(), Edge(0, 1, Sim3.identity(), LOOP)
    with pytest.raises(ValueError, match=r"\[2\]"):
        PoseGraph({0: pose, 1: pose}, [edge], [Edge(0, 2, pose, LOOP)])
    with pytest.raises(ValueError, match="chain"):
        PoseGraph({0: pose, 1: pose}, [edge, edge], [])
    with pytest.raises(ValueError, match="chain"):
        PoseGraph({0: pose, 1: pose, 2: pose}, [edge], [])
    with pytest.raises(ValueError, match="two submaps"):
        Edge(1, 1, pose, LOOP)
    with pytest.raises(ValueError, match="positive"):
        EdgeNoise(0.0, 1.0, 1.0)
