"""The state of a stream as a file, so that it can go on in another process.

A safetensors file: ``layer_07.keys`` and ``layer_07.values`` per remembering block, ``camera_tokens``, and the numbers
of ``DescriptorCache`` as JSON in the metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from recon.core.errors import MapError, OutputError
from recon.network.cache import DescriptorCache, KeysValues

VERSION = 1
METADATA = "stream"
CAMERA_TOKENS = "camera_tokens"


def save_cache(path: Path, cache: DescriptorCache) -> None:
    """Write the state under a temporary name, then rename. Raises OutputError when it cannot be written."""
    tensors = {CAMERA_TOKENS: cache.camera_tokens.contiguous()}
    for number, layer in enumerate(cache.layers):
        if layer:
            tensors[f"layer_{number:02d}.keys"] = layer.keys.contiguous()
            tensors[f"layer_{number:02d}.values"] = layer.values.contiguous()
    stated = {
        "version": VERSION,
        "layers": [layer is not None for layer in cache.layers],
        "frames": cache.frames,
        "keyframes": sorted(cache.keyframes),
        "length": cache.length,
        "anchor_tokens": cache.anchor_tokens,
        "tokens_per_frame": cache.tokens_per_frame,
        "grid": cache.grid,
    }
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(tensors, temporary, {METADATA: json.dumps(stated)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {path} ({error}). Free some space or choose another folder.") from error


def load_cache(path: Path, device: str = "cpu") -> DescriptorCache:
    """Read a state back.

    Raises MapError for a file that is missing, damaged, of another version, or whose tensors are not exactly those
    that it states.
    """
    try:
        with safe_open(path, "pt") as file:
            stated = json.loads(file.metadata()[METADATA])
        if stated["version"] != VERSION:
            raise MapError(f"{path} has version {stated['version']}, this program reads {VERSION}. Start a new stream.")
        tensors = load_file(path, device)
        cache = _rebuilt(stated, tensors)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise MapError(f"{path} holds no state of a stream, or a damaged one ({error}). Start a new stream.") from error
    if tensors:
        raise MapError(f"{path} holds tensors that it does not state, such as {min(tensors)}. Start a new stream.")
    return cache


def _rebuilt(stated: dict[str, Any], tensors: dict[str, Tensor]) -> DescriptorCache:
    """The state, from tensors that are taken out of ``tensors``."""
    return DescriptorCache(
        layers=tuple(
            KeysValues(tensors.pop(f"layer_{number:02d}.keys"), tensors.pop(f"layer_{number:02d}.values"))
            if remembers
            else None
            for number, remembers in enumerate(stated["layers"])
        ),
        camera_tokens=tensors.pop(CAMERA_TOKENS),
        frames=tuple(stated["frames"]),
        keyframes=frozenset(stated["keyframes"]),
        length=stated["length"],
        anchor_tokens=stated["anchor_tokens"],
        tokens_per_frame=stated["tokens_per_frame"],
        grid=tuple(stated["grid"]),
    )
