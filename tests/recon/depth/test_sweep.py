"""The plane sweep compared with loops, with NumPy and with rendered depth."""

import itertools

import numpy as np
import pytest
import torch

from recon.depth.sweep import (
    NOISE,
    Geometry,
    Visibility,
    average_sources,
    group_correlation,
    patch_correlation,
    sample_planes,
)
from tests.recon.depth.scenes import HEIGHT, WIDTH, Views, room_views


@pytest.fixture(scope="module")
def views() -> Views:
    return room_views()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_true_depth_leads_to_the_same_surface_in_the_source(views: Views) -> None:
    positions, seen = views.geometry().project(1 / views.depth[:1][None], 1, (HEIGHT, WIDTH))
    for source in (1, 2):
        column, row = ((positions[0, source - 1, 0] + 1) / 2 * torch.tensor([WIDTH, HEIGHT])).unbind(-1)
        points = torch.linalg.inv(views.intrinsics) @ pixel_centres() * views.depth[0].flatten()
        there = views.cam_from_world[source] @ torch.linalg.inv(views.cam_from_world[0])
        points_source = there[:3, :3] @ points + there[:3, 3:]
        expected = views.intrinsics @ points_source
        assert torch.allclose(column.flatten(), expected[0] / expected[2], atol=1e-3)
        assert torch.allclose(row.flatten(), expected[1] / expected[2], atol=1e-3)
        inside = seen[0, source - 1, 0].flatten()
        cell = (row.flatten().long().clamp(0, HEIGHT - 1), column.flatten().long().clamp(0, WIDTH - 1))
        found = views.depth[source][cell]
        same = (found / points_source[2] - 1).abs() < 0.03
        assert inside.float().mean() > 0.7
        assert same[inside].float().mean() > 0.85  # the rest is hidden in the source, or lies at an edge


def pixel_centres() -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)]).flatten(1)


def test_positions_of_a_strided_map_are_those_of_its_pixels_middles(views: Views) -> None:
    inverse = torch.full((1, 1, 1, 1), 0.4)
    full, _ = views.geometry().project(inverse, 1, (HEIGHT, WIDTH))
    quarter, _ = views.geometry().project(inverse, 4, (HEIGHT // 4, WIDTH // 4))
    # The middle of a 4x4 block lies between its four inner pixels, and the map is nearly linear there.
    middle = (full[..., 1::4, 1::4, :] + full[..., 2::4, 2::4, :]) / 2
    assert torch.allclose(quarter, middle, atol=1e-4)


def test_points_behind_or_outside_a_source_are_not_seen() -> None:
    intrinsics = torch.tensor([[[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]])
    sideways, behind = torch.eye(4), torch.eye(4)
    sideways[0, 3], behind[2, 3] = 1.0, -3.0
    geometry = Geometry.between(
        intrinsics,
        intrinsics[None].expand(1, 2, 3, 3),
        torch.stack([sideways, behind])[None],
        torch.tensor([[[16, 12]] * 2]),
    )
    _, seen = geometry.project(torch.tensor([[0.5, 5.0]])[..., None, None], 1, (12, 16))
    assert seen[0, 0, 0, :, :11].all()
    assert not seen[0, 0, 0, :, 11:].any()  # 10 px * 1 unit / 2 units of depth = 5 px to the right
    assert not seen[0, 0, 1].any()
    assert not seen[0, 1, 0].any()


def test_warped_planes_equal_the_sampled_ones(views: Views) -> None:
    grey = views.colour[1:].mean(-1)[None, :, None]
    small = torch.nn.functional.avg_pool2d(grey[:, :, 0], 2)[:, :, None]
    inverse = torch.tensor([[0.05, 0.3, 0.8]])
    positions, seen = views.geometry().project(inverse[..., None, None], 2, (HEIGHT // 2, WIDTH // 2))
    found = views.geometry().warp_planes(small, inverse, 2)
    assert seen.float().mean() > 0.5
    assert torch.allclose(found, sample_planes(small, positions), atol=1e-4)


def test_group_correlation_equals_bilinear_sampling_written_out() -> None:
    reference, sources = random(1, 4, 2, 3), random(1, 2, 4, 5, 6, seed=1)
    positions = random(1, 2, 2, 2, 3, 2, seed=2).clamp(-0.7, 0.7)
    found = group_correlation(reference, sources, positions, groups=2)
    for source, plane, row, column, group in itertools.product(range(2), range(2), range(2), range(3), range(2)):
        x, y = ((positions[0, source, plane, row, column] + 1) / 2 * torch.tensor([6, 5]) - 0.5).tolist()
        left, top = int(np.floor(x)), int(np.floor(y))
        value = torch.zeros(4, dtype=torch.float64)
        for dy, dx in itertools.product((0, 1), (0, 1)):
            weight = abs(1 - dy - (y - top)) * abs(1 - dx - (x - left))
            value += weight * sources[0, source, :, top + dy, left + dx]
        chosen = slice(2 * group, 2 * group + 2)
        expected = (value[chosen] * reference[0, chosen, row, column]).sum()
        assert torch.isclose(found[0, source, group, plane, row, column], expected, rtol=1e-9)


def test_patch_correlation_equals_the_formula_on_patches() -> None:
    reference, sources = random(1, 1, 12, 12), random(1, 1, 1, 12, 12, seed=1)
    found = patch_correlation(reference, sources, 2, narrow=True)
    assert found.shape == (1, 1, 2, 1, 6, 6)
    for channel, (start, end) in enumerate(((4, 6), (2, 8))):
        patches = [image.reshape(12, 12)[start:end, start:end] for image in (reference, sources)]
        first, second = (patch - patch.mean() for patch in patches)
        scale = ((first.square().mean() + NOISE) * (second.square().mean() + NOISE)).sqrt()
        assert torch.isclose(found[0, 0, channel, 0, 2, 2], (first * second).mean() / scale, rtol=1e-9)


def test_patches_ignore_brightness_and_contrast_and_plain_ones_score_nothing() -> None:
    image = random(1, 1, 12, 12)
    other = 0.4 * image[:, None] + 2
    assert patch_correlation(image, other, 4, narrow=True).min() > 0.97
    plain = torch.full_like(other, 3.0)
    assert patch_correlation(image, plain, 4, narrow=True).abs().max() < 1e-6


def test_the_average_counts_only_sources_that_see_the_point() -> None:
    correlation, weights = random(1, 3, 2, 4, 2, 2), random(1, 3, 2, 2, seed=1).sigmoid()
    seen = random(1, 3, 4, 2, 2, seed=2) > 0
    mean, total = average_sources(correlation, seen, weights)
    for plane, row, column in itertools.product(range(4), range(2), range(2)):
        shares = weights[0, :, row, column] * seen[0, :, plane, row, column]
        assert torch.isclose(total[0, plane, row, column], shares.sum())
        expected = (shares[:, None] * correlation[0, :, :, plane, row, column]).sum(0) / (shares.sum() + 1e-3)
        assert torch.allclose(mean[0, :, plane, row, column], expected)


def test_visibility_is_a_weight_for_every_source_and_pixel() -> None:
    seen = torch.ones(2, 3, 5, 4, 6, dtype=torch.bool)
    weights = Visibility(groups=4)(random(2, 3, 4, 5, 4, 6).float(), seen)
    assert weights.shape == (2, 3, 4, 6)
    assert ((weights > 0) & (weights < 1)).all()


def test_the_true_plane_scores_best_where_there_is_texture(views: Views) -> None:
    grey = views.colour.mean(-1)[:, None]
    grey = (grey - grey.mean()) / grey.std()
    planes = torch.linspace(0.1, 0.6, 24)
    positions, _ = views.geometry().project(planes[None, :, None, None], 1, (HEIGHT, WIDTH))
    score = patch_correlation(grey[:1], sample_planes(grey[1:][None], positions), 2, narrow=False)[0, :, 0].mean(0)
    best = planes[score.argmax(0)]
    true = 1 / views.depth[0, 1::2, 1::2]
    clear = score.amax(0) > 0.9
    assert clear.float().mean() > 0.15
    assert ((best - true).abs()[clear] < 0.045).float().mean() > 0.7
