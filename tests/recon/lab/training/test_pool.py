"""The resident pool of rendered scenes."""

from pathlib import Path

import pytest
import torch

from recon.lab.training.atlas import Atlas, procedural_tiles
from recon.lab.training.pool import Pool, PoolSettings, Shard, render_shard, view_overlap

SETTINGS = PoolSettings(height=24, width=32, scenes=2, views=3, first=2, shards=3, refresh_every=5, seed=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.of(procedural_tiles(torch.Generator().manual_seed(0), 3))


def test_shards_come_and_go_with_the_steps() -> None:
    assert SETTINGS.in_use(0) == range(2)
    assert SETTINGS.in_use(5) == range(3)
    assert SETTINGS.in_use(24) == range(3, 6)


def test_a_shard_is_a_function_of_its_number(atlas: Atlas) -> None:
    first, again, other = (render_shard(SETTINGS, number, atlas, CPU) for number in (4, 4, 5))
    assert torch.equal(first.colour, again.colour)
    assert torch.equal(first.depth, again.depth)
    assert first.colour.shape == (2, 3, 24, 32, 3)
    assert first.colour.float().std() > 5
    assert not torch.equal(first.depth, other.depth)


def test_round_trip_on_disk(atlas: Atlas, tmp_path: Path) -> None:
    shard = render_shard(SETTINGS, 0, atlas, CPU)
    shard.save(tmp_path / "shard.npz")
    loaded = Shard.load(tmp_path / "shard.npz")
    for name, tensor in vars(shard).items():
        assert torch.equal(getattr(loaded, name), tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["shard.npz"]


def test_the_pool_renders_missing_shards_and_deletes_old_ones(atlas: Atlas, tmp_path: Path) -> None:
    calls = []

    def lazy() -> Atlas:
        calls.append(1)
        return atlas

    pool, generator = Pool(SETTINGS, tmp_path, lazy, CPU), torch.Generator()
    pool.draw(0, generator)
    assert len(calls) == 2
    pool.draw(34, generator)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"shard-{number:06d}.npz" for number in (5, 6, 7)]
    before = len(calls)
    Pool(SETTINGS, tmp_path, lazy, CPU).draw(34, generator)
    assert len(calls) == before


def test_overlap_of_a_wall_seen_twice() -> None:
    depth = torch.full((1, 2, 24, 32), 2.0)
    cam_from_world = torch.eye(4).repeat(1, 2, 1, 1)
    cam_from_world[0, 1, 0, 3] = -1.0
    intrinsics = torch.tensor([[32.0, 0, 16], [0, 32, 12], [0, 0, 1]])
    overlap = view_overlap(depth, cam_from_world, intrinsics)[0]
    assert torch.equal(overlap.diag(), torch.ones(2))
    assert torch.allclose(overlap[0, 1], torch.tensor(0.5))  # 1 unit at depth 2 is 16 of 32 pixels
    depth[0, 1] = 3.0
    assert view_overlap(depth, cam_from_world, intrinsics)[0, 0, 1] == 0
