"""Folded maps: a rendered mug with the same print on two sides, its map with true poses, and with one side laid upon
the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, ChunkGeometry, FrameGeometry, PlacedFrame, SparsePoints, Submap
from recon.lab.synthetic.twins import FOCAL, FRAMES, HEIGHT, WIDTH, Walk, photograph, printed_mug
from recon.mapping.folds import FEWEST, Sight, examine, find_fold, laid_upon, unlike
from recon.store.map import MapStore, open_map

SEEN = (0, 1, 2, 20, 21, 22)  # of FRAMES around the mug: both sides
LENS = Camera("PINHOLE", WIDTH // 2, HEIGHT // 2, (FOCAL / 2, FOCAL / 2, WIDTH / 4, HEIGHT / 4))
HALF_TURN = np.diag([-1.0, -1.0, 1.0])


def seen_from(walk: Walk, index: int) -> FrameGeometry:
    """The frame with its exact depth."""
    picture = photograph(walk[0], walk[1][index], shrink=2)
    depth = picture.depth[0, 0].numpy()
    colour = (255 * picture.colour[0, 0].clamp(0, 1)).round().byte().numpy()
    return FrameGeometry(index, np.eye(4), LENS, LENS.matrix(), depth, (depth > 0).astype(np.float32), colour)


@pytest.fixture(scope="module")
def walk() -> Walk:
    return printed_mug(0, alike=True)


@pytest.fixture(scope="module")
def frames(walk: Walk) -> dict[int, FrameGeometry]:
    return {index: seen_from(walk, index) for index in SEEN}


def poses(walk: Walk, turned: Array) -> dict[int, Sim3]:
    """world_from_cam of SEEN; those of the far side are turned about the mug's axis."""
    found = {}
    for index in SEEN:
        pose, turn = walk[1][index].numpy(), turned if index >= FRAMES // 2 else np.eye(3)
        found[index] = Sim3(1.0, turn @ pose[:3, :3], turn @ pose[:3, 3])
    return found


def placed(index: int, pose: Sim3) -> PlacedFrame:
    return PlacedFrame(index, float(index), f"{index:02d}.jpg", LENS, pose)


def store(folder: Path, frames: Mapping[int, FrameGeometry], world_from_cam: Mapping[int, Sim3]) -> Path:
    """A finished map of some frames."""
    writer = MapStore(folder)
    chunk = ChunkGeometry(tuple(frames.values()), SparsePoints.empty())
    writer.write_submap(Submap(0, chunk, Sim3.identity(), 0.0), set(frames))
    rows = tuple(placed(index, world_from_cam[index]) for index in frames)
    writer.write_places(rows, (), SparsePoints.empty(), complete=True)
    return folder


def test_a_right_map_is_not_doubted(tmp_path: Path, walk: Walk, frames: dict[int, FrameGeometry]) -> None:
    folder = store(tmp_path, frames, poses(walk, np.eye(3)))
    assert find_fold(open_map(folder)) == (None, 6)  # the three pairs of either side
    assert examine(folder) == ()


def test_two_sides_laid_upon_one_another_are_named(
    tmp_path: Path, walk: Walk, frames: dict[int, FrameGeometry]
) -> None:
    (sentence,) = examine(store(tmp_path, frames, poses(walk, HALF_TURN)))
    assert ".jpg lie upon one another but show different things, one of " in sentence
    fold, compared = find_fold(open_map(tmp_path))
    assert compared == 15  # all pairs
    assert fold is not None
    assert fold.contradictions >= 6
    assert (int(fold.first[:2]) < FRAMES // 2, int(fold.second[:2]) < FRAMES // 2) == (True, False)


def test_a_single_pair_is_no_fold(tmp_path: Path, walk: Walk, frames: dict[int, FrameGeometry]) -> None:
    two = {index: frames[index] for index in (0, 20)}
    fold, compared = find_fold(open_map(store(tmp_path, two, poses(walk, HALF_TURN))))
    assert (fold, compared) == (None, 1)
    assert compared < FEWEST


def test_frames_are_compared_by_what_both_see(walk: Walk, frames: dict[int, FrameGeometry]) -> None:
    true, folded = poses(walk, np.eye(3)), poses(walk, HALF_TURN)
    first, next_one, twin, far = (
        Sight.of(placed(index, pose[index]), frames[index])
        for index, pose in ((2, true), (1, true), (22, folded), (22, true))
    )
    assert unlike(first, next_one) < 0.02
    assert unlike(first, twin) > 0.2
    assert list(laid_upon([first, next_one, far])) == [(0, 1)]
    darker = replace(frames[1], colour=(frames[1].colour // 2 + 20).astype(np.uint8))
    assert unlike(first, Sight.of(placed(1, true[1]), darker)) < 0.02
    guessed = replace(frames[1], confidence=0.4 * frames[1].confidence)
    assert list(laid_upon([first, Sight.of(placed(1, true[1]), guessed)])) == []


def test_the_unit_of_the_depth_does_not_matter(walk: Walk, frames: dict[int, FrameGeometry]) -> None:
    pose = poses(walk, HALF_TURN)
    smaller = replace(frames[20], depth=frames[20].depth / 4)
    scaled = Sim3(4.0, pose[20].rotation, pose[20].translation)
    first = Sight.of(placed(0, pose[0]), frames[0])
    expected = unlike(first, Sight.of(placed(20, pose[20]), frames[20]))
    assert unlike(first, Sight.of(placed(20, scaled), smaller)) == pytest.approx(expected, abs=0.02)
