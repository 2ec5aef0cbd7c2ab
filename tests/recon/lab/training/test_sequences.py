"""Batches of sequences: exact geometry, the requested poses, chunks that make up the whole."""

from dataclasses import replace

import pytest
import torch

from recon.lab.compact.compact import CompactNet
from recon.lab.training.atlas import Atlas, procedural_tiles
from recon.lab.training.pool import PoolSettings, Shard, render_shard
from recon.lab.training.presets import COMPACT_TINY
from recon.lab.training.sequences import SequenceBatch, SequenceSettings, estimate_depth, make_sequences, run_sequences
from recon.lab.training.truth import correspondence

SETTINGS = SequenceSettings(
    scenes=3, parts=2, views=3, height=48, width=64, planes=16, strength=0.0, references=2, sources=2, overlap=0.3
)


@pytest.fixture(scope="module")
def shards() -> list[Shard]:
    atlas = Atlas.of(procedural_tiles(torch.Generator().manual_seed(0), 3))
    settings = PoolSettings(height=64, width=80, scenes=2, views=4)
    return [render_shard(settings, number, atlas, torch.device("cpu")) for number in (2, 3)]


def batch_of(shards: list[Shard], settings: SequenceSettings = SETTINGS, seed: int = 0) -> SequenceBatch:
    return make_sequences(shards, settings, torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed))


def with_poses(shards: list[Shard], poses: str) -> SequenceBatch:
    return next(batch for batch in (batch_of(shards, seed=seed) for seed in range(100)) if batch.poses == poses)


def test_the_world_is_the_first_view_and_its_median_depth(shards: list[Shard]) -> None:
    batch = batch_of(shards)
    assert batch.images.shape == (6, 3, 3, 48, 64)  # three scenes from shards of two: one appears twice
    assert batch.samples == 18
    poses = batch.seen.cam_from_world.unflatten(0, (6, 3))
    torch.testing.assert_close(poses[:, 0], torch.eye(4).expand(6, 4, 4), atol=1e-5, rtol=0)
    assert (poses[:, 1:, :3, 3].norm(dim=2) > 1e-4).all()
    depth = batch.seen.depth.unflatten(0, (6, 3))[:, 0]
    assert (depth[depth > 0].median() - 1).abs() < 0.2


def test_corresponding_cells_of_two_views_look_alike(shards: list[Shard]) -> None:
    batch = batch_of(shards)
    first = torch.arange(0, 18, 3)
    truth = correspondence(batch.seen[first], batch.seen[first + 1])
    assert truth.covisible.float().mean() > 0.4
    images = batch.images.flatten(0, 1)
    grid = (2 * (truth.pixels + 0.5) / torch.tensor([64, 48]) - 1)[:, None]
    there = torch.nn.functional.grid_sample(images[first + 1], grid, align_corners=False)[:, :, 0]
    here = images[first][:, :, 4::8, 4::8].flatten(2)
    error = (there - here).abs().mean(1)[truth.covisible].median()
    shuffled = (there.flip(2) - here).abs().mean(1)[truth.covisible].median()
    assert error < 0.03
    assert error < 0.4 * shuffled


def test_references_meet_other_views_of_their_scene(shards: list[Shard]) -> None:
    batch = batch_of(shards)
    assert batch.references.shape == (12,)
    sources = batch.sources.reshape(12, 2)
    assert (sources // 3 == batch.references[:, None] // 3).all()
    assert (sources != batch.references[:, None]).all()
    assert batch.sweep is not None
    assert batch.sweep.geometry.rotation.shape == (12, 2, 3, 3)


def test_poses_of_the_sweep_are_true_noisy_own_or_none(shards: list[Shard]) -> None:
    drawn = [batch_of(shards, seed=seed).poses for seed in range(60)]
    assert 12 < drawn.count("true") < 36
    assert 8 < drawn.count("noisy") < 30
    assert 2 < drawn.count("own") < 20
    assert 2 < drawn.count("none") < 20
    blind = with_poses(shards, "none").sweep
    assert blind is not None
    _, seen = blind.geometry.project(blind.inverse_depths[:, :, None, None], 8, (6, 8))
    assert not seen.any()


def test_own_poses_reach_the_sweep(shards: list[Shard]) -> None:
    torch.manual_seed(0)
    net = CompactNet(COMPACT_TINY.network).eval()
    batch = with_poses(shards, "own")
    with torch.no_grad():
        run = run_sequences(net, batch, half=False)
        own = estimate_depth(net, batch, run, half=False)
        given = estimate_depth(net, replace(batch, poses="true"), run, half=False)
    assert own.inverse_depth.isfinite().all()
    assert not torch.allclose(own.inverse_depth, given.inverse_depth, rtol=1e-3)


def test_chunks_make_up_the_views_and_keep_their_order(shards: list[Shard]) -> None:
    assert batch_of(shards).chunks == (3,)
    streamed = [batch_of(shards, replace(SETTINGS, streamed=1.0), seed) for seed in range(12)]
    assert all(sum(batch.chunks) == 3 for batch in streamed)
    assert {batch.every for batch in streamed} == {1, 2}
    assert len({batch.chunks for batch in streamed}) > 2
    torch.manual_seed(0)
    net = CompactNet(COMPACT_TINY.network).eval()
    batch = replace(batch_of(shards), chunks=(1, 2), every=2)
    with torch.no_grad():
        run = run_sequences(net, batch, half=False)
        features = net.depth.encode(batch.images.flatten(0, 1))
    torch.testing.assert_close(run.features.coarse, features.coarse, atol=1e-5, rtol=1e-5)
    assert run.known == [[0], [0, 1, 2]]
    assert run.encodings.shape == (6, 3, 9)


def test_a_batch_repeats_with_its_generators(shards: list[Shard]) -> None:
    settings = replace(SETTINGS, strength=1.0)
    one, two, other = (batch_of(shards, settings, seed) for seed in (3, 3, 4))
    assert torch.equal(one.images, two.images)
    assert one.sweep is not None
    assert two.sweep is not None
    assert torch.equal(one.sweep.sparse, two.sweep.sparse)
    assert not torch.equal(one.images, other.images)
    with pytest.raises(ValueError, match="not on meta"):
        one.to(torch.device("meta"))
