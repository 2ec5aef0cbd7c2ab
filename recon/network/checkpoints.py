"""Weight files: reading them without running code in them, and putting them into a network without a second copy."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recon.core.errors import OutputError, WeightsError
from recon.core.files import make_folder, write_atomically
from recon.network.attention import Backend
from recon.network.config import FLASHVGGT, VGGT_1B, Dense, DescriptorsV1, NetworkConfig, Rule
from recon.network.model import GeometryNetwork
from recon.network.stored_config import from_text, to_text
from recon.network.stored_weights import Keep, store_weights

WRAPPERS = ("state_dict", "model", "model_state_dict")
PARALLEL_PREFIX = "module."
PLACE_TOKENS = "learnable_aggregation_tokens"  # only ImAge has these
COMPRESSOR = "spatial_compressor"  # only FlashVGGT's training branch has these
INDEX_SUFFIX = ".index.json"
METADATA = "recon"
ZIP_START = b"PK\x03\x04"
NAMED_AT_MOST = 5


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A weight file's content, mapped from the file. stated: the description that our own files contain."""

    path: Path
    tensors: Mapping[str, Tensor]
    stated: tuple[NetworkConfig, Rule] | None

    @property
    def is_place_descriptor(self) -> bool:
        return PLACE_TOKENS in self.tensors

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Misfit:
    """How a checkpoint differs from what a network expects. misshapen: name, actual shape, expected shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def __str__(self) -> str:
        shapes = tuple(f"{name}: {list(got)} instead of {list(wanted)}" for name, got, wanted in self.misshapen)
        kinds = ((self.missing, "missing"), (self.unexpected, "unknown"), (shapes, "of another shape"))
        return "; ".join(f"{len(names)} {kind} ({_first(names)})" for names, kind in kinds if names)


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED_AT_MOST]) + (", ..." if len(listed) > NAMED_AT_MOST else "")


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a safetensors file, of a sharded one (its ``.index.json``), or of a PyTorch file.

    Public wrappers are removed. Raises WeightsError for a file that is missing, damaged, or contains code.
    """
    try:
        return _read(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, which could run code on this machine, so it is not opened. "
            "Use a safetensors file of these weights."
        ) from error
    except FileNotFoundError as error:
        raise WeightsError(f"Weight file {path} not found. List known weights with: recon weights list") from error
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is damaged or no weight file ({reason}). Get it again.") from error


def _read(path: Path) -> Checkpoint:
    if path.name.endswith(INDEX_SUFFIX):
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        joined = {name: x for shard in shards for name, x in load_file(path.parent / shard).items()}
        return Checkpoint(path, joined, None)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            stated = (file.metadata() or {}).get(METADATA)
        return Checkpoint(path, load_file(path), from_text(stated) if stated else None)
    with path.open("rb") as file:
        mappable = file.read(len(ZIP_START)) == ZIP_START
    return Checkpoint(path, _unwrapped(torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)), None)


def _unwrapped(content: object) -> dict[str, Tensor]:
    """The named tensors of a PyTorch file. Raises TypeError if there are none."""
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise TypeError(f"it holds a {type(content).__name__}, not named tensors")
    strangers = [name for name, x in content.items() if not (isinstance(name, str) and isinstance(x, Tensor))]
    if strangers:
        raise TypeError(f"{strangers[0]} is no tensor")
    return {name.removeprefix(PARALLEL_PREFIX): x for name, x in content.items()}


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The sha256 of tensors and a text: the same for the same names, types, shapes and values in any file."""
    digest = hashlib.sha256(text.encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"\n{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path: Path, network: GeometryNetwork, rule: Rule) -> None:
    """Write a safetensors file that describes itself. Raises OutputError if it cannot be written."""
    write_tensors(path, network.state_dict(), to_text(network.config, rule))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], stated: str) -> None:
    """Write tensors with the description from ``stored_config.to_text``, as ``write_safetensors`` does."""
    make_folder(path.parent)
    write_safetensors(path, tensors, {METADATA: stated})


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that is complete or absent. Raises OutputError if it cannot be written."""
    contiguous = {name: x.contiguous() for name, x in tensors.items()}
    try:
        write_atomically(path, lambda file: save_file(contiguous, file.name, metadata))
    except SafetensorError as error:
        raise OutputError(f"Cannot write {path} ({error}). Free some space or choose another folder.") from error


def misfit(shapes: Mapping[str, tuple[int, ...]], config: NetworkConfig) -> Misfit:
    """How a file with tensors of these shapes differs from a network of this configuration."""
    with torch.device("meta"):
        network = GeometryNetwork(config)
    return differences(shapes, network)


def differences(shapes: Mapping[str, tuple[int, ...]], network: torch.nn.Module) -> Misfit:
    """How tensors of these shapes differ from the parameters of a network."""
    wanted = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    return Misfit(
        missing=tuple(sorted(wanted.keys() - shapes.keys())),
        unexpected=tuple(sorted(shapes.keys() - wanted.keys())),
        misshapen=tuple(
            (name, tuple(shapes[name]), shape)
            for name, shape in sorted(wanted.items())
            if name in shapes and tuple(shapes[name]) != shape
        ),
    )


def identify(checkpoint: Checkpoint) -> tuple[NetworkConfig, Rule]:
    """The network that a file is for, and the rule to run it with if the user names none. Our own files state both;
    public files are recognised by names and shapes. FlashVGGT's two published rules share these, so v1 is the default:
    its README states that rule's factor. Raises WeightsError if the file fits no network.
    """
    if checkpoint.is_place_descriptor:
        raise WeightsError(
            f"{checkpoint.path} holds ImAge, which recognises places but estimates no geometry. Give VGGT or FlashVGGT."
        )
    shapes = {name: tuple(x.shape) for name, x in checkpoint.tensors.items()}
    published: tuple[tuple[NetworkConfig, Rule], ...] = ((VGGT_1B, Dense()), (FLASHVGGT, DescriptorsV1()))
    candidates = (checkpoint.stated,) if checkpoint.stated else published
    found = [(misfit(shapes, config), config, rule) for config, rule in candidates]
    least, config, rule = min(found, key=lambda entry: entry[0].count)
    if not least.count:
        return config, rule
    if any(COMPRESSOR in name for name in shapes):
        raise WeightsError(
            f"{checkpoint.path} is from FlashVGGT's training branch: it compresses by a learned convolution "
            f"({_first(name for name in shapes if COMPRESSOR in name)}), which is not supported. Use a released file."
        )
    raise WeightsError(
        f"{checkpoint.path} does not fit the network; tensors: {least}. Use a file of VGGT or FlashVGGT."
    )


def load_network(
    checkpoint: Checkpoint, config: NetworkConfig, backend: Backend = "torch", keep: Keep | None = None
) -> GeometryNetwork:
    """A network in evaluation mode whose float32 parameters are the checkpoint's own memory, mapped from the file.

    keep: stores the weights of the blocks in another form; the network then shares no memory with the file. Raises
    WeightsError naming keys and shapes that do not fit.
    """
    shapes = {name: tuple(x.shape) for name, x in checkpoint.tensors.items()}
    wrong = misfit(shapes, config)
    if wrong.count:
        raise WeightsError(f"{checkpoint.path} does not fit the network; tensors: {wrong}. Use another file.")
    with torch.device("meta"):
        network = GeometryNetwork(config, backend)
    network.load_state_dict(dict(checkpoint.tensors), assign=True)
    network.eval().requires_grad_(False)
    if keep:
        store_weights(network, keep)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.float32, copy=keep is not None)
    return network
