"""Surface colours: in range, without repetition, filtered at a distance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.lab.synthetic.textures import Pattern, SurfacePoints, albedo, fractal_noise, mix, unit_interval, value_noise

GRID = 48


def surface(pattern: Pattern, seed: int, shift: float = 0.0, footprint: float = 0.002) -> SurfacePoints:
    """A square of 1 m on a side, GRID x GRID points, of a face of 2.4 x 2.4 m."""
    ticks = torch.linspace(-0.5, 0.5, GRID)
    v, u = (grid.flatten() for grid in torch.meshgrid(ticks, ticks, indexing="ij"))
    count = len(u)
    palette = torch.rand((4, 3), generator=torch.Generator().manual_seed(1))
    return SurfacePoints(
        position=torch.stack([u + shift, v, torch.ones_like(u)], 1),
        uv=torch.stack([u + shift, v], 1),
        extent=torch.full((count, 2), 1.2),
        seed=mix(torch.full((count,), seed, dtype=torch.int32), 0),
        pattern=torch.full((count,), int(pattern)),
        cell=torch.full((count,), 0.1),
        palette=palette.expand(count, 4, 3),
        footprint=torch.full((count,), footprint),
    )


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.mean(1), second.mean(1)]))[0, 1])


@settings(deadline=None, max_examples=25)
@given(pattern=st.sampled_from(list(Pattern)), seed=st.integers(0, 2**31 - 1), footprint=st.floats(1e-4, 10.0))
def test_colours_are_in_range(pattern: Pattern, seed: int, footprint: float) -> None:
    colour = albedo(surface(pattern, seed, footprint=footprint))
    assert colour.isfinite().all()
    assert colour.min() >= 0
    assert colour.max() <= 1


@pytest.mark.parametrize("pattern", [Pattern.PLASTER, Pattern.TILES, Pattern.TERRAZZO, Pattern.POSTER, Pattern.BOOKS])
def test_surfaces_with_other_seeds_look_different(pattern: Pattern) -> None:
    looks = [albedo(surface(pattern, seed)) for seed in range(8)]
    pairs = [(a, b) for b in range(8) for a in range(b)]
    assert max(correlation(looks[a], looks[b]) for a, b in pairs) < 0.75


@pytest.mark.parametrize("pattern", list(Pattern))
def test_patterns_do_not_repeat_along_a_surface(pattern: Pattern) -> None:
    here = albedo(surface(pattern, 3))
    for shift in (0.1, 0.3, 1.0, 12.8, 25.6):
        assert (here - albedo(surface(pattern, 3, shift))).abs().mean() > 0.01


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_pattern_has_detail_for_features(pattern: Pattern) -> None:
    grey = albedo(surface(pattern, 4)).mean(1).reshape(GRID, GRID)
    assert grey.diff(dim=0).abs().mean() > 0.008


def test_noise_fades_to_nothing_when_seen_from_afar() -> None:
    points = surface(Pattern.PLASTER, 1)
    frequency = torch.full_like(points.cell, 4.0)
    near = fractal_noise(points.position, points.seed, frequency, 4, points.footprint)
    far = fractal_noise(points.position, points.seed, frequency, 4, torch.full_like(points.footprint, 0.2))
    assert near.std() > 0.2
    assert (far == 0).all()


def test_value_noise_is_smooth_and_takes_the_lattice_values() -> None:
    x = torch.linspace(-3, 3, 6001)
    points = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], 1)
    noise = value_noise(points, torch.zeros(len(x), dtype=torch.int32))
    assert noise.diff().abs().max() < 2e-3  # slope of a cubic blend is at most 1.5
    assert noise.min() >= 0
    assert noise.max() < 1


def test_hashes_of_neighbours_are_uniform_and_unrelated() -> None:
    numbers = torch.arange(20000, dtype=torch.int32)
    values = unit_interval(mix(torch.zeros_like(numbers), numbers))
    assert torch.allclose(values.histc(10, 0, 1) / 2000, torch.ones(10), atol=0.1)
    assert abs(float(torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1])) < 0.03
    assert len(torch.unique(mix(numbers[:200, None], numbers[None, :100]))) == 20000


def test_number_and_tensor_give_the_same_hash() -> None:
    seed = torch.arange(100, dtype=torch.int32)
    assert torch.equal(mix(seed, 107), mix(seed, torch.full_like(seed, 107)))
