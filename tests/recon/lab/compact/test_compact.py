"""The whole network: a chunk equals a pass written without a cache, a stream equals that pass with a causal mask."""

import itertools

import pytest
import torch
from torch import Tensor

from recon.core.errors import SettingsError
from recon.lab.compact.compact import CompactCache, CompactConfig, CompactNet, CompactPrediction
from recon.lab.compact.matching import cosines, evidence
from recon.lab.compact.trunk import TrunkConfig, patch_maps
from recon.network.attention import plain_attention
from recon.network.cache import MemoryBudget
from recon.network.descriptors import resize_patches
from recon.network.layers import Block
from recon.network.layout import FrameLayout
from tests.recon.depth.test_network import TINY

TINY_COMPACT = CompactConfig(
    depth=TINY, trunk=TrunkConfig(dim=32, heads=2, registers=1, entry=1, pairs=3), matching=16, place_tokens=2
)
FRAMES = 5


@pytest.fixture(scope="module")
def net() -> CompactNet:
    """With no zero weights, so that every part matters."""
    torch.manual_seed(0)
    net = CompactNet(TINY_COMPACT).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if "temperature" not in name:
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return net


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((2, FRAMES, 3, 48, 64), generator=torch.Generator().manual_seed(1))


def stream(
    net: CompactNet, images: Tensor, chunks: tuple[int, ...], budget: MemoryBudget | None = None
) -> tuple[list[CompactPrediction], CompactCache]:
    predictions, cache = [], CompactCache.empty()
    for chunk in images.split(list(chunks), dim=1):
        prediction, cache = net(chunk, cache, budget or MemoryBudget())
        predictions.append(prediction)
    return predictions, cache


def twin(net: CompactNet, images: Tensor, chunks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Tokens and matching maps of all frames at once; a frame attends to its own chunk and those before."""
    batch, frames = images.shape[:2]
    chunk_of = [number for number, size in enumerate(chunks) for _ in range(size)]
    features = net.depth.encode(images.flatten(0, 1))
    embedded = net.trunk.embed(features.context_sixteenth.unflatten(0, (batch, frames)), start=True)
    tokens, layout = embedded.tokens, embedded.layout
    maps = torch.empty(0)
    for number in range(net.config.trunk.pairs):
        tokens = torch.stack([net.trunk.frame_blocks[number](tokens[:, f], layout.turn) for f in range(frames)], 1)
        tokens = across_plainly(net.trunk.global_blocks[number], tokens, layout, chunk_of)
        if number == 0:
            maps = net.matching(features.context_eighth, patch_maps(tokens, layout)).unflatten(0, (batch, frames))
            tokens = correlated_plainly(net, tokens, maps, layout, chunk_of)
    return tokens, maps


def across_plainly(block: torch.nn.Module, tokens: Tensor, layout: FrameLayout, chunk_of: list[int]) -> Tensor:
    assert isinstance(block, Block)
    normed = block.norm1(tokens)
    patches = torch.arange(layout.special, layout.tokens)
    anchor = block.attn.keys_values(normed[:, 0, layout.special :], layout.turn_at(patches))
    small = resize_patches(normed, layout, 2)
    offered = [
        block.attn.keys_values(small[:, frame], layout.turn_at(layout.sampled(2, tokens.device)))
        for frame in range(tokens.shape[1])
    ]
    done = []
    for frame, chunk in enumerate(chunk_of):
        seen = [anchor, *(offered[other] for other, earlier in enumerate(chunk_of) if earlier <= chunk)]
        keys, values = (torch.cat([part[side] for part in seen], 2) for side in (0, 1))
        attended = plain_attention(block.attn.queries(normed[:, frame], layout.turn), keys, values)
        done.append(block.finish(tokens[:, frame], block.attn.proj(attended.transpose(1, 2).flatten(2))))
    return torch.stack(done, 1)


def correlated_plainly(
    net: CompactNet, tokens: Tensor, maps: Tensor, layout: FrameLayout, chunk_of: list[int]
) -> Tensor:
    tokens, size = tokens.clone(), (maps.shape[3], maps.shape[4])
    for frame, chunk in enumerate(chunk_of):
        others = [other for other, earlier in enumerate(chunk_of) if earlier <= chunk and other != frame]
        partners = sorted(others, key=lambda other: (other != 0, abs(other - frame), other))[:4]
        told = [evidence(cosines(maps[:, frame], maps[:, other]), net.matching.temperature, size) for other in partners]
        added, _ = net.correlation(torch.stack(told, 1))
        tokens[:, frame, layout.special :] += added.flatten(2).mT
    return tokens


@pytest.mark.parametrize("chunks", [(5,), (2, 3), (2, 1, 2)])
def test_a_stream_equals_one_pass_with_a_causal_mask(net: CompactNet, images: Tensor, chunks: tuple[int, ...]) -> None:
    predictions, cache = stream(net, images, chunks)
    tokens, maps = twin(net, images, chunks)
    torch.testing.assert_close(torch.cat([one.maps for one in predictions], 1), maps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cache.descriptors.camera_tokens, tokens[:, :, 0], atol=1e-5, rtol=1e-5)
    encodings = net.camera(tokens[:, :, 0])
    torch.testing.assert_close(predictions[-1].encodings, encodings[:, -chunks[-1] :], atol=1e-5, rtol=1e-5)
    relative = net.relative(tokens[:, -chunks[-1] :, 0], tokens[:, :, 0])
    torch.testing.assert_close(predictions[-1].relative, relative, atol=1e-5, rtol=1e-5)


def test_later_frames_change_nothing_earlier(net: CompactNet, images: Tensor) -> None:
    alone, _ = net(images[:, :2])
    predictions, _ = stream(net, images, (2, 3))
    assert torch.equal(alone.encodings, predictions[0].encodings)
    whole, _ = net(images)
    assert not torch.allclose(alone.encodings, whole.encodings[:, :2], atol=1e-3)


def test_the_first_frame_alone_has_no_partner(net: CompactNet, images: Tensor) -> None:
    predictions, _ = stream(net, images, (1, 4))
    assert predictions[0].correlation is None
    correlation = predictions[1].correlation
    assert correlation is not None
    assert correlation.partners == [[0, 2, 3, 4], [0, 1, 3, 4], [0, 2, 4, 1], [0, 3, 2, 1]]
    assert correlation.scores.shape == (2, 4, 4, 48, 48)
    assert correlation.covisible.shape == (2, 4, 4, 6, 8)


def test_the_budget_bounds_what_is_kept(net: CompactNet, images: Tensor) -> None:
    _, whole = stream(net, images, (2, 3))
    _, cache = stream(net, images, (2, 3), MemoryBudget(frames=3))
    kept = cache.descriptors.frames
    assert len(kept) == 3
    assert kept[0] == 0
    assert kept[-1] == 4
    assert cache.descriptors.length == 5
    assert torch.equal(cache.maps, whole.maps[:, list(kept)])
    assert cache.bytes < whole.bytes
    _, thinned = stream(net, images, (3, 2), MemoryBudget(drop_rate=2))
    assert thinned.descriptors.frames == (0, 2, 3)
    assert thinned.maps.shape[1] == 3


def test_a_place_depends_on_its_image_alone(net: CompactNet, images: Tensor) -> None:
    whole, _ = net(images)
    alone, _ = net(images[:1, 3:4])
    torch.testing.assert_close(whole.places[0, 3], alone.places[0, 0], atol=1e-5, rtol=1e-5)
    assert whole.places.shape == (2, FRAMES, 2 * 32)
    torch.testing.assert_close(whole.places.norm(dim=2), torch.ones(2, FRAMES))


def test_matches_of_an_image_with_itself_stand_still(net: CompactNet, images: Tensor) -> None:
    prediction, _ = net(images[:1, :1].expand(1, 2, -1, -1, -1))
    same = net.match(*net.matchable(prediction, 0), *net.matchable(prediction, 0), least=0.0)
    assert len(same.first) > 20
    assert ((same.first - same.second).abs().amax(1) < 8).float().mean() > 0.9
    assert len(net.matches(prediction, 0, 1, least=2.0).first) == 0


def test_untrained_weights_leave_depth_to_the_stem(images: Tensor) -> None:
    torch.manual_seed(0)
    fresh = CompactNet(TINY_COMPACT).eval()
    with torch.no_grad():
        prediction, _ = fresh(images)
        alone = fresh.depth.encode(images.flatten(0, 1))
        torch.testing.assert_close(prediction.features.context_eighth, alone.context_eighth, atol=1e-5, rtol=1e-5)
    identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1])
    torch.testing.assert_close(prediction.encodings, identity.expand(2, FRAMES, 9))


@pytest.mark.parametrize(("height", "width"), list(itertools.product((40, 48), (24, 72))))
def test_sides_must_fit(net: CompactNet, height: int, width: int) -> None:
    with pytest.raises(SettingsError, match=f"multiples of 16 px and at least 32, got {width} x {height}"):
        net(torch.zeros(1, 1, 3, height, width))


def test_a_stream_keeps_its_size(net: CompactNet, images: Tensor) -> None:
    _, cache = net(images)
    with pytest.raises(SettingsError, match="Start a new stream"):
        net(torch.zeros(2, 1, 3, 64, 64), cache)
