"""A stream's memory of earlier chunks: one immutable value, passed in and returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.core.errors import SettingsError

MEBIBYTE = 2**20


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Projected, normalised and rotated keys, and their values, each (batch, heads, tokens, channels)."""

    keys: Tensor
    values: Tensor

    @classmethod
    def join(cls, parts: Sequence[KeysValues]) -> KeysValues:
        """A concatenated copy of all parts, so that no part's larger memory stays alive."""
        return cls(torch.cat([part.keys for part in parts], dim=2), torch.cat([part.values for part in parts], dim=2))

    @property
    def bytes(self) -> int:
        return _bytes(self.keys) + _bytes(self.values)

    @property
    def tokens(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, eq=False)
class DescriptorCache:
    """The state of one stream. The network itself has no state, so any number of streams can share it.

    layers: for each global block, the anchor's full-resolution tokens, then ``tokens_per_frame`` descriptors per kept
    frame; None for blocks that do not attend across chunks. camera_tokens: (batch, kept frames, 2 dim) of the last
    block. frames: the kept frames' positions in the sequence, ascending. keyframes: those of them that the caller
    protects. length: frames seen so far, kept or not. grid: rows and columns of patches of every frame.
    """

    layers: tuple[KeysValues | None, ...]
    camera_tokens: Tensor
    frames: tuple[int, ...]
    keyframes: frozenset[int]
    length: int
    anchor_tokens: int
    tokens_per_frame: int
    grid: tuple[int, int]

    @classmethod
    def empty(cls) -> DescriptorCache:
        """The state before the first chunk."""
        return cls((), torch.empty(0, 0, 0), (), frozenset(), 0, 0, 0, (0, 0))

    @property
    def bytes(self) -> int:
        """Memory of all tensors held."""
        return sum(layer.bytes for layer in self.layers if layer) + _bytes(self.camera_tokens)

    @property
    def bytes_per_frame(self) -> int:
        """Memory for one more kept frame."""
        return self.anchor_free_bytes // max(len(self.frames), 1)

    @property
    def anchor_free_bytes(self) -> int:
        """Memory of everything except the anchor's full-resolution tokens, which are never evicted."""
        anchors = sum(layer.bytes * self.anchor_tokens // layer.tokens for layer in self.layers if layer)
        return self.bytes - anchors

    def tokens_with(self, camera_tokens: Tensor) -> Tensor:
        """The camera tokens of the kept frames, followed by those of a chunk (batch, frames, dim)."""
        if not self.camera_tokens.numel():
            return camera_tokens.clone()
        return torch.cat([self.camera_tokens, camera_tokens], dim=1)

    def extended(
        self,
        layers: tuple[KeysValues | None, ...],
        camera_tokens: Tensor,
        keyframes: Iterable[int],
        *,
        every: int,
        anchor_tokens: int,
        tokens_per_frame: int,
        grid: tuple[int, int],
    ) -> DescriptorCache:
        """The state after a chunk whose blocks attended to ``layers``, before any eviction.

        camera_tokens: of all frames of the chunk; frames 0, every, 2 every... are kept. keyframes: positions in the
        chunk.
        """
        frames = (*self.frames, *range(self.length, self.length + camera_tokens.shape[1], every))
        return DescriptorCache(
            layers=layers,
            camera_tokens=self.tokens_with(camera_tokens[:, ::every]),
            frames=frames,
            keyframes=self.keyframes.union(self.length + frame for frame in keyframes).intersection(frames),
            length=self.length + camera_tokens.shape[1],
            anchor_tokens=anchor_tokens,
            tokens_per_frame=tokens_per_frame,
            grid=grid,
        )

    def tokens_held(self) -> tuple[int, ...]:
        """Key tokens per global block."""
        return tuple(layer.tokens if layer else 0 for layer in self.layers)

    def require_grid(self, grid: tuple[int, int], batch: int) -> None:
        """Raise SettingsError for frames of another size or another number of sequences."""
        if self.length and (grid != self.grid or batch != len(self.camera_tokens)):
            raise SettingsError(
                f"The stream holds {len(self.camera_tokens)} sequence(s) of {self.grid[0]} x {self.grid[1]} patches, "
                f"but the chunk has {batch} of {grid[0]} x {grid[1]}. Start a new stream for images of another size."
            )

    def keep(self, rows: Sequence[int]) -> DescriptorCache:
        """Keep only the frames at these ascending positions in ``frames``; the anchor's own tokens stay."""
        chosen = torch.tensor(rows, dtype=torch.long, device=self.camera_tokens.device)
        frames = tuple(self.frames[row] for row in rows)
        return replace(
            self,
            layers=tuple(layer and self._keep(layer, chosen) for layer in self.layers),
            camera_tokens=self.camera_tokens[:, chosen],
            frames=frames,
            keyframes=self.keyframes.intersection(frames),
        )

    def _keep(self, layer: KeysValues, rows: Tensor) -> KeysValues:
        offsets = torch.arange(self.tokens_per_frame, device=rows.device)
        tokens = (self.anchor_tokens + rows[:, None] * self.tokens_per_frame + offsets).flatten()
        tokens = torch.cat([torch.arange(self.anchor_tokens, device=rows.device), tokens])
        return KeysValues(layer.keys[:, :, tokens], layer.values[:, :, tokens])


@dataclass(frozen=True)
class MemoryBudget:
    """How much of earlier chunks a stream may keep; everything by default, as in the published code.

    frames: frames whose descriptors are kept. mebibytes: memory of the whole cache between two chunks. drop_rate: only
    one in so many frames of a chunk, starting with the first, offers descriptors, also within the chunk; the published
    code calls it ``memory_drop_rate``. Raises SettingsError for values below 1.
    """

    frames: int | None = None
    mebibytes: float | None = None
    drop_rate: int = 1

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.frames, self.mebibytes, self.drop_rate) if limit is not None]
        if min(limits) <= 0:
            raise SettingsError(f"A memory budget needs positive numbers, got {self}.")

    def frames_allowed(self, cache: DescriptorCache) -> int:
        """How many frames ``cache`` may keep.

        Raises SettingsError if the memory does not hold even the anchor and one frame.
        """
        allowed = len(cache.frames) if self.frames is None else self.frames
        if self.mebibytes is None or not cache.frames:
            return allowed
        anchor = cache.bytes - cache.anchor_free_bytes
        fitting = int((self.mebibytes * MEBIBYTE - anchor) // max(cache.bytes_per_frame, 1))
        if fitting < 1:
            needed = (anchor + cache.bytes_per_frame) / MEBIBYTE
            raise SettingsError(
                f"A memory budget of {self.mebibytes:g} MiB does not hold the first frame, which takes {needed:.1f} "
                "MiB at this image size. Raise the budget or use smaller images."
            )
        return min(allowed, fitting)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def protected_frames(cache: DescriptorCache) -> Iterable[int]:
    """Positions in ``cache.frames`` of the frames to evict last: the anchor, the newest frame, the keyframes."""
    last = len(cache.frames) - 1
    return [row for row, frame in enumerate(cache.frames) if frame == 0 or row == last or frame in cache.keyframes]
