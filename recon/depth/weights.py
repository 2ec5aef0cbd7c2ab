"""Weight files of the compact networks: safetensors with half-precision weights and the network's sizes.

A large network may be split into several files, ``NAME-1-of-3.safetensors`` and so on.
``recon.lab.compact.weights`` writes them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from recon.core.bundled import bundled_weights
from recon.core.errors import ReconError
from recon.depth.network import PosedDepthConfig, PosedDepthNet

POSED_FORMAT = "recon posed-depth 1"
BUNDLED = bundled_weights("posed-depth.safetensors")
PART = re.compile(r"-(\d+)-of-(\d+)$")
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Stored:
    """The content of a weight file. steps: number of training steps."""

    path: Path
    format: str
    config: str
    steps: int
    tensors: dict[str, Tensor]


def load_weights(path: Path, device: torch.device) -> PosedDepthNet:
    """The posed depth network from a file of ``save_weights``, in evaluation mode, with float32 arithmetic.

    Raises ReconError if the file is missing, damaged, or for another network.
    """
    stored = read_weights(path)
    require(stored, POSED_FORMAT)
    return filled(PosedDepthNet(posed_config(json.loads(stored.config))), stored).to(device)


def read_weights(path: Path) -> Stored:
    """The content of a file, or of all parts if it is split. Raises ReconError if one is missing or damaged."""
    match = PART.search(path.stem)
    if not match:
        return _read(path)
    stem, count = path.stem[: match.start()], int(match[2])
    parts = [_read(path.with_stem(f"{stem}-{number}-of-{count}")) for number in range(1, count + 1)]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    return Stored(path, parts[0].format, parts[0].config, parts[0].steps, tensors)


def _read(path: Path) -> Stored:
    if not path.is_file():
        raise ReconError(f"{path} does not exist: name a weight file of the compact network.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ReconError(f"{path} is damaged or cut short ({error}): fetch it again.") from error
    kind = about.get("format", "something else")
    return Stored(path, kind, about.get("config", ""), int(about.get("steps", 0)), tensors)


def require(stored: Stored, wanted: str) -> None:
    """Raise ReconError if a file is for another network."""
    if stored.format != wanted:
        raise ReconError(f"{stored.path} holds {stored.format!r}, not {wanted!r}: name another file.")


def posed_config(values: dict[str, Any]) -> PosedDepthConfig:
    """The configuration that ``values`` from JSON describe."""
    sizes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return PosedDepthConfig(**sizes)


def filled(net: Net, stored: Stored) -> Net:
    """The network with the stored tensors. Raises ReconError that names the first tensor that does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in stored.tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ReconError(
                f"{stored.path} does not fit the network: {name} has shape {found.get(name)}, "
                f"expected {expected.get(name)}."
            )
    net.load_state_dict(stored.tensors)
    return net.eval()
