"""The memory of a stream: bounded and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.core.errors import SettingsError
from recon.network.cache import MEBIBYTE, DescriptorCache, MemoryBudget
from recon.network.config import Dense, DescriptorsV1, Rule
from recon.network.eviction import camera_distances, evict, farthest_points
from recon.network.model import GeometryNetwork
from tests.network_support import RULES, random_images, random_network

V1 = DescriptorsV1(2)
NETWORK = random_network()


def run(
    network: GeometryNetwork, frames: int, rule: Rule, budget: MemoryBudget, keyframes: frozenset[int] = frozenset()
) -> list[DescriptorCache]:
    """The states after each chunk of two frames."""
    cache, states = DescriptorCache.empty(), []
    for chunk in random_images(1, frames, 3, 56, 56).split(2, dim=1):
        mine = [frame - cache.length for frame in keyframes if 0 <= frame - cache.length < 2]
        _, cache = network.step(chunk, cache, rule, budget, mine)
        states.append(cache)
    return states


@settings(max_examples=15)
@given(st.integers(1, 6), st.sampled_from(RULES))
def test_frames_are_bounded_and_the_anchor_stays(allowed: int, rule: Rule) -> None:
    states = run(NETWORK, 10, rule, MemoryBudget(frames=allowed))
    for state in states:
        assert len(state.frames) <= allowed
        assert state.frames[0] == 0
        assert list(state.frames) == sorted(set(state.frames))
        expected = state.anchor_tokens + len(state.frames) * state.tokens_per_frame
        assert {held for held in state.tokens_held() if held} <= {expected}
    assert states[-1].length == 10


def test_bytes_are_those_of_the_tensors_and_bounded_by_the_budget() -> None:
    unlimited = run(NETWORK, 10, V1, MemoryBudget())
    last = unlimited[-1]
    by_hand = sum(layer.keys.numel() + layer.values.numel() for layer in last.layers if layer) * 4
    assert last.bytes == by_hand + last.camera_tokens.numel() * 4
    assert [state.bytes for state in unlimited] == sorted({state.bytes for state in unlimited})
    limit = 0.6 * last.bytes / MEBIBYTE
    for state in run(NETWORK, 10, V1, MemoryBudget(mebibytes=limit)):
        assert state.bytes <= limit * MEBIBYTE
        own = sum(x.untyped_storage().nbytes() for layer in state.layers if layer for x in (layer.keys, layer.values))
        assert own + state.camera_tokens.untyped_storage().nbytes() == state.bytes  # no view keeps more alive


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_view_keeps_more_alive_in_an_unlimited_stream(rule: Rule) -> None:
    state = run(NETWORK, 4, rule, MemoryBudget())[-1]
    own = sum(x.untyped_storage().nbytes() for layer in state.layers if layer for x in (layer.keys, layer.values))
    assert own + state.camera_tokens.untyped_storage().nbytes() == state.bytes


@pytest.mark.parametrize("budget", [MemoryBudget(frames=8), MemoryBudget(mebibytes=100.0)], ids=str)
def test_a_budget_that_is_not_reached_changes_nothing(budget: MemoryBudget) -> None:
    limited, unlimited = (run(NETWORK, 8, V1, chosen)[-1] for chosen in (budget, MemoryBudget()))
    assert limited.frames == unlimited.frames == tuple(range(8))
    for ours, theirs in zip(limited.layers, unlimited.layers, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_keyframes_and_the_newest_frame_outlive_others() -> None:
    keyframes = frozenset({3, 4})
    states = run(NETWORK, 12, V1, MemoryBudget(frames=4), keyframes)
    assert states[-1].frames == (0, 3, 4, 11)
    assert states[-1].keyframes == keyframes
    tight = run(NETWORK, 12, V1, MemoryBudget(frames=2), keyframes)[-1]
    assert len(tight.frames) == 2
    assert tight.frames[0] == 0


def test_frames_similar_to_others_are_evicted_first() -> None:
    """Frames 1 to 3 are repeated at the end; with room for all but the repeats, the repeats are evicted."""
    images = random_images(1, 6, 3, 56, 56)
    repeated = torch.cat([images, images[:, 1:4]], dim=1)
    _, cache = NETWORK.step(repeated, DescriptorCache.empty(), Dense())
    kept = evict(cache, MemoryBudget(frames=6)).frames
    groups = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 1, 7: 2, 8: 3}
    assert sorted(groups[frame] for frame in kept) == [0, 1, 2, 3, 4, 5]


def test_farthest_points_by_hand() -> None:
    places = np.array([0.0, 0.1, 5.0, 5.1, 9.0])
    distances = np.abs(places[:, None] - places[None])
    assert farthest_points(distances, [0], range(5), 3) == [0, 4, 2]
    assert farthest_points(distances, [0, 1], [3], 5) == [0, 1, 3]
    assert farthest_points(np.zeros((3, 3)), [0], range(3), 2) == [0, 1]  # of equals the earlier


def test_camera_distances_ignore_length() -> None:
    tokens = torch.tensor([[[1.0, 0], [3.0, 0], [0, 2.0], [-1.0, 0]]])
    np.testing.assert_allclose(camera_distances(tokens)[0], [0, 0, 1, 2], atol=1e-12)


def test_evicted_frames_change_later_results_and_kept_ones_stay_the_same() -> None:
    full = run(NETWORK, 6, V1, MemoryBudget())[-1]
    rows = [0, 3, 5]
    kept = full.keep(rows)
    assert kept.frames == (0, 3, 5)
    for before, after in zip(full.layers, kept.layers, strict=True):
        assert before is not None
        assert after is not None
        patches = full.anchor_tokens
        assert torch.equal(after.keys[:, :, :patches], before.keys[:, :, :patches])
        by_frame = before.values[:, :, patches:].unflatten(2, (6, -1))
        assert torch.equal(after.values[:, :, patches:].unflatten(2, (3, -1)), by_frame[:, :, rows])
    chunk = random_images(1, 2, 3, 56, 56, seed=9)
    assert not torch.allclose(NETWORK.step(chunk, full, V1)[0].encodings, NETWORK.step(chunk, kept, V1)[0].encodings)


def test_the_drop_rate_keeps_one_in_n_frames_of_a_chunk() -> None:
    cache = DescriptorCache.empty()
    for chunk in random_images(1, 10, 3, 56, 56).split(5, dim=1):
        _, cache = NETWORK.step(chunk, cache, V1, MemoryBudget(drop_rate=2))
    assert cache.frames == (0, 2, 4, 5, 7, 9)
    assert cache.length == 10
    _, cache = NETWORK.step(random_images(1, 5, 3, 56, 56), cache, V1, MemoryBudget(drop_rate=2), keyframes=(1, 2))
    assert cache.keyframes == {12}  # frame 11 offers nothing that could be kept


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"mebibytes": 0.0}, {"mebibytes": -1.0}, {"drop_rate": 0}])
def test_impossible_budgets_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="positive numbers"):
        MemoryBudget(**wrong)


def test_budget_smaller_than_the_anchor_says_what_it_needs() -> None:
    with pytest.raises(SettingsError, match=r"0\.001 MiB does not hold the first frame"):
        run(NETWORK, 2, V1, MemoryBudget(mebibytes=0.001))
