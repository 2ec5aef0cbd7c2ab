"""The plain vision transformer features of the ImAge suites, under the settings of the DINOv2 hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from recon.lab.reference.comparison import TOLERANCE, Comparison, compare, read_json, read_tensors
from recon.lab.reference.configs import vit_config
from recon.network.aggregator import normalised
from recon.network.vit import VisionTransformer

HUB = "dinov2_hub"
PREFIX = "backbone."


def compare_vit(folder: Path) -> Iterator[Comparison]:
    """Normalised class token, registers and patches for every image size of the suite."""
    suite, inputs = read_json(folder / "config.json"), read_tensors(folder / "inputs.safetensors")
    stored = read_tensors(folder / "outputs.safetensors")
    with torch.device("meta"):
        vit = VisionTransformer(replace(vit_config(suite), antialias=True, offset=0.0))
    weights = read_tensors(folder / "weights.safetensors")
    own = {name.removeprefix(PREFIX): x for name, x in weights.items() if name.startswith(PREFIX)}
    vit.load_state_dict(own, assign=True)
    for name in [output for output in suite["outputs"] if HUB in output]:
        size, _, kind = name.split(".")
        ours = _features(vit, inputs[f"{size}.images_u8"], kind)
        bound = TOLERANCE * suite["outputs"][name]["fp32_vs_fp64_max_abs"]
        yield compare(folder.name, name, ours, stored[name], bound)


def _features(vit: VisionTransformer, images: Tensor, kind: str) -> Tensor | None:
    with torch.inference_mode():
        tokens = vit(normalised(images.float() / 255))
    by_name = {
        "x_norm_clstoken": tokens.class_token,
        "x_norm_regtokens": tokens.registers,
        "x_norm_patchtokens": tokens.patches,
    }
    return by_name.get(kind)
