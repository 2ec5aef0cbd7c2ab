"""The whole compact network: from a chunk of frames and the memory of earlier ones to matches, poses and places.

Its part ``depth`` estimates depth from given poses: the caller solves them from the matches or uses the regressed ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from recon.core.errors import SettingsError
from recon.depth.layers import resize_like
from recon.depth.network import PosedDepthConfig, PosedDepthNet
from recon.depth.stem import Features
from recon.lab.compact.heads import PlaceHead, PoseHead, RelativeHead
from recon.lab.compact.matches import Matches, between_cells, cell_centres, mutual_cells, refine
from recon.lab.compact.matching import (
    TEMPERATURE,
    CorrelationTokens,
    MatchingMap,
    choose_partners,
    cosines,
    evidence,
)
from recon.lab.compact.trunk import Trunk, TrunkConfig, patch_maps
from recon.network.cache import DescriptorCache, KeysValues, MemoryBudget
from recon.network.config import DescriptorsV1
from recon.network.descriptors import Offer
from recon.network.eviction import evict
from recon.network.layout import FrameLayout

STRIDE = 16
UNLIMITED = MemoryBudget()


@dataclass(frozen=True)
class CompactConfig:
    """matching: channels of the map. partners: number of frames to match with each frame. place_tokens: as in ImAge."""

    depth: PosedDepthConfig = field(default_factory=PosedDepthConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    matching: int = 64
    partners: int = 4
    place_tokens: int = 4


@dataclass(frozen=True, eq=False)
class CompactCache:
    """The state of one stream. descriptors: see ``DescriptorCache``. maps: (batch, kept frames, c, h / 8, w / 8), for
    matching.
    """

    descriptors: DescriptorCache
    maps: Tensor

    @classmethod
    def empty(cls) -> CompactCache:
        """The state before the first chunk."""
        return cls(DescriptorCache.empty(), torch.empty(0))

    @property
    def bytes(self) -> int:
        """Memory of all tensors held."""
        return self.descriptors.bytes + self.maps.numel() * self.maps.element_size()

    def with_maps(self, maps: Tensor) -> Tensor:
        """The maps of the kept frames, followed by those of a chunk (batch, frames, ...)."""
        return torch.cat([self.maps, maps], 1) if self.maps.numel() else maps


@dataclass(frozen=True, eq=False)
class Correlation:
    """Every frame of a chunk against its partners.

    partners: positions of the partners in the sequence, by frame. scores: (batch, frames, partners, cells, cells),
    cosines times temperature. covisible: (batch, frames, partners, h / 8, w / 8), logits that the partner sees the
    cell.
    """

    partners: list[list[int]]
    scores: Tensor
    covisible: Tensor


@dataclass(frozen=True, eq=False)
class CompactPrediction:
    """The network's predictions for the frames of a chunk.

    features: (batch * frames first), for ``CompactNet.depth.estimate``. maps: (batch, frames, c, h / 8, w / 8).
    correlation: None for a first frame alone. encodings: (batch, frames, 9), see ``PoseHead``. relative: (batch,
    frames, kept + frames, 8), see ``RelativeHead``; the kept frames are those of the cache passed in. places:
    (batch, frames, dim).
    """

    features: Features
    maps: Tensor
    correlation: Correlation | None
    encodings: Tensor
    relative: Tensor
    places: Tensor


class CompactNet(nn.Module):
    """Stem and plane sweep of ``PosedDepthNet`` with a matching trunk between them. It keeps no state."""

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompactConfig()
        dim, (_, _, eighth, sixteenth, _) = config.trunk.dim, config.depth.stem
        self.depth = PosedDepthNet(config.depth)
        self.trunk = Trunk(config.trunk, sixteenth)
        self.matching = MatchingMap(eighth, dim, config.matching)
        self.correlation = CorrelationTokens(dim)
        self.fine_temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.context = nn.Conv2d(dim, eighth, 1)
        nn.init.zeros_(self.context.weight)  # depth starts as that of the stem alone
        nn.init.zeros_(self.context.bias)  # type: ignore[arg-type]
        self.camera = PoseHead(config.trunk)
        self.relative = RelativeHead(dim)
        self.places = PlaceHead(config.trunk, config.place_tokens)

    def forward(
        self,
        images: Tensor,
        cache: CompactCache | None = None,
        budget: MemoryBudget = UNLIMITED,
        keyframes: Collection[int] = (),
    ) -> tuple[CompactPrediction, CompactCache]:
        """The predictions for the next chunk of a stream, images (batch, frames, 3, h, w) in 0..1, and the memory for
        later ones.

        Without a cache the chunk starts a stream; a whole sequence as one chunk is a single pass. Frames of earlier
        chunks are not computed again, and their results are not revised. The budget counts descriptors only, not the
        maps of kept frames. keyframes: positions in the chunk of frames to forget last. Raises SettingsError if sides
        are not multiples of 16 or images differ in size from the stream's, and as ``MemoryBudget`` does.
        """
        cache = cache or CompactCache.empty()
        past, frames = cache.descriptors, images.shape[1]
        _require_sides(images)
        features = self.depth.encode(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        sixteenth = features.context_sixteenth.unflatten(0, images.shape[:2])
        embedded = self.trunk.embed(sixteenth, start=past.length == 0)
        layout = embedded.layout
        past.require_grid((layout.rows, layout.columns), len(images))
        anchors = torch.zeros(len(images), int(past.length == 0), dtype=torch.long, device=images.device)
        offer = Offer(DescriptorsV1(self.config.trunk.factor), budget.drop_rate, anchors)
        layers: list[KeysValues] = []
        tokens, seen = self.trunk.pair(0, embedded.tokens, layout, offer, _layer(past, 0))
        layers.append(seen)
        maps = self.matching(features.context_eighth, patch_maps(tokens, layout)).unflatten(0, images.shape[:2])
        correlation, tokens = self._correlate(maps, tokens, cache, layout)
        for number in range(1, self.config.trunk.pairs):
            tokens, seen = self.trunk.pair(number, tokens, layout, offer, _layer(past, number))
            layers.append(seen)
        camera_tokens = tokens[:, :, 0].clone()
        known = past.tokens_with(camera_tokens)
        guide = resize_like(self.context(patch_maps(tokens, layout)), features.context_eighth)
        prediction = CompactPrediction(
            features=replace(features, context_eighth=features.context_eighth + guide),
            maps=maps,
            correlation=correlation,
            encodings=self.camera(known)[:, -frames:],
            relative=self.relative(camera_tokens, known),
            places=self.places(embedded.tokens[:, :, layout.special :].flatten(0, 1)).unflatten(0, images.shape[:2]),
        )
        extended = self._extended(cache, layers, camera_tokens, maps, layout, budget=budget, keyframes=keyframes)
        return prediction, extended

    def matches(self, prediction: CompactPrediction, first: int, second: int, least: float = 0.1) -> Matches:
        """Matches of two frames of the prediction's first sequence whose confidence is at least ``least``."""
        return self.match(*self.matchable(prediction, first), *self.matchable(prediction, second), least=least)

    def matchable(self, prediction: CompactPrediction, frame: int) -> tuple[Tensor, Tensor]:
        """The maps of a frame that ``match`` needs: (c, h / 8, w / 8) and (c, h / 4, w / 4)."""
        return prediction.maps[0, frame], prediction.features.fine[frame]

    def match(self, first: Tensor, first_fine: Tensor, second: Tensor, second_fine: Tensor, *, least: float) -> Matches:
        """Matches of two frames, given by ``matchable``, whose confidence is at least ``least``."""
        size = (second.shape[1], second.shape[2])
        scores = cosines(first[None], second[None])[0] * self.matching.temperature
        cells = mutual_cells(scores, least)
        pixels = cell_centres(cells.first, first.shape[2])
        guesses = between_cells(scores, cells, size)
        refined = refine(first_fine[None], second_fine[None], pixels[None], guesses[None], self.fine_temperature)[0]
        return Matches(pixels, refined, cells.confidence)

    def every_cell(self, prediction: CompactPrediction, first: int, second: int) -> tuple[Tensor, Tensor]:
        """For every cell of the first frame, the pixel (cells, 2) of the best cell in the second frame, coarse and
        refined. Frames are of the prediction's first sequence. Cells without a true match get one as well.
        """
        (own, own_fine), (other, other_fine) = (self.matchable(prediction, frame) for frame in (first, second))
        best = cosines(own[None], other[None])[0].argmax(1)
        cells = torch.arange(len(best), device=best.device)
        pixels, guesses = cell_centres(cells, own.shape[2]), cell_centres(best, other.shape[2])
        refined = refine(own_fine[None], other_fine[None], pixels[None], guesses[None], self.fine_temperature)[0]
        return guesses, refined

    def _correlate(
        self, maps: Tensor, tokens: Tensor, cache: CompactCache, layout: FrameLayout
    ) -> tuple[Correlation | None, Tensor]:
        """The chunk's correlation with its partners, and the tokens with its evidence added."""
        batch, frames = maps.shape[:2]
        kept = cache.descriptors.frames
        chunk = range(cache.descriptors.length, cache.descriptors.length + frames)
        partners = choose_partners(kept, chunk, self.config.partners)
        if not partners[0]:
            return None, tokens
        count, size = len(partners[0]), (maps.shape[3], maps.shape[4])
        rows = torch.tensor(partners, device=maps.device)
        others = cache.with_maps(maps)[:, rows].flatten(0, 2)
        similarity = cosines(maps.repeat_interleave(count, 1).flatten(0, 1), others)
        cues = evidence(similarity, self.matching.temperature, size).unflatten(0, (batch * frames, count))
        added, covisible = self.correlation(cues)
        patches = tokens[:, :, layout.special :] + added.flatten(2).mT.unflatten(0, (batch, frames))
        known = [*kept, *chunk]
        correlation = Correlation(
            [[known[row] for row in chosen] for chosen in partners],
            (similarity * self.matching.temperature).unflatten(0, (batch, frames, count)),
            covisible.unflatten(0, (batch, frames)),
        )
        return correlation, torch.cat([tokens[:, :, : layout.special], patches], 2)

    def _extended(
        self,
        cache: CompactCache,
        layers: list[KeysValues],
        camera_tokens: Tensor,
        maps: Tensor,
        layout: FrameLayout,
        *,
        budget: MemoryBudget,
        keyframes: Collection[int],
    ) -> CompactCache:
        """The cache after a chunk, within the budget."""
        rows, columns = layout.descriptor_grid(self.config.trunk.factor)
        joined = cache.descriptors.extended(
            tuple(layers),
            camera_tokens,
            keyframes,
            every=budget.drop_rate,
            anchor_tokens=layout.rows * layout.columns,
            tokens_per_frame=layout.special + rows * columns,
            grid=(layout.rows, layout.columns),
        )
        kept = evict(joined, budget)
        all_maps = cache.with_maps(maps[:, :: budget.drop_rate])
        if kept.frames != joined.frames:
            chosen = [joined.frames.index(frame) for frame in kept.frames]
            all_maps = all_maps[:, torch.tensor(chosen, device=maps.device)]
        return CompactCache(kept, all_maps)


def _layer(past: DescriptorCache, number: int) -> KeysValues | None:
    return past.layers[number] if past.layers else None


def _require_sides(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if height % STRIDE or width % STRIDE or min(height, width) < 2 * STRIDE:
        raise SettingsError(
            f"The network takes images whose sides are multiples of {STRIDE} px and at least {2 * STRIDE}, got "
            f"{width} x {height}. Resize them."
        )
