"""Small networks with random weights."""

from __future__ import annotations

import torch

from recon.network.config import (
    AggregatorConfig,
    CameraHeadConfig,
    Dense,
    DescriptorsV1,
    DescriptorsV2,
    DptConfig,
    NetworkConfig,
    Rule,
)
from recon.network.model import GeometryNetwork

DIM, DEPTH = 32, 3
RULES: tuple[Rule, ...] = (Dense(), DescriptorsV1(1), DescriptorsV1(2), DescriptorsV2(1, 1, 1), DescriptorsV2(2, 1, 2))
SMALL = NetworkConfig(
    aggregator=AggregatorConfig(dim=DIM, depth=DEPTH, heads=2),
    camera=CameraHeadConfig(dim=2 * DIM, depth=1, heads=2),
    depth=DptConfig(dim=2 * DIM, features=16, channels=(8, 8, 8, 8), levels=(0, 1, 2, 2)),
    points=None,
    track=None,
)


def random_network(config: NetworkConfig = SMALL, seed: int = 0) -> GeometryNetwork:
    """A network whose outputs depend on all its parts: weights as large as trained ones, layer scales near 1."""
    network = GeometryNetwork(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        if name.endswith(("gamma", "norm1.weight", "norm2.weight", "q_norm.weight", "k_norm.weight", "norm.weight")):
            parameter.add_(1)
    return network


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images in 0..1 of a shape (batch, frames, 3, height, width)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
