"""Softmax attention: the plain formula, and fused kernels that must match it."""

from __future__ import annotations

import importlib
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from recon.core.errors import SettingsError

Backend = Literal["plain", "torch", "xformers"]
BACKENDS: tuple[Backend, ...] = ("xformers", "torch", "plain")  # fastest first


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(query key^T / sqrt(channels)) value`` written out (Vaswani et al. 2017, equation 1).

    query: (batch, heads, queries, channels). key, value: (batch, heads, keys, channels).
    """
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ value


def attend(query: Tensor, key: Tensor, value: Tensor, backend: Backend) -> Tensor:
    """``plain_attention`` by the kernel of ``backend``."""
    if backend == "plain":
        return plain_attention(query, key, value)
    if backend == "torch":
        return functional.scaled_dot_product_attention(query, key, value)
    kernel = importlib.import_module("xformers.ops").memory_efficient_attention
    # xformers expects the heads after the tokens.
    return kernel(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)


def refusal(backend: Backend, device: torch.device) -> str:
    """Why ``backend`` cannot run on ``device``; empty if it can."""
    if backend != "xformers":
        return ""
    if device.type != "cuda":
        return f"xformers has kernels for CUDA only, not for {device.type}"
    try:
        forward = importlib.import_module("xformers.ops.fmha")
    except (ImportError, OSError) as error:
        return f"xformers cannot be imported ({error})"
    # Its Triton kernels claim to be available even without a GPU.
    compiled = [operator for operator in forward.ALL_FW_OPS if "triton" not in operator.NAME.lower()]
    return "" if any(operator.is_available() for operator in compiled) else "xformers' CUDA extensions do not load here"


def choose_backend(device: torch.device, wanted: Backend | None = None) -> Backend:
    """The fastest backend for ``device``, or ``wanted``.

    Raises SettingsError with the reason if ``wanted`` cannot run there.
    """
    if wanted is None:
        return next(backend for backend in BACKENDS if not refusal(backend, device))
    reason = refusal(wanted, device)
    if reason:
        others = ", ".join(backend for backend in BACKENDS if not refusal(backend, device))
        raise SettingsError(f"Attention by {wanted} does not work on {device}: {reason}. Use one of: {others}.")
    return wanted
