"""ImAge descriptors against stored outputs of the public code; ``recon.lab.reference`` explains the suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from recon.lab.reference.comparison import TOLERANCE, Comparison, Json, compare, read_json, read_tensors
from recon.lab.reference.configs import vit_config
from recon.network.aggregator import normalised
from recon.network.checkpoints import read_checkpoint
from retrieval.aggregation import AggregatingTransformer, AggregationConfig, load_transformer

DESCRIPTOR = "descriptor"
MIN_COSINE = 0.99999
FILES = ("weights.pth", "weights.safetensors")


def compare_image(folder: Path) -> Iterator[Comparison]:
    """The descriptor at every stored image size, from every weight file of the suite: values and cosine."""
    suite, inputs = read_json(folder / "config.json"), read_tensors(folder / "inputs.safetensors")
    stored = read_tensors(folder / "outputs.safetensors")
    for file in (folder / name for name in FILES if (folder / name).is_file()):
        network = load_transformer(read_checkpoint(file), aggregation_config(suite))
        for name in (output for output in suite["outputs"] if output.endswith(DESCRIPTOR)):
            ours = _describe(network, inputs[f"{name.removesuffix(DESCRIPTOR)}images_u8"])
            label = f"{name} ({file.name})"
            bound = TOLERANCE * suite["outputs"][name]["fp32_vs_fp64_max_abs"]
            yield compare(folder.name, label, ours, stored[name], bound)
            cosine = (ours.double() * stored[name].double()).sum(dim=1)
            yield compare(folder.name, f"{label} cosine", cosine, torch.ones_like(cosine), 1 - MIN_COSINE)


def aggregation_config(suite: Json) -> AggregationConfig:
    """The network of an ImAge suite."""
    return AggregationConfig(vit_config(suite), suite["num_aggregation_tokens"], suite["insertion_block"])


def _describe(network: AggregatingTransformer, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(normalised(images.float() / 255))  # type: ignore[no-any-return]
