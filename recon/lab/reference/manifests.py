"""The folder ``manifests``: names and shapes of the tensors of the full-size public files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from recon.lab.reference.comparison import Comparison, Json, read_json
from recon.network.checkpoints import misfit
from recon.network.config import FLASHVGGT, VGGT_1B, NetworkConfig, VitConfig
from recon.network.vit import VisionTransformer

GEOMETRY: Mapping[str, NetworkConfig] = {
    "vggt-1b": VGGT_1B,
    "flashvggt": FLASHVGGT,
    "flashvggt_stream": FLASHVGGT,
}
VITS: Mapping[str, VitConfig] = {
    "dinov2_vitb14_reg4": VitConfig(dim=768, depth=12, heads=12),
    "dinov2_vits14_reg4": VitConfig(dim=384, depth=12, heads=6),
}


def compare_manifests(folder: Path) -> Iterator[Comparison]:
    """Number of tensors that are missing, left over or of another shape, in networks without memory."""
    for name, config in GEOMETRY.items():
        if (folder / f"{name}.json").is_file():
            wrong = misfit(_shapes(read_json(folder / f"{name}.json")), config)
            yield Comparison("manifests", name, float(wrong.count), 0.0, str(wrong))
    for name, vit in VITS.items():
        if (folder / f"{name}.json").is_file():
            with torch.device("meta"):
                ours = {key: tuple(x.shape) for key, x in VisionTransformer(vit).state_dict().items()}
            differing = _shapes(read_json(folder / f"{name}.json")).items() ^ ours.items()
            yield Comparison("manifests", name, float(len(differing)), 0.0, str(sorted(differing)[:3] or ""))


def _shapes(manifest: Json) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, (shape, _) in manifest.items()}
