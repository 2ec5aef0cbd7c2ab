"""Shapes of the network, and the rule by which its global blocks attend across frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from recon.core.errors import SettingsError

BlockKind = Literal["frame", "global"]
DenseActivation = Literal["exp", "inv_log", "linear", "relu", "sigmoid", "norm_exp", "xy_inv_log"]
ConfidenceActivation = Literal["expp1", "expp0", "sigmoid"]
PoseActivation = Literal["linear", "inv_log", "exp", "relu"]


@dataclass(frozen=True)
class Dense:
    """Every global block attends to every token of every frame, as in VGGT."""

    factor: ClassVar[int] = 1
    remembers: ClassVar[bool] = True

    def looks_across(self, layer: int) -> bool:
        return True


@dataclass(frozen=True)
class DescriptorsV1:
    """FlashVGGT as first published: normalised tokens are resized bilinearly, then projected to keys and values.

    factor: patches per descriptor along each side. With 1 this is dense attention inside a chunk, without memory.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        _require_positive(self.factor)

    @property
    def remembers(self) -> bool:
        return self.factor > 1

    def looks_across(self, layer: int) -> bool:
        return True


@dataclass(frozen=True)
class DescriptorsV2:
    """FlashVGGT's later state: keys and values are projected and rotated at full resolution, then sampled.

    factor: patches per descriptor along each side, by nearest neighbour. Global blocks ``first`` to ``last``
    (inclusive) attend across frames; the others attend inside each frame. With factor 1 every token is a descriptor.
    """

    factor: int = 3
    first: int = 9
    last: int = 19
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_positive(self.factor)

    def looks_across(self, layer: int) -> bool:
        return self.first <= layer <= self.last


Rule = Dense | DescriptorsV1 | DescriptorsV2


def _require_positive(factor: int) -> None:
    if factor < 1:
        raise SettingsError(f"A descriptor covers at least 1 patch along each side, got a factor of {factor}.")


@dataclass(frozen=True)
class VitConfig:
    """A DINOv2 vision transformer with registers.

    image_size: side of the square images [px] of the stored position embedding. antialias, offset: how that embedding
    is resized for other images: True and 0 in VGGT and the DINOv2 hub, False and 0.1 in ImAge.
    """

    image_size: int = 518
    patch_size: int = 14
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    layer_scale: bool = True
    antialias: bool = True
    offset: float = 0.0


@dataclass(frozen=True)
class AggregatorConfig:
    """The alternating blocks. vit: None for a plain convolution as patch embedding.

    order: kinds of block within a group; block_size: consecutive blocks of one kind. rope_base: 0 for none.
    """

    patch_size: int = 14
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    registers: int = 4
    biases: tuple[bool, bool, bool] = (True, True, True)  # of qkv, of the projection after attention, of the MLP
    layer_scale: bool = True
    qk_norm: bool = True
    rope_base: float = 100.0
    order: tuple[BlockKind, ...] = ("frame", "global")
    block_size: int = 1
    vit: VitConfig | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != ["frame", "global"]:
            raise SettingsError(f"A group holds one kind of frame and one of global blocks, got {self.order}.")
        if self.depth % self.block_size or self.dim % self.heads:
            raise SettingsError(
                f"{self.depth} blocks cannot be grouped by {self.block_size}, or {self.heads} heads cannot share "
                f"{self.dim} channels."
            )


@dataclass(frozen=True)
class CameraHeadConfig:
    """Iterative pose regression in rounds. activations: of translation, of the quaternion, of the fields of view."""

    dim: int = 2048
    depth: int = 4
    heads: int = 16
    mlp_ratio: float = 4.0
    layer_scale: bool = True
    activations: tuple[PoseActivation, PoseActivation, PoseActivation] = ("linear", "linear", "relu")
    iterations: int = 4


@dataclass(frozen=True)
class DptConfig:
    """A dense prediction head. output_dim: channels including the confidence, None for features only.

    levels: the block groups whose tokens it reads. down_ratio: image pixels per output pixel along a side.
    """

    dim: int = 2048
    patch_size: int = 14
    output_dim: int | None = 2
    activation: DenseActivation = "exp"
    confidence: ConfidenceActivation = "expp1"
    features: int = 256
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    levels: tuple[int, int, int, int] = (4, 11, 17, 23)
    position_embedding: bool = True
    down_ratio: int = 1


@dataclass(frozen=True)
class TrackerConfig:
    """Point tracking by iterative refinement. stride: pixels of the image per pixel of the feature map."""

    features: int = 128
    iterations: int = 4
    confidence: bool = True
    stride: int = 2
    levels: int = 7
    radius: int = 4
    hidden: int = 384


@dataclass(frozen=True)
class TrackHeadConfig:
    """The track head: a feature extractor and a tracker."""

    extractor: DptConfig = DptConfig(output_dim=None, features=128, position_embedding=False, down_ratio=2)
    tracker: TrackerConfig = TrackerConfig()


@dataclass(frozen=True)
class NetworkConfig:
    """The whole network; None for heads missing from a checkpoint."""

    aggregator: AggregatorConfig
    camera: CameraHeadConfig | None
    depth: DptConfig | None
    points: DptConfig | None
    track: TrackHeadConfig | None


_LARGE = AggregatorConfig(vit=VitConfig())
VGGT_1B = NetworkConfig(
    _LARGE, CameraHeadConfig(), DptConfig(), DptConfig(output_dim=4, activation="inv_log"), TrackHeadConfig()
)
FLASHVGGT = NetworkConfig(_LARGE, CameraHeadConfig(), DptConfig(), None, None)
