"""Streams: the same numbers as the published rule, and as one pass whose chunks cannot see later ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.core.errors import SettingsError
from recon.lab.benchmark.published_stream import PublishedStream
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.config import Dense, DescriptorsV1, DescriptorsV2, Rule
from recon.network.descriptors import resize_patches
from recon.network.layers import Attention
from recon.network.layout import FrameLayout
from recon.network.model import GeometryNetwork
from recon.network.rotary import Turn
from tests.network_support import DEPTH, RULES, random_images, random_network

EXACT = {"rtol": 0, "atol": 1e-11}  # float64; values are of order 1
LEVELS = frozenset(range(DEPTH))
NETWORK = random_network().double()
PATCH = 14

chunkings = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
grids = st.tuples(st.integers(2, 5), st.integers(2, 5))


def stream_levels(
    network: GeometryNetwork, images: Tensor, chunking: tuple[int, ...], rule: Rule, budget: MemoryBudget
) -> dict[int, Tensor]:
    """Tokens of all frames by level, chunk after chunk."""
    cache = DescriptorCache.empty()
    parts = []
    for chunk in images.split(chunking, dim=1):
        aggregated, cache = network.extend(chunk, cache, rule, budget, levels=LEVELS)
        parts.append(aggregated.levels)
    return {level: torch.cat([part[level] for part in parts], dim=1) for level in LEVELS}


def masked_levels(
    network: GeometryNetwork, images: Tensor, chunking: tuple[int, ...], rule: Rule, drop_rate: int
) -> dict[int, Tensor]:
    """The twin: all frames at once, with attention written out and masked so that no chunk sees a later one."""
    embedded = network.aggregator.embed(images, start=True)
    tokens, layout = embedded.tokens, embedded.layout
    chunk_of = torch.tensor([number for number, count in enumerate(chunking) for _ in range(count)])
    place = torch.tensor([place for count in chunking for place in range(count)])
    offers = place % drop_rate == 0 if rule.factor > 1 else torch.ones_like(place, dtype=torch.bool)
    levels = {}
    for layer in range(DEPTH):
        frame_block, global_block = network.aggregator.frame_blocks[layer], network.aggregator.global_blocks[layer]
        inside = tokens = frame_block(tokens.flatten(0, 1), layout.turn).unflatten(0, tokens.shape[:2])
        if rule.looks_across(layer):
            normed = global_block.norm1(tokens)
            key, value, owner = keys_with_owners(global_block.attn, normed, layout, rule)
            query = global_block.attn.queries(normed.flatten(1, 2), layout.turn)
            asking = torch.arange(tokens.shape[1]).repeat_interleave(layout.tokens)
            seen = may_see(chunk_of, asking, owner, offers, rule)
            scores = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
            attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
            tokens = global_block.finish(tokens, global_block.attn.proj(attended).unflatten(1, tokens.shape[1:3]))
        else:
            tokens = global_block(tokens.flatten(0, 1), layout.turn).unflatten(0, tokens.shape[:2])
        levels[layer] = torch.cat([inside, tokens], dim=-1)
    return levels


def keys_with_owners(
    attention: Attention, normed: Tensor, layout: FrameLayout, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of all frames, frame by frame, and the frame of each; -1 for the anchor's patches."""
    frames = normed.shape[1]
    parts = []
    if rule.factor > 1:
        patches = torch.arange(layout.special, layout.tokens)
        parts.append((*attention.keys_values(normed[:, 0, layout.special :], layout.turn_at(patches)), -1))
    for frame in range(frames):
        if isinstance(rule, DescriptorsV1) and rule.factor > 1:
            tokens = resize_patches(normed[:, frame : frame + 1], layout, rule.factor)[:, 0]
            parts.append((*attention.keys_values(tokens, corner_turn(layout, rule.factor)), frame))
        else:
            key, value = attention.keys_values(normed[:, frame], layout.turn)
            chosen = corners(layout, rule.factor)
            parts.append((key[:, :, chosen], value[:, :, chosen], frame))
    owner = torch.cat([torch.full((key.shape[2],), frame) for key, _, frame in parts])
    return torch.cat([p[0] for p in parts], dim=2), torch.cat([p[1] for p in parts], dim=2), owner


def corners(layout: FrameLayout, factor: int) -> Tensor:
    """Indices of the special tokens and of the first patch of every cell."""
    rows, columns = layout.rows // factor, layout.columns // factor
    cells = [
        layout.special + (r * layout.rows // rows) * layout.columns + c * layout.columns // columns
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.tensor([*range(layout.special), *cells])


def corner_turn(layout: FrameLayout, factor: int) -> Turn:
    assert layout.turn is not None
    return layout.turn.at(corners(layout, factor))


def may_see(chunk_of: Tensor, asking: Tensor, owner: Tensor, offers: Tensor, rule: Rule) -> Tensor:
    """(queries, keys): True for earlier chunks and the own one, for frames that offer keys, always for the anchor."""
    anchor = owner < 0
    owner = owner.clamp(min=0)
    asking_chunk, owner_chunk = chunk_of[asking][:, None], chunk_of[owner][None]
    visible = asking_chunk >= owner_chunk if rule.remembers else asking_chunk == owner_chunk
    return (visible & offers[owner]) | anchor


@settings(max_examples=40)
@given(st.sampled_from(RULES), chunkings, grids, st.integers(1, 3), st.integers(1, 2))
def test_stream_equals_one_masked_pass(
    rule: Rule, chunking: tuple[int, ...], grid: tuple[int, int], drop_rate: int, batch: int
) -> None:
    images = random_images(batch, sum(chunking), 3, grid[0] * PATCH, grid[1] * PATCH, seed=sum(grid)).double()
    ours = stream_levels(NETWORK, images, chunking, rule, MemoryBudget(drop_rate=drop_rate))
    twin = masked_levels(NETWORK, images, chunking, rule, drop_rate)
    for level in LEVELS:
        torch.testing.assert_close(ours[level], twin[level], **EXACT)


@settings(max_examples=20)
@given(st.integers(2, 3), chunkings, st.tuples(st.integers(3, 6), st.integers(3, 6)), st.integers(1, 2))
def test_projecting_once_equals_projecting_in_every_chunk(
    factor: int, chunking: tuple[int, ...], grid: tuple[int, int], drop_rate: int
) -> None:
    rule = DescriptorsV1(factor)
    images = random_images(1, sum(chunking), 3, grid[0] * PATCH, grid[1] * PATCH).double()
    ours = stream_levels(NETWORK, images, chunking, rule, MemoryBudget(drop_rate=drop_rate))
    published = PublishedStream(NETWORK, rule, drop_rate)
    parts = [published.step(chunk, LEVELS).levels for chunk in images.split(chunking, dim=1)]
    for level in LEVELS:
        torch.testing.assert_close(ours[level], torch.cat([part[level] for part in parts], dim=1), **EXACT)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_one_chunk_equals_one_pass(network: GeometryNetwork, rule: Rule) -> None:
    images = random_images(2, 4, 3, 56, 70).double()
    streamed, _ = network.step(images, DescriptorCache.empty(), rule)
    at_once = network.predict(images, rule)
    torch.testing.assert_close(streamed.encodings, at_once.encodings, **EXACT)
    torch.testing.assert_close(streamed.depth.values, at_once.depth.values, **EXACT)
    torch.testing.assert_close(streamed.depth.confidence, at_once.depth.confidence, **EXACT)


@pytest.mark.parametrize("rule", [DescriptorsV1(2), DescriptorsV2(2, 1, 2)], ids=str)
def test_earlier_chunks_matter_and_later_ones_do_not(network: GeometryNetwork, rule: Rule) -> None:
    """The comparisons above could not fail if no frame saw another."""
    images = random_images(1, 4, 3, 56, 70).double()
    changed = images.clone()
    changed[:, 1] = 1 - changed[:, 1]
    budget = MemoryBudget()
    before, after = (stream_levels(network, x, (2, 2), rule, budget)[DEPTH - 1] for x in (images, changed))
    assert (before - after)[:, 2:].abs().max() > 1e-3
    changed = images.clone()
    changed[:, 3] = 1 - changed[:, 3]
    after = stream_levels(network, changed, (2, 2), rule, budget)[DEPTH - 1]
    torch.testing.assert_close(before[:, :2], after[:, :2], **EXACT)


@pytest.mark.parametrize("rule", [Dense(), DescriptorsV1(2), DescriptorsV2(2, 1, 2)], ids=str)
def test_poses_chunk_by_chunk_come_from_all_frames_so_far_and_the_final_pass_from_all(
    network: GeometryNetwork, rule: Rule
) -> None:
    images = random_images(1, 6, 3, 56, 56).double()
    cache, tokens, delivered = DescriptorCache.empty(), [], []
    for chunk in images.split(2, dim=1):
        prediction, cache = network.step(chunk, cache, rule)
        tokens.append(prediction.camera_tokens)
        assert tokens[-1].untyped_storage().nbytes() == tokens[-1].nbytes  # keeping them costs no more than their size
        delivered.append(prediction.encodings)
        prefix = network.poses(torch.cat(tokens, dim=1))
        torch.testing.assert_close(prediction.encodings, prefix[:, -2:], **EXACT)
    final = network.poses(torch.cat(tokens, dim=1))
    torch.testing.assert_close(cache.camera_tokens, torch.cat(tokens, dim=1), **EXACT)
    assert (final[:, :2] - delivered[0]).abs().max() > 1e-6  # earlier poses move as frames arrive


def test_two_streams_share_one_network(network: GeometryNetwork) -> None:
    rule = DescriptorsV1(2)
    videos = [random_images(1, 4, 3, 56, 56, seed=seed).double() for seed in (1, 2)]
    alone = [stream_levels(network, video, (2, 2), rule, MemoryBudget())[DEPTH - 1] for video in videos]
    caches = [DescriptorCache.empty(), DescriptorCache.empty()]
    for first, last in pairwise((0, 2, 4)):
        for number, video in enumerate(videos):
            aggregated, caches[number] = network.extend(video[:, first:last], caches[number], rule, levels={DEPTH - 1})
            torch.testing.assert_close(aggregated.levels[DEPTH - 1], alone[number][:, first:last], **EXACT)


def test_a_step_does_not_change_its_input_state(network: GeometryNetwork) -> None:
    images = random_images(1, 4, 3, 56, 56).double()
    _, cache = network.step(images[:, :2], DescriptorCache.empty(), DescriptorsV1(2))
    held, kept = cache.bytes, [layer.keys.clone() for layer in cache.layers if layer]
    first, _ = network.step(images[:, 2:], cache, DescriptorsV1(2))
    again, _ = network.step(images[:, 2:], cache, DescriptorsV1(2))
    assert cache.bytes == held
    for before, layer in zip(kept, cache.layers, strict=True):
        assert layer is not None
        assert torch.equal(before, layer.keys)
    assert torch.equal(first.encodings, again.encodings)


def test_another_image_size_needs_a_new_stream(network: GeometryNetwork) -> None:
    _, cache = network.step(random_images(1, 2, 3, 56, 56).double(), DescriptorCache.empty(), DescriptorsV1(2))
    with pytest.raises(SettingsError, match="4 x 4 patches, but the chunk has 1 of 4 x 5"):
        network.step(random_images(1, 2, 3, 56, 70).double(), cache, DescriptorsV1(2))


def test_sides_must_be_whole_patches_and_frames_larger_than_a_descriptor(network: GeometryNetwork) -> None:
    with pytest.raises(SettingsError, match="multiples of 14 px, got 50 x 56"):
        network.predict(random_images(1, 1, 3, 56, 50).double(), Dense())
    with pytest.raises(SettingsError, match="2 x 4 patches are too small for descriptors of 4 x 4"):
        network.predict(random_images(1, 1, 3, 28, 56).double(), DescriptorsV1(4))
