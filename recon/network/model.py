"""The whole network: one pass over all frames, or a stream of chunks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon.core.errors import SettingsError
from recon.network.aggregator import Aggregated, Aggregator
from recon.network.attention import Backend
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.camera_head import CameraHead
from recon.network.config import NetworkConfig, Rule
from recon.network.descriptors import Offer
from recon.network.dpt_head import DenseMap, DptHead
from recon.network.eviction import evict
from recon.network.keyframes import choose_keyframes
from recon.network.track_head import TrackHead

KEYFRAME_EVERY = 200
UNLIMITED = MemoryBudget()


@dataclass(frozen=True, eq=False)
class Prediction:
    """The network's predictions for the frames of one call.

    encodings: (batch, frames, 9), see ``pose_encoding``. depth: along z. points: in the world, from the point head of
    checkpoints that have one. camera_tokens: (batch, frames, 2 dim), for ``GeometryNetwork.poses``.
    """

    encodings: Tensor
    depth: DenseMap
    points: DenseMap | None
    camera_tokens: Tensor


class GeometryNetwork(nn.Module):
    """VGGT or FlashVGGT; parameter names are those of the public files. It keeps no state between calls."""

    def __init__(self, config: NetworkConfig, backend: Backend = "torch") -> None:
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config.aggregator, backend)
        self.camera_head = CameraHead(config.camera, backend) if config.camera else None
        self.depth_head = DptHead(config.depth) if config.depth else None
        self.point_head = DptHead(config.points) if config.points else None
        self.track_head = TrackHead(config.track) if config.track else None

    def predict(self, images: Tensor, rule: Rule, keyframe_every: int = KEYFRAME_EVERY) -> Prediction:
        """All frames at once: images (batch, frames, 3, height, width) in 0..1, sides multiples of the patch size.

        Descriptor rules use one anchor per ``keyframe_every`` frames. See ``Aggregator.embed`` for errors.
        """
        aggregated = self.aggregate(images, rule, keyframe_every=keyframe_every, levels=self.levels_read())
        camera_tokens = self.camera_tokens(aggregated)
        return self._prediction(aggregated, camera_tokens, self.poses(camera_tokens))

    def step(
        self,
        images: Tensor,
        cache: DescriptorCache,
        rule: Rule,
        budget: MemoryBudget = UNLIMITED,
        keyframes: Collection[int] = (),
    ) -> tuple[Prediction, DescriptorCache]:
        """The next chunk of a stream, and the memory for later chunks.

        Frames attend to their chunk and to the content of ``cache``, and are never revised. keyframes: positions in
        this chunk of frames to evict last. Poses come from the camera tokens of the kept frames and of this chunk;
        ``poses`` on the tokens of all chunks is the published final pass. With an unlimited budget and a drop rate of 1
        these are the same frames. Raises SettingsError like ``embed``, ``DescriptorCache.require_grid`` and
        ``MemoryBudget.frames_allowed``.
        """
        aggregated, joined = self.extend(images, cache, rule, budget, keyframes, levels=self.levels_read())
        camera_tokens = self.camera_tokens(aggregated)
        encodings = self.poses(cache.tokens_with(camera_tokens))[:, -images.shape[1] :]
        return self._prediction(aggregated, camera_tokens, encodings), evict(joined, budget)

    def poses(self, camera_tokens: Tensor) -> Tensor:
        """Pose encodings (batch, frames, 9) of frames processed together, in float32 at least."""
        if self.camera_head is None:
            raise SettingsError("These weights have no camera head, which pose estimation requires. Use other weights.")
        with torch.autocast(camera_tokens.device.type, enabled=False):
            return self.camera_head(camera_tokens)[-1]

    def aggregate(
        self,
        images: Tensor,
        rule: Rule,
        *,
        levels: Collection[int],
        keyframe_every: int = KEYFRAME_EVERY,
        keyframes: Tensor | None = None,
    ) -> Aggregated:
        """Tokens of one pass. keyframes: (batch, keyframes) to use in place of our choice, for comparisons."""
        embedded = self.aggregator.embed(images, start=True)
        anchors = torch.zeros(len(images), 0, dtype=torch.long, device=images.device)
        if rule.factor > 1:
            anchors = (
                choose_keyframes(embedded.frame_means(), keyframe_every).indices if keyframes is None else keyframes
            )
        return self.aggregator(embedded, Offer(rule, 1, anchors), levels=levels)

    def extend(
        self,
        images: Tensor,
        cache: DescriptorCache,
        rule: Rule,
        budget: MemoryBudget = UNLIMITED,
        keyframes: Collection[int] = (),
        *,
        levels: Collection[int],
    ) -> tuple[Aggregated, DescriptorCache]:
        """Tokens of the next chunk, and the cache including it, before any eviction."""
        start = cache.length == 0
        embedded = self.aggregator.embed(images, start=start)
        layout = embedded.layout
        cache.require_grid((layout.rows, layout.columns), len(images))
        # Without compression nothing is anchored or dropped, as in the published code.
        every = budget.drop_rate if rule.factor > 1 else 1
        anchors = torch.zeros(len(images), int(start and rule.factor > 1), dtype=torch.long, device=images.device)
        aggregated = self.aggregator(
            embedded,
            Offer(rule, every, anchors),
            levels={*levels, self.last_level},
            past=cache.layers,
            remember=True,
        )
        return aggregated, self._extended(cache, aggregated, rule, every, keyframes)

    @property
    def last_level(self) -> int:
        """The block group whose camera tokens the camera head reads."""
        return self.config.aggregator.depth - 1

    def levels_read(self) -> frozenset[int]:
        """The block groups whose tokens the heads read."""
        extractor = self.config.track.extractor if self.config.track else None
        heads = [head.levels for head in (self.config.depth, self.config.points, extractor) if head]
        return frozenset({self.last_level}.union(*heads))

    def camera_tokens(self, aggregated: Aggregated) -> Tensor:
        """The first token of every frame (batch, frames, 2 dim) after the last block."""
        # A copy: callers keep these for the final pass, and a view would keep all tokens alive.
        return aggregated.levels[self.last_level][:, :, 0].clone()

    def _extended(
        self, cache: DescriptorCache, aggregated: Aggregated, rule: Rule, every: int, keyframes: Collection[int]
    ) -> DescriptorCache:
        layout, tokens = aggregated.layout, self.camera_tokens(aggregated)
        grid = (layout.rows, layout.columns)
        descriptors = grid if rule.factor == 1 else layout.descriptor_grid(rule.factor)
        return cache.extended(
            aggregated.layers,
            tokens,
            keyframes,
            every=every,
            anchor_tokens=layout.rows * layout.columns if rule.factor > 1 else 0,
            tokens_per_frame=layout.special + descriptors[0] * descriptors[1],
            grid=grid,
        )

    def _prediction(self, aggregated: Aggregated, camera_tokens: Tensor, encodings: Tensor) -> Prediction:
        if self.depth_head is None:
            raise SettingsError("These weights have no depth head, which reconstruction requires. Use other weights.")
        levels, layout = aggregated.levels, aggregated.layout
        with torch.autocast(camera_tokens.device.type, enabled=False):
            depth = self.depth_head(levels, layout)
            points = self.point_head(levels, layout) if self.point_head else None
        return Prediction(encodings, depth, points, camera_tokens)
