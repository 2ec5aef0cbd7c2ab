"""Photometric jitter of many images at once on their device; ``augment`` does the same image by image on a CPU.

Every image has its own light, lens and sensor: matching must not rely on equal colours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
BLUR_REACH = 3  # pixels
BLOCK = 8  # of the compression
GROWTH = 6.0  # growth of the quantisation from the mean of a block to its finest pattern


class _Draw:
    """Draws random numbers (n, 1, 1, 1) and other shapes on the generator's device."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count = count
        self._generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0, *, columns: int = 1) -> Tensor:
        shape = (self._count, columns, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=self._generator, device=self._generator.device)

    def chance(self, share: Tensor) -> Tensor:
        return self.uniform() < share

    def normal(self, *shape: int) -> Tensor:
        return torch.randn((self._count, *shape), generator=self._generator, device=self._generator.device)


def relight(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Images (n, 3, h, w) in 0..1 in other light; the generator is on their device, strength 0 changes little."""
    draw = _Draw(len(images), generator)
    share = strength * draw.uniform().sqrt()
    images = _colours(images, draw, share)
    images = _blurred(images, draw, share)
    deviation = share * 0.06 * draw.uniform().square()
    images = images + deviation * draw.normal(*images.shape[1:])
    images = _erased(images, draw, share).clamp(0, 1)
    return torch.where(draw.chance(0.4 * share), compressed(images, draw.uniform(0.01, 0.08)), images)


def _colours(images: Tensor, draw: _Draw, share: Tensor) -> Tensor:
    """Change saturation (0 to 2), hue, white balance, gamma, contrast and brightness, and darken towards a corner."""
    luma = images.new_tensor(LUMA)[:, None, None]
    grey = (images * luma).sum(1, keepdim=True)
    images = grey + (1 + share * draw.uniform(-1, 1)) * (images - grey)
    turn = draw.uniform(-1.5, 1.5) * draw.chance(0.3 * share)
    images = torch.einsum("nij,njhw->nihw", hue_rotation(turn[:, 0, 0, 0]), images)
    balance = (share * 0.15 * draw.normal(3, 1, 1)).exp()
    gamma = (share * draw.uniform(-0.4, 0.4)).exp()
    contrast = (share * draw.uniform(-0.7, 0.5)).exp()
    images = (images * balance).clamp(1e-4, 1) ** gamma
    images = (images - 0.5) * contrast + 0.5 + share * draw.uniform(-0.15, 0.15)
    return images * _shade(images, draw, share)


def hue_rotation(angle: Tensor) -> Tensor:
    """Rotations (n, 3, 3) of colours about the grey axis (Rodrigues)."""
    axis = 3**-0.5
    cross = axis * angle.new_tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) * (cross @ cross)


def _shade(images: Tensor, draw: _Draw, share: Tensor) -> Tensor:
    """A brightness ramp (n, 1, h, w) in any direction, down to one half."""
    rows, columns = (torch.linspace(-1, 1, size, device=images.device) for size in images.shape[-2:])
    angle = draw.uniform(0, 2 * torch.pi)
    ramp = 0.5 + 0.35 * (angle.cos() * columns + angle.sin() * rows[:, None])
    return 1 - draw.uniform(0, 0.5) * draw.chance(0.3 * share) * ramp.clamp(0, 1)


def _blurred(images: Tensor, draw: _Draw, share: Tensor) -> Tensor:
    """Blur like poor focus or, if stronger along one axis, like motion; a narrow blur leaves images unchanged."""
    blurred = images.flatten(0, 1)[None]
    steps = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    soft = draw.chance(0.4 * share)
    for axis in ("across", "down"):
        width = torch.where(soft, draw.uniform(0.2, 1.3), 0.05)
        kernel = torch.exp(-0.5 * (steps / width).square())
        kernel = (kernel / kernel.sum(3, keepdim=True)).repeat_interleave(3, 0)
        kernel = kernel if axis == "across" else kernel.mT
        padding = (BLUR_REACH, BLUR_REACH, 0, 0) if axis == "across" else (0, 0, BLUR_REACH, BLUR_REACH)
        padded = functional.pad(blurred, padding, mode="replicate")
        blurred = functional.conv2d(padded, kernel, groups=len(kernel))
    separate: Tensor = blurred[0].unflatten(0, (-1, 3))
    return separate


def _erased(images: Tensor, draw: _Draw, share: Tensor) -> Tensor:
    """Fill up to three rectangles with colour and noise, like things that moved, reflections, or dirt on the lens."""
    rows, columns = (torch.linspace(0, 1, size, device=images.device) for size in images.shape[-2:])
    dirty = draw.chance(0.25 * share)
    for number in range(3):
        top, left, tall, wide = draw.uniform(), draw.uniform(), draw.uniform(0.05, 0.3), draw.uniform(0.05, 0.3)
        inside = (rows[:, None] > top) & (rows[:, None] < top + tall) & (columns > left) & (columns < left + wide)
        chosen = dirty if number == 0 else dirty & (draw.uniform() < 0.5)
        fill = draw.uniform(columns=3) + 0.3 * draw.chance(torch.full_like(share, 0.5)) * draw.normal(*images.shape[1:])
        images = torch.where(inside & chosen, fill, images)
    return images


def compressed(images: Tensor, coarseness: Tensor) -> Tensor:
    """Quantise the cosine transform of every block, more coarsely for finer patterns, as JPEG does. coarseness: (n, 1,
    1, 1), step of the slowest pattern. Pixels beyond the last whole block stay unchanged.
    """
    height, width = (size // BLOCK * BLOCK for size in images.shape[-2:])
    basis = cosine_basis(images.device)
    blocks = images[..., :height, :width].unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    frequency = torch.arange(BLOCK, device=images.device)
    step = 1 + GROWTH * (frequency[:, None] + frequency) / (2 * BLOCK - 2)
    step = step * coarseness[..., None, None]
    coefficients = basis @ blocks @ basis.T
    restored = basis.T @ ((coefficients / step).round() * step) @ basis
    images = images.clone()
    images[..., :height, :width] = restored.transpose(3, 4).flatten(4, 5).flatten(2, 3).clamp(0, 1)
    return images


def cosine_basis(device: torch.device) -> Tensor:
    """The orthonormal cosine transform (BLOCK, BLOCK) of columns."""
    index = torch.arange(BLOCK, device=device)
    basis = torch.cos(torch.pi / BLOCK * (index + 0.5) * index[:, None]) * (2 / BLOCK) ** 0.5
    return torch.where(index[:, None] == 0, BLOCK**-0.5, basis)
