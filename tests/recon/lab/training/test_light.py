"""Jitter on the device: bounded, different for every image, none without strength, and a function of its generator."""

import torch

from recon.lab.training.light import compressed, cosine_basis, hue_rotation, relight


def images(count: int = 6) -> torch.Tensor:
    rows = torch.linspace(0.2, 0.8, 40)[:, None].expand(40, 56)
    return torch.stack([rows, rows.flip(0), 0.5 * rows + 0.2]).expand(count, 3, 40, 56).clone()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_image_gets_its_own_light() -> None:
    lit = relight(images(), generator(), 1.0)
    assert lit.shape == (6, 3, 40, 56)
    assert lit.min() >= 0
    assert lit.max() <= 1
    means = lit.mean((2, 3))
    assert (torch.pdist(means) > 0.01).all()
    assert torch.equal(lit, relight(images(), generator(), 1.0))


def test_no_strength_changes_nothing() -> None:
    torch.testing.assert_close(relight(images(), generator(), 0.0), images(), atol=1e-4, rtol=0)


def test_hue_turns_about_grey() -> None:
    rotation = hue_rotation(torch.tensor([0.7, torch.pi * 2 / 3]))
    grey = torch.full((3,), 0.4)
    torch.testing.assert_close(rotation @ grey, grey.expand(2, 3))
    torch.testing.assert_close(rotation[1] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)


def test_compression_keeps_means_and_loses_fine_patterns() -> None:
    basis = cosine_basis(torch.device("cpu"))
    torch.testing.assert_close(basis @ basis.T, torch.eye(8), atol=1e-6, rtol=0)
    noisy = (images() + 0.02 * torch.randn((6, 3, 40, 56), generator=generator(1))).clamp(0, 1)
    restored = compressed(noisy, torch.full((6, 1, 1, 1), 0.05))
    assert (restored - noisy).abs().max() > 0.01
    assert (restored.mean((2, 3)) - noisy.mean((2, 3))).abs().max() < 0.01
    small = [(basis @ image[..., :8, :8] @ basis.T)[..., 6:, 6:].abs() < 1e-5 for image in (noisy, restored)]
    assert small[0].float().mean() < 0.1
    assert small[1].float().mean() > 0.3
