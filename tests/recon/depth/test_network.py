"""The whole network: no unit of length, independent batch elements, sparse points in the right cells."""

import torch

from recon.depth.network import PosedDepthConfig, PosedDepthNet, Sweep, pool_sparse, sparse_volume
from recon.depth.stem import Features
from tests.recon.depth.scenes import HEIGHT, WIDTH, Views, room_views

TINY = PosedDepthConfig(stem=(8, 8, 16, 16, 16), matching=8, groups=2, planes=12, volume=(8, 8, 8))


def tiny_net() -> PosedDepthNet:
    torch.manual_seed(0)
    return PosedDepthNet(TINY).eval()


def sweep_of(views: Views, scale: float = 1.0) -> Sweep:
    sparse = torch.zeros(1, 1, HEIGHT, WIDTH)
    sparse[0, 0, 20, 30] = 1 / (scale * views.depth[0, 20, 30])
    return Sweep(views.geometry(scale=scale), torch.linspace(0.1, 0.8, TINY.planes)[None] / scale, sparse)


def encode(net: PosedDepthNet, views: Views) -> Features:
    return net.encode(views.colour.permute(0, 3, 1, 2))


def test_depth_scales_with_the_unit_of_the_poses() -> None:
    net, views = tiny_net(), room_views()
    with torch.no_grad():
        features = encode(net, views)
        reference, sources = features[torch.tensor([0])], features[torch.tensor([1, 2])]
        metres = net.estimate(reference, sources, sweep_of(views))
        feet = net.estimate(reference, sources, sweep_of(views, scale=3.28))
    torch.testing.assert_close(feet.inverse_depth * 3.28, metres.inverse_depth, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(feet.log_scale, metres.log_scale, rtol=1e-2, atol=1e-2)


def test_every_pixel_gets_a_positive_depth() -> None:
    net, views = tiny_net(), room_views()
    with torch.no_grad():
        features = encode(net, views)
        estimate = net.estimate(features[torch.tensor([0])], features[torch.tensor([1, 2])], sweep_of(views))
    assert estimate.inverse_depth.shape == estimate.log_scale.shape == (1, 1, HEIGHT, WIDTH)
    assert estimate.scores.shape == (1, TINY.planes, HEIGHT // 8, WIDTH // 8)
    assert (estimate.inverse_depth > 0).all()


def test_references_of_a_batch_are_independent() -> None:
    net, views = tiny_net(), room_views()
    with torch.no_grad():
        features = encode(net, views)
        alone = net.estimate(features[torch.tensor([0])], features[torch.tensor([1, 2])], sweep_of(views))
        one = sweep_of(views)
        other = Sweep(views.geometry(reference=1), one.inverse_depths * 1.1, torch.zeros_like(one.sparse))
        geometry = type(one.geometry)(
            *(
                torch.cat(parts)
                for parts in zip(vars(one.geometry).values(), vars(other.geometry).values(), strict=True)
            )
        )
        both = Sweep(
            geometry, torch.cat([one.inverse_depths, other.inverse_depths]), torch.cat([one.sparse, other.sparse])
        )
        together = net.estimate(features[torch.tensor([0, 1])], features[torch.tensor([1, 2, 0, 2])], both)
    torch.testing.assert_close(together.inverse_depth[:1], alone.inverse_depth, rtol=1e-3, atol=1e-4)


def test_brightness_and_contrast_of_an_image_do_not_matter() -> None:
    net, views = tiny_net(), room_views(1)
    images = views.colour.permute(0, 3, 1, 2)
    with torch.no_grad():
        bright, dim = net.encode(images), net.encode(0.6 * images + 0.2)
    assert (bright.coarse - dim.coarse).abs().max() < 0.1


def test_positions_and_inverse_depths_are_each_others_inverse() -> None:
    sweep = sweep_of(room_views())
    position = torch.linspace(0, TINY.planes - 1, 7)[None]
    torch.testing.assert_close(sweep.position_of(sweep.inverse_depth_at(position)), position)
    torch.testing.assert_close(sweep.inverse_depth_at(torch.arange(TINY.planes)[None]), sweep.inverse_depths)
    assert (sweep.inverse_depth_at(torch.tensor([[-1e3]])) > 0).all()


def test_a_sparse_point_marks_its_cell_and_its_plane() -> None:
    views = room_views()
    sweep = sweep_of(views)
    volume = sparse_volume(sweep, 8)
    assert volume.shape == (1, TINY.planes, HEIGHT // 8, WIDTH // 8, 2)
    assert volume[..., 1].sum() == TINY.planes
    plane = sweep.position_of(sweep.sparse)[0, 0, 20, 30]
    assert abs(float(volume[0, :, 2, 3, 0].argmax()) - float(plane)) <= 0.5
    pooled, mask = pool_sparse(sweep.sparse, 4)
    assert mask.sum() == 1
    assert pooled[0, 0, 5, 7] == sweep.sparse[0, 0, 20, 30]
