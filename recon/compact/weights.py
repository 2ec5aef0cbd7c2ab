"""Weight files of the compact networks: safetensors with half-precision weights and the network's sizes beside them.

A large network may be written in several parts, ``NAME-1-of-3.safetensors`` and so on, each a file of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recon.bundled import bundled_weights
from recon.compact.compact import CompactConfig, CompactNet
from recon.compact.network import PosedDepthConfig, PosedDepthNet
from recon.compact.trunk import TrunkConfig
from recon.errors import ReconError

POSED_FORMAT = "recon posed-depth 1"
BUNDLED = bundled_weights("posed-depth.safetensors")
COMPACT_FORMAT = "recon compact 1"
PART = re.compile(r"-(\d+)-of-(\d+)$")
Net = TypeVar("Net", bound=nn.Module)
HEADER = 1 << 16  # bytes kept free for names and sizes


@dataclass(frozen=True, eq=False)
class Stored:
    """What a weight file holds. steps: of training behind it."""

    path: Path
    format: str
    config: str
    steps: int
    tensors: dict[str, Tensor]


def save_weights(net: PosedDepthNet | CompactNet, path: Path, steps: int = 0, part_bytes: int = 0) -> list[Path]:
    """Write a network in float16, through temporary names; the files written. steps: of training behind it.

    part_bytes: the largest size of a file; beyond it the network is written in parts named after ``path``. 0: one file.
    """
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in net.state_dict().items()}
    kind = COMPACT_FORMAT if isinstance(net, CompactNet) else POSED_FORMAT
    about = {"format": kind, "config": json.dumps(asdict(net.config)), "steps": str(steps)}
    parts = list(_parts(tensors, part_bytes - HEADER)) if part_bytes else [tensors]
    paths = [_part_path(path, number, len(parts)) for number in range(1, len(parts) + 1)]
    for part, file in zip(parts, paths, strict=True):
        temporary = file.with_suffix(".part")
        save_file(part, temporary, about)
        temporary.rename(file)
    return paths


def _parts(tensors: dict[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Tensors in groups of at most ``limit`` bytes, in their order."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if part and size + tensor.nbytes > limit:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _part_path(path: Path, number: int, count: int) -> Path:
    return path if count == 1 else path.with_stem(f"{path.stem}-{number}-of-{count}")


def load_weights(path: Path, device: torch.device) -> PosedDepthNet:
    """The posed depth network of a file of ``save_weights``, in evaluation mode, with float32 arithmetic.

    Raises ReconError where the file is missing, damaged, or of another network.
    """
    stored = read_weights(path)
    _require(stored, POSED_FORMAT)
    return _filled(PosedDepthNet(_posed_config(json.loads(stored.config))), stored).to(device)


def load_compact(path: Path, device: torch.device) -> CompactNet:
    """The whole compact network of a file, or of all parts where ``path`` is one of them; otherwise as above."""
    stored = read_weights(path)
    _require(stored, COMPACT_FORMAT)
    values = json.loads(stored.config)
    trunk, depth = TrunkConfig(**values.pop("trunk")), _posed_config(values.pop("depth"))
    return _filled(CompactNet(CompactConfig(depth=depth, trunk=trunk, **values)), stored).to(device)


def read_weights(path: Path) -> Stored:
    """What a file holds, or all parts where it is one of them. Raises ReconError for a missing or damaged one."""
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


def _require(stored: Stored, wanted: str) -> None:
    if stored.format != wanted:
        raise ReconError(f"{stored.path} holds {stored.format!r}, not {wanted!r}: name another file.")


def _posed_config(values: dict[str, Any]) -> PosedDepthConfig:
    sizes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return PosedDepthConfig(**sizes)


def _filled(net: Net, stored: Stored) -> Net:
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


def start_weights(path: Path, net: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Weights of a file by their names in a network, to begin its training with, and the steps behind them.

    A file of the posed depth network also begins the whole network, as its part; that part's steps do not count for it.
    Raises ReconError where the weights do not fit.
    """
    stored = read_weights(path)
    as_part = isinstance(net, CompactNet) and stored.format == POSED_FORMAT
    weights = {f"depth.{name}": tensor for name, tensor in stored.tensors.items()} if as_part else stored.tensors
    own = net.state_dict()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ReconError(f"{path} cannot begin this training: {name} does not fit. Name another file or preset.")
    return weights, 0 if as_part else stored.steps
