"""From shards to batches: the geometry must stay exact through every transformation."""

import pytest
import torch

from recon.lab.training.atlas import Atlas, procedural_tiles
from recon.lab.training.batches import (
    BatchSettings,
    Views,
    all_references,
    choose_views,
    crop,
    make_batch,
    mirror,
    noisy_poses,
    random_planes,
    resize_depth,
    sparse_points,
)
from recon.lab.training.pool import PoolSettings, Shard, render_shard, view_overlap

SETTINGS = BatchSettings(scenes=2, views=3, height=32, width=40, planes=16)


@pytest.fixture(scope="module")
def shard() -> Shard:
    atlas = Atlas.of(procedural_tiles(torch.Generator().manual_seed(0), 3))
    return render_shard(PoolSettings(height=48, width=64, scenes=3, views=4), 2, atlas, torch.device("cpu"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(shard: Shard) -> Views:
    return choose_views(shard, SETTINGS, generator())


def agreement(views: Views) -> float:
    """Mean share of pixels whose depth another view confirms; wrong geometry confirms almost none."""
    overlap = view_overlap(views.depth, views.cam_from_world, views.intrinsics, stride=2)
    off_diagonal = ~torch.eye(overlap.shape[1], dtype=torch.bool)
    return float(overlap[:, off_diagonal].mean())


def test_cropping_and_mirroring_keep_the_geometry(shard: Shard) -> None:
    views = chosen(shard)
    before = agreement(views)
    assert before > 0.5
    cropped = crop(views, SETTINGS, generator(1))
    assert cropped.colour.shape == (2, 3, 32, 40, 3)
    assert agreement(cropped) > before - 0.15
    assert agreement(mirror(cropped)) == pytest.approx(agreement(cropped), abs=0.02)
    wrong = Views(cropped.colour, cropped.depth.flip(3), cropped.cam_from_world, cropped.intrinsics)
    assert agreement(wrong) < agreement(cropped) - 0.1


def test_mirroring_twice_changes_nothing(shard: Shard) -> None:
    views = chosen(shard)
    twice = mirror(mirror(views))
    assert torch.equal(twice.colour, views.colour)
    assert torch.allclose(twice.intrinsics, views.intrinsics)
    assert torch.allclose(twice.cam_from_world, views.cam_from_world)


def test_resized_depth_of_a_slanted_plane_is_exact_and_edges_stay_sharp() -> None:
    columns = torch.arange(64) + 0.5
    slanted = (1 / (0.2 + 0.004 * columns)).expand(1, 1, 48, 64)
    small = resize_depth(slanted, (32, 40))
    expected = 1 / (0.2 + 0.004 * (torch.arange(40) + 0.5) * 64 / 40)
    assert torch.allclose(small[0, 0, 5], expected, rtol=1e-4)
    step = torch.where(columns < 30, 1.0, 5.0).expand(1, 1, 48, 64)
    resized = resize_depth(step, (32, 40))
    assert torch.minimum((resized - 1).abs(), (resized - 5).abs()).max() < 1e-5
    assert (resize_depth(torch.zeros(1, 1, 48, 64), (32, 40)) == 0).all()


def test_every_view_is_the_reference_once_and_meets_all_others() -> None:
    references, sources = all_references(scenes=2, views=3)
    assert references.tolist() == list(range(6))
    assert sources.reshape(6, 2).tolist() == [[1, 2], [0, 2], [0, 1], [4, 5], [3, 5], [3, 4]]


def test_planes_enclose_nearly_all_depths_and_run_from_far_to_near(shard: Shard) -> None:
    depth = shard.depth.flatten(0, 1)[:, None]
    planes = random_planes(depth, 16, generator())
    assert (planes.diff(dim=1) > 0).all()
    assert (planes > 0).all()
    inside = (1 / depth > planes[:, :1, None, None]) & (1 / depth < planes[:, -1:, None, None])
    assert inside.float().mean() > 0.95


def test_sparse_points_are_mostly_right() -> None:
    depth = torch.full((64, 1, 32, 40), 2.0)
    sparse = sparse_points(depth, generator(), share=0.5)
    with_points = (sparse.flatten(1) > 0).any(1).float().mean()
    assert 0.3 < with_points < 0.6
    errors = (sparse[sparse > 0] * 2 - 1).abs()
    assert errors.median() < 0.02
    assert 0.005 < (errors > 0.1).float().mean() < 0.1


def test_noisy_poses_stay_rigid_and_near() -> None:
    poses = torch.eye(4).repeat(5, 3, 1, 1)
    poses[:, :, 0, 3] = torch.tensor([0.0, 1.0, 2.0])
    noisy = noisy_poses(poses, generator())
    rotation = noisy[..., :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3), atol=1e-5)
    moved = (noisy[..., :3, 3] - poses[..., :3, 3]).norm(dim=-1)
    assert 0 < moved.max() < 1.0


def test_a_batch_repeats_with_its_generator(shard: Shard) -> None:
    one, two, other = (make_batch(shard, SETTINGS, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.sweep.inverse_depths, two.sweep.inverse_depths)
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (6, 3, 32, 40)
    assert one.depth.shape == (6, 1, 32, 40)
    assert one.sweep.geometry.rotation.shape == (6, 2, 3, 3)
