"""Loop closing: what enters the graph, what the ledger says, and the final poses of the submaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.places import LoopCandidate, LoopEdge, ReadSubmap
from recon.core.similarity import Sim3
from recon.core.types import Camera, ChunkGeometry, Frame, FrameGeometry, SparsePoints, Submap
from recon.mapping.doubts import Doubts, find_doubts
from recon.mapping.loops import LoopCloser

CAMERA = Camera("PINHOLE", 8, 6, (8.0, 8.0, 4.0, 3.0))
FRAMES_PER_SUBMAP = 3
RING = 12


class Scripted:
    """Recognises prescribed places when a submap arrives."""

    name = "script"

    def __init__(self, script: Mapping[int, Sequence[LoopCandidate]]) -> None:
        self._script = script

    def look(self, submap: Submap, frames: Sequence[Frame], read_submap: ReadSubmap) -> Sequence[LoopCandidate]:
        return self._script.get(submap.index, ())


def true_pose(number: int, radius: float = 10.0) -> Sim3:
    """World from submap on a ring that closes after RING submaps."""
    angle = 2 * np.pi * number / RING
    rotation = Rotation.from_euler("z", angle).as_matrix()
    return Sim3(1.0, rotation, radius * np.array([np.sin(angle), 1 - np.cos(angle), 0.0]))


def drifted(drift: Sim3, count: int = RING + 1) -> list[Sim3]:
    """The ring with a constant error in every step."""
    poses = [true_pose(0)]
    for number in range(1, count):
        step = true_pose(number - 1).inverse() @ true_pose(number)
        poses.append(poses[-1] @ step @ drift)
    return poses


DRIFT = Sim3(1.02, Rotation.from_euler("z", 0.01).as_matrix(), np.array([0.05, 0.02, 0.01]))


def submap(number: int, world_from_chunk: Sim3) -> Submap:
    depth = np.full((6, 8), 4.0, dtype=np.float32)
    frames = []
    for step in range(FRAMES_PER_SUBMAP):
        cam_from_chunk = np.eye(4)
        cam_from_chunk[0, 3] = -step
        index = number * FRAMES_PER_SUBMAP + step
        colour = np.zeros((6, 8, 3), np.uint8)
        frames.append(FrameGeometry(index, cam_from_chunk, CAMERA, CAMERA.matrix(), depth, depth / 4, colour))
    return Submap(number, ChunkGeometry(tuple(frames), SparsePoints.empty()), world_from_chunk, 0.0)


def candidate(first: int, second: int, first_from_second: Sim3) -> LoopCandidate:
    edge = LoopEdge(first, second, first_from_second, 100, 0.002)
    return LoopCandidate(second * FRAMES_PER_SUBMAP, first * FRAMES_PER_SUBMAP, 0.8, edge)


def doubts(found: Submap) -> Doubts:
    return find_doubts(found.geometry.frames)


def true_loop(first: int, second: int) -> LoopCandidate:
    return candidate(first, second, true_pose(first).inverse() @ true_pose(second))


def blinded(found: Submap) -> Submap:
    """The submap with no depth in its middle frame."""
    first, middle, *rest = found.geometry.frames
    dark = replace(middle, depth=np.zeros_like(middle.depth))
    return replace(found, geometry=replace(found.geometry, frames=(first, dark, *rest)))


def run(closer: LoopCloser, poses: Sequence[Sim3], blind: int = -1) -> dict[int, Sim3]:
    """Add submaps; later ones follow the corrections, as in placement. Returns their final poses. blind: a submap that
    has a frame without depth.
    """
    placed: dict[int, Sim3] = {}
    for number, pose in enumerate(poses):
        step = poses[number - 1].inverse() @ pose if number else pose
        placed[number] = placed[number - 1] @ step if number else pose
        found = submap(number, placed[number])
        found = blinded(found) if number == blind else found
        placed.update(closer.extend(found, (), lambda _: {}, doubts=doubts(found), new_piece=number == 0))
    return placed


def errors(placed: Mapping[int, Sim3]) -> float:
    return max(float(np.linalg.norm(pose.translation - true_pose(n).translation)) for n, pose in placed.items())


def test_true_loop_closes_the_ring_with_its_scale() -> None:
    poses = drifted(DRIFT)
    before = errors(dict(enumerate(poses)))
    closer = LoopCloser(Scripted({RING: [true_loop(0, RING)]}))
    placed = run(closer, poses)
    assert before > 2
    assert errors(placed) < 0.4 * before
    assert placed[RING].scale == pytest.approx(1, abs=0.02)
    (line,) = closer.ledger
    assert line.verdict == "accepted"
    assert line.after < 1 < line.before


def test_without_a_loop_nothing_moves() -> None:
    closer = LoopCloser(Scripted({}))
    poses = drifted(DRIFT)
    placed = run(closer, poses)
    assert all(placed[number].isclose(pose) for number, pose in enumerate(poses))
    assert closer.ledger == ()


def test_unverified_candidate_is_in_the_ledger_and_not_in_the_graph() -> None:
    poses = drifted(DRIFT)
    unverified = LoopCandidate(36, 0, 0.9, None, "only 3 features with depth match")
    closer = LoopCloser(Scripted({RING: [unverified]}))
    placed = run(closer, poses)
    assert all(placed[number].isclose(pose) for number, pose in enumerate(poses))
    (line,) = closer.ledger
    assert (line.verdict, line.reason) == ("rejected", "only 3 features with depth match")


def test_loop_that_bends_the_map_beyond_its_drift_is_rejected() -> None:
    # Two rooms that look exactly alike: only the path between them shows that they are two.
    poses = drifted(DRIFT)
    closer = LoopCloser(Scripted({6: [candidate(0, 6, Sim3.identity())]}))
    placed = run(closer, poses)
    assert all(placed[number].isclose(pose) for number, pose in enumerate(poses))
    (line,) = closer.ledger
    assert line.verdict == "rejected"
    assert "bends the map" in line.reason


@pytest.mark.parametrize("count", [2, 3])
def test_several_loops_that_agree_and_bend_the_map_are_named(count: int) -> None:
    """Either the two rooms look alike, or the path between them is wrong: nobody here can tell."""
    alike = [candidate(number, 6 + number, Sim3.identity()) for number in range(count)]
    closer = LoopCloser(Scripted({6 + number: [one] for number, one in enumerate(alike)}))
    run(closer, [true_pose(number) for number in range(RING)])
    assert [line.verdict for line in closer.ledger] == ["rejected"] * count
    assert closer.contradicting == (closer.ledger if count == 3 else ())


def test_loops_that_bend_the_map_in_different_ways_say_nothing_together() -> None:
    wrong = [candidate(number, 6 + number, Sim3(1.0, np.eye(3), np.array([0, 4.0 * number, 0]))) for number in range(3)]
    closer = LoopCloser(Scripted({6 + number: [one] for number, one in enumerate(wrong)}))
    run(closer, [true_pose(number) for number in range(RING)])
    assert [line.verdict for line in closer.ledger] == ["rejected"] * 3
    assert closer.contradicting == ()


def test_a_loop_may_close_a_jump_of_scale_in_a_submap_that_loses_scale() -> None:
    # Submap 7 has a frame without depth: the map after it has a fifth of its size, and only the loop shows that.
    poses = [true_pose(number) for number in range(RING + 1)]
    pivot = poses[7].apply(np.array([1.0, 0, 0]))  # the camera of the middle frame
    shrink = Sim3(0.2, np.eye(3), 0.8 * pivot)
    shrunk = [pose if number < 7 else shrink @ pose for number, pose in enumerate(poses)]
    seen = true_loop(0, RING)
    sure, unsure = LoopCloser(Scripted({RING: [seen]})), LoopCloser(Scripted({RING: [seen]}))
    assert run(sure, shrunk)[RING].scale == pytest.approx(0.2)
    assert sure.ledger[0].verdict == "rejected"
    placed = run(unsure, shrunk, blind=7)
    assert unsure.ledger[0].verdict == "accepted"
    assert placed[RING].scale == pytest.approx(1, abs=0.05)
    assert placed[6].scale == pytest.approx(1, abs=0.05)
    assert errors(placed) < 0.1 * errors(dict(enumerate(shrunk)))
    assert unsure.confirmed == ((seen.earlier, seen.frame),)
    assert sure.confirmed == ()


def test_a_frame_without_depth_does_not_join_two_rooms_that_look_alike() -> None:
    closer = LoopCloser(Scripted({6: [candidate(0, 6, Sim3.identity())]}))
    poses = drifted(DRIFT)
    placed = run(closer, poses, blind=4)
    assert closer.ledger[0].verdict == "rejected"
    assert all(placed[number].isclose(pose) for number, pose in enumerate(poses))


def test_loop_is_retracted_when_later_ones_contradict_it() -> None:
    poses = drifted(DRIFT, RING + 4)
    shift = Sim3(1.0, np.eye(3), np.array([1.5, -1.5, 1.0]))
    doubtful = candidate(0, RING, true_pose(0).inverse() @ true_pose(RING) @ shift)
    later = {RING + k: [true_loop(k, RING + k)] for k in (1, 2, 3)}
    closer = LoopCloser(Scripted({RING: [doubtful], **later}))
    placed = run(closer, poses)
    verdicts = [line.verdict for line in closer.ledger]
    assert verdicts == ["retracted", "accepted", "accepted", "accepted"]
    assert "contradicts" in closer.ledger[0].reason
    assert closer.confirmed == tuple((line.earlier, line.frame) for line in closer.ledger[1:])
    assert errors(placed) < 0.5 * errors(dict(enumerate(poses)))


def test_edge_joins_chunk_frames_whatever_frame_was_recognised() -> None:
    # The recognised frames are the last ones of their submaps, but the edge is not between these frames.
    last = true_loop(0, RING)
    moved = LoopCandidate(last.frame + 2, last.earlier + 2, last.similarity, last.edge)
    poses = drifted(DRIFT)
    a, b = (run(LoopCloser(Scripted({RING: [loop]})), poses) for loop in (last, moved))
    assert all(a[number].isclose(b[number]) for number in a)


def test_loop_into_another_piece_is_rejected() -> None:
    closer = LoopCloser(Scripted({2: [candidate(0, 2, Sim3.identity())]}))
    for number in range(3):
        found = submap(number, true_pose(number))
        closer.extend(found, (), lambda _: {}, doubts=doubts(found), new_piece=number in (0, 2))
    assert closer.ledger[0].verdict == "rejected"
    assert "not connected" in closer.ledger[0].reason
    assert closer.confirmed == ((0, 2 * FRAMES_PER_SUBMAP),)  # the joint adjustment may connect the pieces there


def two_pieces(script: Mapping[int, Sequence[LoopCandidate]], elsewhere: Sim3) -> tuple[LoopCloser, dict[int, Sim3]]:
    """Once around the ring, then a second time in a separate world."""
    closer, placed = LoopCloser(Scripted(script)), dict[int, Sim3]()
    for number in range(2 * RING):
        pose = true_pose(number) if number < RING else elsewhere @ true_pose(number)
        if number > RING and placed[number - 1].isclose(true_pose(number - 1)):
            pose = true_pose(number)  # placement follows the corrections
        placed[number] = pose
        found = submap(number, pose)
        new_piece = number in (0, RING)
        placed.update(closer.extend(found, (), lambda _: {}, doubts=doubts(found), new_piece=new_piece))
    return closer, placed


ELSEWHERE = Sim3(3.0, Rotation.from_euler("xyz", [0.3, 1.0, -0.5]).as_matrix(), np.array([50.0, -7.0, 2.0]))


def test_loops_that_agree_connect_two_pieces() -> None:
    wrong = candidate(6, RING + 1, Sim3.identity())
    script = {RING: [true_loop(0, RING)], RING + 1: [wrong, true_loop(1, RING + 1)], RING + 2: [true_loop(1, RING + 2)]}
    closer, placed = two_pieces(script, ELSEWHERE)
    assert [line.verdict for line in closer.ledger] == ["accepted", "rejected", "accepted", "accepted"]
    assert "contradict" in closer.ledger[1].reason
    assert all(pose.isclose(true_pose(number), atol=1e-6) for number, pose in placed.items())


def test_two_loops_connect_no_pieces() -> None:
    script = {RING: [true_loop(0, RING)], RING + 2: [true_loop(1, RING + 2)]}
    closer, placed = two_pieces(script, ELSEWHERE)
    assert {line.verdict for line in closer.ledger} == {"rejected"}
    assert placed[RING].isclose(ELSEWHERE @ true_pose(RING))


def test_loops_that_contradict_each_other_connect_no_pieces() -> None:
    loops = [candidate(first, RING, Sim3.identity()) for first in (0, 3, 6, 9)]
    closer, placed = two_pieces({RING: loops}, ELSEWHERE)
    assert {line.verdict for line in closer.ledger} == {"rejected"}
    assert placed[RING].isclose(ELSEWHERE @ true_pose(RING))


def test_a_loop_of_a_connected_map_may_lead_to_either_part() -> None:
    bridges = {RING + n: [true_loop(n, RING + n)] for n in range(3)}
    bent = candidate(3, RING + 4, true_pose(3).inverse() @ ELSEWHERE @ true_pose(RING + 4))
    script = bridges | {RING + 4: [bent, true_loop(5, RING + 4)]}
    closer, _ = two_pieces(script, ELSEWHERE)
    assert [line.verdict for line in closer.ledger[-2:]] in (["retracted", "accepted"], ["rejected", "accepted"])


def test_revised_submaps_bring_new_edges() -> None:
    closer = LoopCloser(Scripted({2: [candidate(0, 2, Sim3(1.0, np.eye(3), np.array([2.0, 0, 0])))]}))
    shift = [Sim3(1.0, np.eye(3), np.array([x, 0.0, 0.0])) for x in (0.0, 30.0, 2.0)]
    half_way = Sim3(1.0, np.eye(3), np.array([1.0, 0, 0]))
    for number, revised in enumerate(({}, {}, {1: half_way})):
        found = submap(number, shift[number])
        placed = closer.extend(found, (), lambda _: {}, doubts=doubts(found), new_piece=number == 0, revised=revised)
    assert placed[1].isclose(half_way, atol=1e-3)
    assert closer.ledger[0].verdict == "accepted"
