"""The ImAge network: compared with the public code, read from public files, and its own parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recon.core.errors import WeightsError
from recon.network.checkpoints import read_checkpoint
from recon.network.config import VitConfig
from retrieval.aggregation import (
    AggregatingTransformer,
    AggregationConfig,
    ImAgeDescriber,
    load_transformer,
    prepare,
)
from retrieval.lab.reference import compare_image

SMALL = AggregationConfig(
    VitConfig(image_size=28, dim=16, depth=3, heads=2, antialias=False, offset=0.1), tokens=2, before_block=1
)


def small_network(seed: int = 0) -> AggregatingTransformer:
    torch.manual_seed(seed)
    network = AggregatingTransformer(SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("suite", ["image", "image_small_variance"])
def test_public_descriptors_are_reproduced(reference_folder: Path, suite: str) -> None:
    comparisons = list(compare_image(reference_folder / suite))
    assert comparisons
    assert [c for c in comparisons if not c.ok] == []
    if suite == "image":
        sizes = {c.output.split(".")[0] for c in comparisons}
        assert sizes == {"native", "wide", "tall", "larger", "smaller"}
        assert any("weights.pth" in c.output for c in comparisons)


def test_the_public_wrapper_is_removed(tmp_path: Path) -> None:
    network = small_network()
    path = tmp_path / "ImAge.pth"
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    loaded = load_transformer(read_checkpoint(path), SMALL)
    images = torch.randn(2, 3, 28, 42)
    assert torch.equal(loaded(images), network(images))


def test_tokens_enter_late_and_in_front() -> None:
    network, images = small_network(), torch.randn(1, 3, 28, 28)
    tokens = network.backbone.blocks[0](network.backbone.tokens(images))
    tokens = torch.cat([network.learnable_aggregation_tokens, tokens], dim=1)
    for block in network.backbone.blocks[1:]:
        tokens = block(tokens)
    expected = network.backbone.norm(tokens)[0, :2].flatten()
    assert torch.allclose(network(images)[0], expected / expected.norm(), atol=1e-6)


def test_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"backbone.cls_token": torch.zeros(1, 1, 16)}, path)
    with pytest.raises(WeightsError, match="no aggregation tokens"):
        load_transformer(read_checkpoint(path))
    torch.save(small_network().state_dict(), path)
    with pytest.raises(WeightsError, match="does not fit ImAge on ViT-B"):
        load_transformer(read_checkpoint(path))


def test_descriptions_do_not_depend_on_the_batch_or_the_images_size() -> None:
    describer = ImAgeDescriber(small_network(), "test", torch.device("cpu"), side=28)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (20 + k, 30, 3), dtype=np.uint8) for k in range(11)]
    together = describer.describe(images)
    assert together.shape == (11, describer.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, np.concatenate([describer.describe([image]) for image in images]), atol=1e-5)
    assert describer.describe([]).shape == (0, describer.dim)
    assert prepare(images[0]).shape == (1, 3, 322, 322)
