"""The network's file: safetensors with half-precision weights and the sizes of the network beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recon.compact.network import PosedDepthConfig, PosedDepthNet
from recon.errors import ReconError

FORMAT = "recon posed-depth 1"
BUNDLED = Path(__file__).resolve().parents[2] / "data" / "weights" / "posed-depth.safetensors"


def save_weights(net: PosedDepthNet, path: Path, steps: int = 0) -> None:
    """Write the network in float16, through a temporary name. steps: of training behind it."""
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in net.state_dict().items()}
    temporary = path.with_suffix(".part")
    about = {"format": FORMAT, "config": json.dumps(asdict(net.config)), "steps": str(steps)}
    save_file(tensors, temporary, about)
    temporary.rename(path)


def load_weights(path: Path, device: torch.device) -> PosedDepthNet:
    """The network of a file of ``save_weights``, in evaluation mode, with float32 arithmetic.

    Raises ReconError where the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise ReconError(f"{path} does not exist: name a weight file of the posed depth network.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ReconError(f"{path} is damaged or cut short ({error}): fetch it again.") from error
    if metadata.get("format") != FORMAT:
        held = metadata.get("format", "something else")
        raise ReconError(f"{path} holds {held!r}, not {FORMAT!r}: name another file.")
    net = PosedDepthNet(_config(metadata["config"]))
    _check(path, net, tensors)
    net.load_state_dict(tensors)
    return net.to(device).eval()


def trained_steps(path: Path) -> int:
    """Steps of training behind a file that ``load_weights`` reads."""
    with safe_open(path, framework="pt") as file:
        return int(file.metadata().get("steps", 0))


def _config(text: str) -> PosedDepthConfig:
    values = json.loads(text)
    sizes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return PosedDepthConfig(**sizes)


def _check(path: Path, net: PosedDepthNet, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ReconError that names the first tensor that does not fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ReconError(
                f"{path} does not fit the network: {name} has shape {found.get(name)}, expected {expected.get(name)}."
            )
