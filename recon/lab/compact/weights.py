"""Weight files of the whole compact network and of its depth stage: written, read, and used to start a training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from recon.core.errors import ReconError
from recon.depth.network import PosedDepthNet
from recon.depth.weights import POSED_FORMAT, filled, posed_config, read_weights, require
from recon.lab.compact.compact import CompactConfig, CompactNet
from recon.lab.compact.trunk import TrunkConfig
from recon.network.checkpoints import write_safetensors

COMPACT_FORMAT = "recon compact 1"
HEADER = 1 << 16  # bytes kept free for names and sizes


def save_weights(net: PosedDepthNet | CompactNet, path: Path, steps: int = 0, part_bytes: int = 0) -> list[Path]:
    """Write a network in float16; returns the files. steps: training steps so far. part_bytes: the largest size of a
    file; a larger network is written in parts named after ``path``. 0: one file.
    """
    tensors = {name: tensor.detach().cpu().half() for name, tensor in net.state_dict().items()}
    kind = COMPACT_FORMAT if isinstance(net, CompactNet) else POSED_FORMAT
    about = {"format": kind, "config": json.dumps(asdict(net.config)), "steps": str(steps)}
    parts = list(_parts(tensors, part_bytes - HEADER)) if part_bytes else [tensors]
    paths = [_part_path(path, number, len(parts)) for number in range(1, len(parts) + 1)]
    for part, file in zip(parts, paths, strict=True):
        write_safetensors(file, part, about)
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


def load_compact(path: Path, device: torch.device) -> CompactNet:
    """The whole compact network from a file, or from all parts if ``path`` is one of them; otherwise as
    ``load_weights``.
    """
    stored = read_weights(path)
    require(stored, COMPACT_FORMAT)
    values = json.loads(stored.config)
    trunk, depth = TrunkConfig(**values.pop("trunk")), posed_config(values.pop("depth"))
    return filled(CompactNet(CompactConfig(depth=depth, trunk=trunk, **values)), stored).to(device)


def start_weights(path: Path, net: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Weights of a file by their names in a network, to start its training, and the number of steps already trained. A
    file of the posed depth network also starts the whole network, as a part of it; its steps then do not count. Raises
    ReconError if the weights do not fit.
    """
    stored = read_weights(path)
    as_part = isinstance(net, CompactNet) and stored.format == POSED_FORMAT
    weights = {f"depth.{name}": tensor for name, tensor in stored.tensors.items()} if as_part else stored.tensors
    own = net.state_dict()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ReconError(f"{path} cannot begin this training: {name} does not fit. Name another file or preset.")
    return weights, 0 if as_part else stored.steps
