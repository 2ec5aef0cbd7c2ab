"""ImAge (Lu et al., NeurIPS 2025, arXiv 2511.06024): a vision transformer that gathers its own global descriptor.

A few learnable tokens join the others before one of the later blocks and pass through the remaining blocks with them.
Their final values, concatenated, are the descriptor; there is no aggregator network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.core.errors import WeightsError
from recon.core.types import Image
from recon.network.aggregator import normalised as standardised
from recon.network.architectures import Architecture
from recon.network.attention import Backend
from recon.network.checkpoints import Checkpoint, differences, read_checkpoint
from recon.network.config import VitConfig
from recon.network.known_weights import resolve
from recon.network.runtime import choose_device, precision
from recon.network.vit import VisionTransformer
from recon.settings import PlaceSettings
from retrieval.describer import Descriptors, Masks
from retrieval.digest import digest_of_file

SIDE = 322  # px, side of the square to which images are resized, whatever their aspect, as in training
FULL = 255
IMAGES_AT_ONCE = 8  # bounds memory


@dataclass(frozen=True)
class AggregationConfig:
    """tokens: number of aggregation tokens. before_block: the block, from 0, that they enter. Defaults: ViT-B."""

    vit: VitConfig = field(default_factory=lambda: VitConfig(dim=768, depth=12, heads=12, antialias=False, offset=0.1))
    tokens: int = 8
    before_block: int = 8

    @property
    def dim(self) -> int:
        """Length of the descriptor."""
        return self.tokens * self.vit.dim


class AggregatingTransformer(nn.Module):
    """Images to global descriptors. Parameter names are those of the public files."""

    def __init__(self, config: AggregationConfig, backend: Backend = "torch") -> None:
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config.vit, backend)
        self.learnable_aggregation_tokens = nn.Parameter(torch.zeros(1, config.tokens, config.vit.dim))

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images (images, 3, height, width), sides multiples of the patch, to (images, dim) of length 1.

        The aggregation tokens have no position.
        """
        tokens = self.backbone.tokens(images)
        for block in self.backbone.blocks[: self.config.before_block]:
            tokens = block(tokens)
        tokens = torch.cat([self.learnable_aggregation_tokens.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.backbone.blocks[self.config.before_block :]:
            tokens = block(tokens)
        gathered = self.backbone.norm(tokens[:, : self.config.tokens])
        return functional.normalize(gathered.flatten(1).float(), dim=1)


def load_transformer(
    checkpoint: Checkpoint, config: AggregationConfig | None = None, backend: Backend = "torch"
) -> AggregatingTransformer:
    """The network in evaluation mode with the checkpoint's own memory as parameters.

    config: None for the published one, ViT-B. Raises WeightsError, naming the differences, for another network's file.
    """
    if not checkpoint.is_place_descriptor:
        raise WeightsError(f"{checkpoint.path} is no ImAge file: it has no aggregation tokens. Use ImAge_Merged.pth.")
    with torch.device("meta"):
        network = AggregatingTransformer(config or AggregationConfig(), backend)
    wrong = differences({name: tuple(x.shape) for name, x in checkpoint.tensors.items()}, network)
    if wrong.count:
        raise WeightsError(f"{checkpoint.path} does not fit ImAge on ViT-B; tensors: {wrong}. Use a published file.")
    network.load_state_dict(dict(checkpoint.tensors), assign=True)
    return network.eval().requires_grad_(False)


def _verify(checkpoint: Checkpoint) -> str:
    load_transformer(checkpoint)
    return "ImAge, for places"


ARCHITECTURE = Architecture(lambda checkpoint: checkpoint.is_place_descriptor, _verify, for_places=True)


class ImAgeDescriber:
    """Describes images by ImAge weights."""

    def __init__(self, network: AggregatingTransformer, identity: str, device: torch.device, side: int = SIDE) -> None:
        self._network = network.to(device)
        self._device = device
        self._side = side
        self.name = f"ImAge {side} px {identity}"
        self.dim = network.config.dim

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        batches = [
            self._batch(images[first : first + IMAGES_AT_ONCE]) for first in range(0, len(images), IMAGES_AT_ONCE)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, self.dim), np.float32)

    def _batch(self, images: Sequence[Image]) -> Descriptors:
        prepared = torch.cat([prepare(image, self._side) for image in images]).to(self._device)
        with torch.inference_mode(), precision(self._device):
            return np.asarray(self._network(prepared).float().cpu().numpy())


def prepare(image: Image, side: int = SIDE) -> Tensor:
    """An RGB image (height, width, 3) as standardised input (1, 3, side, side), resized with anti-aliasing."""
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / FULL
    size = (side, side)
    return functional.interpolate(standardised(pixels), size=size, mode="bilinear", antialias=True, align_corners=False)


def open_image_describer(path: Path, device: torch.device, config: AggregationConfig | None = None) -> ImAgeDescriber:
    """The describer with the weights in ``path``. Raises WeightsError for a file that is damaged or not ImAge."""
    network = load_transformer(read_checkpoint(path), config)
    return ImAgeDescriber(network, digest_of_file(path), device)


def open_image(settings: PlaceSettings) -> ImAgeDescriber:
    """See ``retrieval.describer.PLACE_DESCRIPTORS``. Raises WeightsError, DependencyError, SettingsError."""
    return open_image_describer(resolve(settings.weights or "ImAge"), choose_device(settings.device))
