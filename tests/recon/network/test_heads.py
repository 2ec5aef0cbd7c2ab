"""Heads and activations, beyond the reference outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.network import aggregator
from recon.network.activations import CONFIDENCE, DENSE, POSE
from recon.network.config import AggregatorConfig, Dense, DptConfig, TrackerConfig, TrackHeadConfig
from recon.network.correlation import CorrelationPyramid, sample
from recon.network.dpt_head import FRAMES_AT_ONCE, sine_positions
from recon.network.model import GeometryNetwork
from recon.network.track_head import waves
from tests.network_support import DEPTH, DIM, SMALL, random_images, random_network


def test_frames_of_dense_heads_do_not_see_each_other(network: GeometryNetwork) -> None:
    """More frames than are computed together give the same as each frame alone."""
    images = random_images(1, FRAMES_AT_ONCE + 3, 3, 42, 56).double()
    aggregated = network.aggregate(images, Dense(), levels=network.levels_read())
    assert network.depth_head is not None
    together = network.depth_head(aggregated.levels, aggregated.layout).values
    for frame in (0, FRAMES_AT_ONCE, FRAMES_AT_ONCE + 2):
        alone = {level: tokens[:, frame : frame + 1] for level, tokens in aggregated.levels.items()}
        values = network.depth_head(alone, aggregated.layout).values
        torch.testing.assert_close(together[:, frame : frame + 1], values, rtol=0, atol=1e-12)


def test_frames_are_embedded_alike_however_many_at_once(
    network: GeometryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(1, 5, 3, 42, 56).double()
    together = network.aggregator.embed(images, start=True).tokens
    monkeypatch.setattr(aggregator, "FRAMES_AT_ONCE", 2)
    torch.testing.assert_close(network.aggregator.embed(images, start=True).tokens, together, rtol=0, atol=1e-12)


def test_depth_is_positive_and_confidence_above_one(network: GeometryNetwork) -> None:
    prediction = network.predict(random_images(1, 2, 3, 42, 56).double(), Dense())
    assert prediction.depth.values.shape == (1, 2, 42, 56, 1)
    assert prediction.depth.values.min() > 0
    assert prediction.depth.confidence.min() > 1
    assert prediction.points is None


def test_fields_of_view_are_never_negative(network: GeometryNetwork) -> None:
    encodings = network.poses(10 * torch.randn(1, 50, 2 * DIM, dtype=torch.float64))
    assert encodings[..., 7:].min() >= 0


def test_activations_by_hand() -> None:
    x = torch.tensor([[-1.0, 0.5, 2.0]], dtype=torch.float64)
    by_hand = {
        "exp": x.exp(),
        "inv_log": [[1 - np.e, np.exp(0.5) - 1, np.exp(2) - 1]],
        "linear": x,
        "relu": [[0, 0.5, 2]],
        "sigmoid": 1 / (1 + (-x).exp()),
        "norm_exp": x / x.norm() * (x.norm().exp() - 1),
        "xy_inv_log": [[-(np.exp(2) - 1), 0.5 * (np.exp(2) - 1), np.exp(2) - 1]],
    }
    assert by_hand.keys() == DENSE.keys()
    for name, expected in by_hand.items():
        np.testing.assert_allclose(DENSE[name](x), expected)  # type: ignore[index]
    np.testing.assert_allclose(CONFIDENCE["expp1"](x), 1 + x.exp())
    np.testing.assert_allclose(CONFIDENCE["expp0"](x), x.exp())
    np.testing.assert_allclose(CONFIDENCE["sigmoid"](x), by_hand["sigmoid"])
    for name in ("linear", "inv_log", "exp", "relu"):
        np.testing.assert_allclose(POSE[name](x), by_hand[name])  # type: ignore[index]


def test_positions_of_pixels_span_the_image_not_the_grid() -> None:
    """Channel 0 is the sine of x at full speed; the image's half diagonal is 1."""
    found = sine_positions(torch.zeros(1, 8, 3, 4, dtype=torch.float64), aspect=4 / 3)
    np.testing.assert_allclose(found[0, 0], np.sin(0.8 * 0.75 * np.linspace(-1, 1, 4)))
    np.testing.assert_allclose(found[4, :, 0], np.sin(0.6 * 2 / 3 * np.linspace(-1, 1, 3)))


def test_samples_between_and_outside_pixels() -> None:
    values = torch.arange(6.0).view(1, 1, 2, 3)
    points = torch.tensor([[[0.5, 0.0], [2.0, 1.0], [-1.0, 0.0]]])
    assert sample(values, points, border=True).flatten().tolist() == [0.5, 5.0, 0.0]
    outside = torch.tensor([[[4.0, 1.0]]])
    assert sample(values, outside, border=True).item() == 5.0
    assert sample(values, outside, border=False).item() == 0.0


def test_correlation_is_largest_at_the_tracked_pixel() -> None:
    features = torch.randn(1, 1, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    place = torch.tensor([[[[5.0, 9.0]]]])
    tracked = features[:, :, :, 9, 5][:, :, None]
    window = CorrelationPyramid(features, levels=1, radius=2).correlate(tracked, place).view(5, 5)
    assert int(window.argmax()) == 12  # the middle
    expected = (tracked[0, 0, 0] @ features[0, 0, :, 9, 6]) / 32**0.5
    torch.testing.assert_close(window[3, 2], expected)  # the slower index moves along x


def test_sine_embeddings_by_hand() -> None:
    found = waves(torch.tensor([0.01, 0.02], dtype=torch.float64), channels=4)
    angles = np.array([0.0, 5.0, 0.0, 10.0])  # frequencies 0 and 2 * 1000 / 4
    np.testing.assert_allclose(found[0::2], np.sin(angles))
    np.testing.assert_allclose(found[1::2], np.cos(angles))


@pytest.mark.parametrize("confidence", [True, False])
def test_tracks_start_at_the_queries(confidence: bool) -> None:
    extractor = DptConfig(2 * DIM, 14, None, features=16, channels=(8, 8, 8, 8), levels=(0, 1, 2, 2), down_ratio=2)
    tracker = TrackerConfig(features=16, iterations=2, confidence=confidence, levels=2, radius=1, hidden=16)
    network = random_network(replace(SMALL, track=TrackHeadConfig(extractor, tracker)))
    images, queries = random_images(1, 3, 3, 56, 56), torch.tensor([[[10.0, 20.0], [30.5, 40.25]]])
    aggregated = network.aggregate(images, Dense(), levels=network.levels_read())
    assert network.track_head is not None
    tracks = network.track_head(aggregated.levels, aggregated.layout, queries)
    assert len(tracks.points) == 2
    assert all(torch.equal(points[:, 0], queries) for points in tracks.points)
    assert tracks.visibility.shape == (1, 3, 2)
    assert (tracks.confidence is not None) == confidence


def test_blocks_can_be_grouped_in_larger_runs_and_in_either_order() -> None:
    images = random_images(1, 2, 3, 42, 42)
    alternating, *others = (
        random_network(replace(SMALL, aggregator=AggregatorConfig(dim=DIM, depth=DEPTH, heads=2, **changes)))
        for changes in ({}, {"block_size": 3}, {"order": ("global", "frame")})
    )
    assert [*others[0].aggregator.schedule()] == [("frame", k) for k in range(3)] + [("global", k) for k in range(3)]
    before = alternating.predict(images, Dense()).encodings
    for network in others:
        assert network.state_dict().keys() == alternating.state_dict().keys()
        assert not torch.allclose(network.predict(images, Dense()).encodings, before)
