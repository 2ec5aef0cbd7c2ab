"""Weights of the transformer blocks in forms that take less memory than float32.

Only storage changes: a weight is restored when its layer runs, and computed with as any other. Layers outside the
blocks, biases and norms stay float32; in VGGT they are 4% of what a run uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.core.errors import WeightsError
from recon.core.quantities import size
from recon.network.config import NetworkConfig
from recon.network.layers import Block
from recon.network.model import GeometryNetwork
from recon.settings import Precision

SHARE = 0.5  # of the free memory, beyond which float32 weights are streamed: frames need the rest
LARGEST = 127  # symmetric: -128 is not used
LENGTH_BYTES = 8  # of a safetensors header's own length, before the header
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Keep = Callable[[str, Tensor], nn.Module]


class StoredLinear(nn.Module):
    """A linear layer that restores its weight each time it is used. kept: returns the weight, without arguments."""

    def __init__(self, kept: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.kept, self.bias = kept, bias

    @property
    def weight(self) -> Tensor:
        """(outputs, inputs), in the type of the computation."""
        restored: Tensor = self.kept()
        return restored

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Rounded(nn.Module):
    """A weight rounded to bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("rounded", weight.bfloat16())

    def forward(self) -> Tensor:
        rounded = self.get_buffer("rounded")
        return rounded.to(computed_type(rounded.device))


class Quantised(nn.Module):
    """A weight as integers of 8 bits and one scale per output channel: round(127 weight / largest of the channel)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.float()
        scale = weight.abs().amax(dim=1, keepdim=True) / LARGEST
        self.register_buffer("scale", scale)
        self.register_buffer("integers", (weight / scale.clamp(min=torch.finfo().tiny)).round_().to(torch.int8))

    def forward(self) -> Tensor:
        kind = computed_type(self.get_buffer("scale").device)
        return self.get_buffer("integers").to(kind).mul_(self.get_buffer("scale").to(kind))


class WeightStream:
    """Reads weights from a safetensors file just before they are used, and meanwhile the one that followed last time.

    At most two weights are in memory: the one in use and the next. Raises WeightsError if the file cannot be read.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self._path, self.device = path, device
        self._file = path.open("rb", buffering=0)
        self._start, self._header = _header(path)
        self._reader = ThreadPoolExecutor(1, "weights")
        self._lock = Lock()
        self._followers: dict[str, str] = {}
        self._current = "", torch.empty(0)
        self._next: tuple[str, Future[Tensor]] | None = None

    def kept(self, name: str, _: Tensor) -> nn.Module:
        """A module that reads the weight of this name, in place of the weight."""
        return Streamed(self, name)

    @property
    def held(self) -> int:
        """Bytes of the weights in memory."""
        return self._current[1].nbytes + (self._next[1].result().nbytes if self._next else 0)

    def weight(self, name: str) -> Tensor:
        """The weight of this name, on the device."""
        with self._lock:
            before, weight = self._current
            if before == name:  # its rows are used in parts
                return weight
            self._followers[before] = name
            ready = self._next[1] if self._next and self._next[0] == name else self._ask(name)
            self._current = name, ready.result().to(self.device, non_blocking=True)
            following = self._followers.get(name)
            self._next = (following, self._ask(following)) if following else None
            return self._current[1]

    def _ask(self, name: str) -> Future[Tensor]:
        return self._reader.submit(self._read, name)

    def _read(self, name: str) -> Tensor:
        place = self._header[name]
        first, last = place["data_offsets"]
        # Page-locked memory is copied to a GPU without waiting.
        read = torch.empty(last - first, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        try:
            self._file.seek(self._start + first)
            complete = self._file.readinto(read.numpy().data) == last - first
        except OSError as error:
            raise WeightsError(f"{self._path} can no longer be read ({error}). Get it again.") from error
        if not complete:
            raise WeightsError(f"{self._path} became shorter during the run. Get it again.")
        return read.view(TYPES[place["dtype"]]).view(place["shape"])


class Streamed(nn.Module):
    """A weight of a ``WeightStream``."""

    def __init__(self, stream: WeightStream, name: str) -> None:
        super().__init__()
        self._stream, self._name = stream, name

    def forward(self) -> Tensor:
        return self._stream.weight(self._name).to(computed_type(self._stream.device))


def computed_type(device: torch.device) -> torch.dtype:
    """The type in which layers compute here: that of autocast where it is on, else float32."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else torch.float32


def kept_in(precision: Precision) -> Keep | None:
    """How ``store_weights`` keeps weights in a precision; None for float32, in which they stay as they are."""
    if precision == "float32":
        return None
    form = Rounded if precision == "bfloat16" else Quantised
    return lambda _, weight: form(weight)


def store_weights(network: nn.Module, keep: Keep) -> None:
    """Replace the linear layers of all transformer blocks by ones whose weights ``keep`` has stored."""
    for name, layer in list(block_layers(network)):
        path, _, child = name.rpartition(".")
        kept = keep(f"{name}.weight", layer.weight.data)
        setattr(network.get_submodule(path), child, StoredLinear(kept, layer.bias))


def block_layers(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Names and linear layers of all transformer blocks."""
    for prefix, block in network.named_modules():
        if isinstance(block, Block):
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear):
                    yield f"{prefix}.{name}", layer


def resident_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers, which stay in memory."""
    return sum(x.nbytes for x in (*network.parameters(), *network.buffers()))


@dataclass(frozen=True)
class Storage:
    """How the weights of a network are kept. bytes: in memory, on the device. streamed: the weights of the blocks are
    read from the file whenever they are used."""

    precision: Precision
    bytes: int
    streamed: bool

    def __str__(self) -> str:
        return f"{size(self.bytes)} of {self.precision} weights" + (", read layer by layer" if self.streamed else "")


def planned_storage(config: NetworkConfig, path: Path, precision: Precision, free: int) -> Storage:
    """How to keep the weights of a file in ``free`` bytes of memory: float32 weights that take more than half of it are
    streamed, if the file is one that can be.
    """
    with torch.device("meta"):
        network = GeometryNetwork(config)
    weights = [layer.weight for _, layer in block_layers(network)]
    whole, blocks = resident_bytes(network), sum(x.nbytes for x in weights)
    if precision == "bfloat16":
        return Storage(precision, whole - blocks // 2, streamed=False)
    if precision == "int8":
        return Storage(precision, whole - blocks * 3 // 4 + sum(4 * len(x) for x in weights), streamed=False)
    if whole <= SHARE * free or path.suffix != ".safetensors":
        return Storage(precision, whole, streamed=False)
    return Storage(precision, whole - blocks + 2 * max(x.nbytes for x in weights), streamed=True)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file start, and its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        return LENGTH_BYTES + length, json.loads(file.read(length))
