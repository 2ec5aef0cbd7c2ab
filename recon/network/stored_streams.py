"""The memory of a stream on disk, from which a resumed run continues."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recon.network.cache import DescriptorCache, KeysValues
from recon.network.checkpoints import METADATA, fingerprint, write_safetensors

PREFIX, SUFFIX = "stream_", ".safetensors"
CHECKSUM = "sha256"
# While a chunk is placed and recorded, the next one is reconstructed: the newest two may never be finished.
KEPT = 3


@dataclass(frozen=True)
class StoredStreams:
    """The newest states of one stream, in the folder of its map, each named after the last frame that it has seen.

    weights: fingerprint of the network that makes them; states of another one count as damaged.
    """

    folder: Path
    weights: str

    def write(self, last: int, cache: DescriptorCache) -> None:
        """Store the state after frame ``last``; older ones are deleted, and later ones, left by an unfinished run.

        Raises OutputError.
        """
        tensors, stated = _tensors(cache), _stated(cache, self.weights)
        metadata = {METADATA: stated, CHECKSUM: fingerprint(tensors, stated)}
        write_safetensors(self._path(last), tensors, metadata)
        stored = self._stored()
        kept = [index for index in stored if index <= last][-KEPT:]
        for index in set(stored).difference(kept):
            self._path(index).unlink(missing_ok=True)

    def newest(self, last: int, device: torch.device) -> tuple[DescriptorCache, int]:
        """The newest sound state up to frame ``last``, and its last frame; the empty one and -1 if there is none."""
        for index in reversed(self._stored()):
            cache = _read(self._path(index), self.weights, device) if index <= last else None
            if cache:
                return cache, index
        return DescriptorCache.empty(), -1

    def _stored(self) -> list[int]:
        """The last frames of all states, ascending."""
        names = [path.name[len(PREFIX) : -len(SUFFIX)] for path in self.folder.glob(f"{PREFIX}*{SUFFIX}")]
        return sorted(int(name) for name in names if name.isdecimal())

    def _path(self, index: int) -> Path:
        return self.folder / f"{PREFIX}{index:06d}{SUFFIX}"


def _tensors(cache: DescriptorCache) -> dict[str, Tensor]:
    layers = [(number, layer) for number, layer in enumerate(cache.layers) if layer]
    keys = {f"keys_{number}": layer.keys for number, layer in layers}
    values = {f"values_{number}": layer.values for number, layer in layers}
    return keys | values | {"camera_tokens": cache.camera_tokens}


def _stated(cache: DescriptorCache, weights: str) -> str:
    return json.dumps(
        {
            "weights": weights,
            "layers": len(cache.layers),
            "frames": cache.frames,
            "keyframes": sorted(cache.keyframes),
            "length": cache.length,
            "anchor_tokens": cache.anchor_tokens,
            "tokens_per_frame": cache.tokens_per_frame,
            "grid": cache.grid,
        }
    )


def _read(path: Path, weights: str, device: torch.device) -> DescriptorCache | None:
    """The state in a file; None if it is damaged, or of other weights."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError):
        return None
    text = metadata.get(METADATA, "")
    if metadata.get(CHECKSUM) != fingerprint(tensors, text):
        return None
    stated, tensors = json.loads(text), {name: x.to(device) for name, x in tensors.items()}
    if stated.get("weights") != weights:
        return None
    layers = (
        KeysValues(tensors[f"keys_{number}"], tensors[f"values_{number}"]) if f"keys_{number}" in tensors else None
        for number in range(stated["layers"])
    )
    rows, columns = stated["grid"]
    return DescriptorCache(
        layers=tuple(layers),
        camera_tokens=tensors["camera_tokens"],
        frames=tuple(stated["frames"]),
        keyframes=frozenset(stated["keyframes"]),
        length=stated["length"],
        anchor_tokens=stated["anchor_tokens"],
        tokens_per_frame=stated["tokens_per_frame"],
        grid=(rows, columns),
    )
