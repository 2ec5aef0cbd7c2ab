"""Anchor frames of a single pass."""

from __future__ import annotations

import torch

from recon.network.config import DescriptorsV1
from recon.network.keyframes import choose_keyframes, k_means
from recon.network.model import GeometryNetwork
from tests.network_support import random_images


def clusters(sizes: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Frame means (1, frames, 4) in tight groups far from each other."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.randn(len(sizes), 4, generator=generator)
    groups = [centres[k] + 0.1 * torch.randn(size, 4, generator=generator) for k, size in enumerate(sizes)]
    return torch.cat(groups)[None]


def test_frame_0_and_one_frame_per_cluster() -> None:
    chosen = choose_keyframes(clusters((4, 3, 5)), every=4)
    assert chosen.indices.shape == (1, 4)
    first, *others = chosen.indices[0].tolist()
    assert first == 0
    groups = [0] * 4 + [1] * 3 + [2] * 5
    assert sorted(groups[frame] for frame in others) == [0, 1, 2]


def test_few_frames_have_one_anchor() -> None:
    chosen = choose_keyframes(clusters((3, 4)), every=4)
    assert chosen.indices.tolist() == [[0]]
    assert chosen.centres.shape == (1, 0, 4)


def test_the_choice_is_repeatable_and_by_sequence() -> None:
    first, second = clusters((4, 3, 5), seed=1), clusters((3, 6, 3), seed=2)
    together = choose_keyframes(torch.cat([first, second]), every=4).indices
    assert torch.equal(together[:1], choose_keyframes(first, every=4).indices)
    assert torch.equal(together[1:], choose_keyframes(second, every=4).indices)


def test_a_better_clustering_is_not_missed_for_a_bad_start() -> None:
    points = clusters((5, 5, 5, 5), seed=3)[0].double().numpy()
    centres = k_means(points, 4)
    nearest = ((points[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1)
    assert nearest.max() < 1


def test_more_anchors_change_the_result(network: GeometryNetwork) -> None:
    images = random_images(1, 4, 3, 56, 56).double()
    one = network.predict(images, DescriptorsV1(2))
    several = network.predict(images, DescriptorsV1(2), keyframe_every=2)
    assert (one.encodings - several.encodings).abs().max() > 1e-6
