"""The keys and values that frames offer to each other in a global block (FlashVGGT, section 3). A frame offers its
special tokens and a coarse grid of patch descriptors; anchor frames also offer all patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recon.network.cache import KeysValues
from recon.network.config import DescriptorsV1, Rule
from recon.network.layers import Attention
from recon.network.layout import FrameLayout


@dataclass(frozen=True, eq=False)
class Offer:
    """What the frames of a chunk offer to each other and to later chunks.

    rule: how to compute them. every: frames 0, every, 2 every... offer descriptors. anchors: (batch, anchors) indices
    of frames that also offer every patch; a repeated index counts twice.
    """

    rule: Rule
    every: int
    anchors: Tensor


def offered(attention: Attention, tokens: Tensor, layout: FrameLayout, offer: Offer) -> tuple[Tensor, KeysValues]:
    """Queries of all tokens, and the keys and values that the chunk offers: anchors first, then frame by frame.

    tokens: (batch, frames, tokens, dim), normalised.
    """
    if isinstance(offer.rule, DescriptorsV1) and offer.rule.factor > 1:
        return _resized_then_projected(attention, tokens, layout, offer)
    return _projected_then_sampled(attention, tokens, layout, offer)


def _resized_then_projected(
    attention: Attention, tokens: Tensor, layout: FrameLayout, offer: Offer
) -> tuple[Tensor, KeysValues]:
    factor = offer.rule.factor
    query = attention.queries(tokens.flatten(1, 2), layout.turn)
    descriptors = resize_patches(tokens[:, :: offer.every], layout, factor).flatten(1, 2)
    # A descriptor has the position of the first patch of its cell, not of the middle of the cell.
    turn = layout.turn_at(layout.sampled(factor, tokens.device))
    parts = [KeysValues(*attention.keys_values(descriptors, turn))]
    if offer.anchors.numel():
        patches = _rows(tokens, offer.anchors)[:, :, layout.special :].flatten(1, 2)
        everywhere = torch.arange(layout.special, layout.tokens, device=tokens.device)
        parts.insert(0, KeysValues(*attention.keys_values(patches, layout.turn_at(everywhere))))
    return query, KeysValues.join(parts)


def _projected_then_sampled(
    attention: Attention, tokens: Tensor, layout: FrameLayout, offer: Offer
) -> tuple[Tensor, KeysValues]:
    factor = offer.rule.factor
    query, key, value = attention.project(tokens.flatten(1, 2), layout.turn)
    if factor == 1:
        # Contiguous, because a slice of the projection would keep all of it alive in the cache.
        return query, KeysValues(key.contiguous(), value.contiguous())
    sampled = layout.sampled(factor, tokens.device)

    def choose(x: Tensor) -> Tensor:
        frames = x.unflatten(2, (-1, layout.tokens)).transpose(1, 2)  # (batch, frames, heads, tokens, channels)
        anchors = _rows(frames, offer.anchors)[..., layout.special :, :]
        descriptors = frames[:, :: offer.every].index_select(3, sampled)
        return torch.cat([part.transpose(1, 2).flatten(2, 3) for part in (anchors, descriptors)], dim=2)

    return query, KeysValues(choose(key), choose(value))


def resize_patches(tokens: Tensor, layout: FrameLayout, factor: int) -> Tensor:
    """Patch tokens resized bilinearly, not anti-aliased, after the special tokens: (batch, frames, descriptors, dim).

    A grid that is not a multiple of ``factor`` is stretched, not cropped.
    """
    kept = torch.promote_types(tokens.dtype, torch.float32)
    patches = tokens[:, :, layout.special :].flatten(0, 1).unflatten(1, (layout.rows, layout.columns))
    resized = functional.interpolate(
        patches.permute(0, 3, 1, 2).to(kept), size=layout.descriptor_grid(factor), mode="bilinear", align_corners=False
    )
    resized = resized.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, tokens.shape[:2]).to(tokens.dtype)
    return torch.cat([tokens[:, :, : layout.special], resized], dim=2)


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """``x[b, indices[b]]`` for each sequence b of the batch."""
    batch = torch.arange(len(x), device=x.device)[:, None]
    return x[batch, indices]
