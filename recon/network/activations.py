"""Activations from raw outputs of the heads to depth, points, confidence and poses. All run in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recon.network.config import ConfidenceActivation, DenseActivation, PoseActivation


def inverse_log(x: Tensor) -> Tensor:
    """``sign(x) * (exp(|x|) - 1)``: small outputs reach far points."""
    return x.sign() * x.abs().expm1()


def _along_direction(x: Tensor) -> Tensor:
    """Points whose distance is ``exp(|x|) - 1`` in the direction of x."""
    length = x.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return x / length * length.expm1()


def _in_perspective(x: Tensor) -> Tensor:
    """Points from x / z, y / z and the inverse log of z."""
    z = inverse_log(x[..., 2:])
    return torch.cat([x[..., :2] * z, z], dim=-1)


def _unchanged(x: Tensor) -> Tensor:
    return x


DENSE: Mapping[DenseActivation, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "inv_log": inverse_log,
    "linear": _unchanged,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "norm_exp": _along_direction,
    "xy_inv_log": _in_perspective,
}
CONFIDENCE: Mapping[ConfidenceActivation, Callable[[Tensor], Tensor]] = {
    "expp1": lambda x: 1 + x.exp(),
    "expp0": torch.exp,
    "sigmoid": torch.sigmoid,
}
POSE: Mapping[PoseActivation, Callable[[Tensor], Tensor]] = {
    "linear": _unchanged,
    "inv_log": inverse_log,
    "exp": torch.exp,
    "relu": torch.relu,
}
