"""A room before and after three things in it were moved, seen from different places: exact depth, without images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, ChunkGeometry, FrameGeometry, PlacedFrame, SparsePoints, Submap
from recon.evaluate.changes import Comparison, Looked, compare
from recon.lab.synthetic.look_alikes import MOVED, tidied
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_depth
from recon.lab.synthetic.sample import furnished_room, walk
from recon.lab.synthetic.scenes import Scene
from recon.store.map import MapStore, open_map

LENS = Camera("PINHOLE", 200, 150, (156.25, 156.25, 100.0, 75.0))  # the field of view of the sample's
LATER_FROM_ROOM = Sim3(0.7, Rotation.from_rotvec([0.2, 0.4, -1.0]).as_matrix(), np.array([3.0, 1, -2]))
CLOSE = 0.4  # m, between the middle of a thing and of what is seen of it
ABOUT = Sim3(1.004, Rotation.from_rotvec([0.002, 0.003, -0.002]).as_matrix(), np.array([0.01, -0.01, 0.01]))


def looked(folder: Path, scene: Scene, positions: list[int], count: int, world_from_room: Sim3) -> Looked:
    """What a map of the room from some positions of a walk saw."""
    poses = walk(count)[positions]
    matrix = torch.as_tensor(LENS.matrix(), dtype=torch.float32)
    depths = render_depth(scene, inverse_rigid(poses).float()[None], matrix, LENS.height, LENS.width)[0].numpy()
    frames, geometries = [], []
    for index, (pose, depth) in enumerate(zip(poses.numpy(), depths, strict=True)):
        rotation = world_from_room.rotation @ pose[:3, :3]
        world_from_cam = Sim3(world_from_room.scale, rotation, world_from_room.apply(pose[:3, 3]))
        frames.append(PlacedFrame(index, float(index), f"{index}.png", LENS, world_from_cam))
        colour, sure = np.full((*depth.shape, 3), 128, np.uint8), np.ones_like(depth)
        geometries.append(FrameGeometry(index, np.eye(4), LENS, LENS.matrix(), depth, sure, colour))
    store = MapStore(folder)
    geometry = ChunkGeometry(tuple(geometries), SparsePoints.empty())
    store.write_submap(Submap(0, geometry, Sim3.identity(), 0.0), {frame.index for frame in frames})
    store.write_places(tuple(frames), (), SparsePoints.empty(), complete=True)
    return Looked.at(open_map(folder))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    return looked(tmp_path_factory.mktemp("before"), furnished_room(), list(range(12)), 12, Sim3.identity())


@pytest.fixture(scope="module")
def found(before: Looked, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The comparison with the room afterwards, which lies about so to the room before."""
    after = looked(tmp_path_factory.mktemp("after"), tidied(), list(range(10)), 10, LATER_FROM_ROOM)
    return compare(before, after, LATER_FROM_ROOM.inverse() @ ABOUT)


def _apart(first: Array, second: Array) -> float:
    return float(np.linalg.norm(first - second))


def middle_of(scene: Scene, solids: tuple[int, ...]) -> Array:
    return np.asarray(scene.centre[0, list(solids)].mean(axis=0).numpy())


def test_moved_things_are_found_where_they_were_and_are_and_nothing_else(found: Comparison) -> None:
    places = {
        (solids, appeared): middle_of(scene, solids)
        for solids, _ in MOVED
        for scene, appeared in ((furnished_room(), False), (tidied(), True))
    }
    near = [
        {key for key, middle in places.items() if key[1] == change.appeared and _apart(change.centre, middle) < CLOSE}
        for change in found.changes
    ]
    assert all(len(keys) == 1 for keys in near)  # no change but these
    # The table hides the stool from most of these frames; with 60, all three are found, see BENCHMARKS.md.
    assert set.union(*near) >= {key for key in places if key[0] != (46,)}


def test_the_maps_are_aligned_by_the_surfaces_that_both_have(found: Comparison) -> None:
    true = LATER_FROM_ROOM.inverse()
    error = true.inverse() @ found.first_from_second
    assert error.scale == pytest.approx(1, abs=1e-3)
    assert Rotation.from_matrix(error.rotation).magnitude() < 1e-3
    corners = np.array([[-3.0, -2.5, 0], [3, 2.5, 2.7]])
    assert np.allclose(found.first_from_second.apply(LATER_FROM_ROOM.apply(corners)), corners, atol=0.01)
    assert found.step == pytest.approx(0.03, abs=0.02)
    assert min(found.seen) > 0.7


def test_what_the_other_map_never_looked_at_has_not_changed(before: Looked, tmp_path: Path) -> None:
    few = looked(tmp_path / "few", furnished_room(), [0, 1], 12, Sim3.identity())
    compared = compare(before, few, Sim3.identity())
    assert compared.changes == ()
    assert compared.seen[0] < 0.6
    assert compared.seen[1] > 0.9
