"""LighterGlue against the public implementation, with the public weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.core.bundled import LIGHTERGLUE
from recon.core.errors import WeightsError
from recon.network.checkpoints import Checkpoint
from recon.network.known_weights import read_published
from recon.network.lighterglue import LighterGlue, Points, load_lighterglue

# What kornia 0.9.0's LightGlue gives for ``two_views`` with these weights and the published settings: the points
# matched with themselves, and the probabilities. It also drops all but 10 of 40 and 11 of 36 points on the way.
MATCHED = [1, 3, 4, 5, 7, 8, 9, 11, 14, 15]
PROBABILITY = [0.98807, 0.70399, 0.43138, 0.95386, 0.98854, 0.91707, 0.93095, 0.47665, 0.56192, 0.90056]


@pytest.fixture(scope="module")
def network() -> LighterGlue:
    if LIGHTERGLUE.path() is None:
        pytest.skip(f"the weight file of LighterGlue is missing. {LIGHTERGLUE.remedy}")
    return load_lighterglue(read_published("LighterGlue"))


def two_views() -> tuple[Points, Points]:
    """40 points, and 36 of which the first 16 are nearly the same."""
    random = np.random.default_rng(0)
    descriptors = random.normal(size=(40, 64))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    positions = random.uniform(-0.7, 0.7, (40, 2))
    noisy = descriptors[:16] + 0.03 * random.normal(size=(16, 64))
    others, elsewhere = random.normal(size=(20, 64)), random.uniform(-0.7, 0.7, (20, 2))
    return points(positions, descriptors), points(
        np.concatenate([0.9 * positions[:16] + 0.05, elsewhere]), np.concatenate([noisy, others])
    )


def points(positions: NDArray[np.float64], descriptors: NDArray[np.float64]) -> Points:
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Points(*(torch.from_numpy(values.astype(np.float32)) for values in (positions, unit)))


def test_matches_equal_those_of_the_public_code(network: LighterGlue) -> None:
    with torch.inference_mode():
        rows, probability = network(*two_views())
    assert rows.tolist() == [[row, row] for row in MATCHED]
    torch.testing.assert_close(probability, torch.tensor(PROBABILITY), atol=1e-4, rtol=0)


def test_the_order_of_the_images_does_not_matter(network: LighterGlue) -> None:
    first, second = two_views()
    with torch.inference_mode():
        there, back = network(first, second), network(second, first)
    assert torch.equal(there[0], back[0].flip(1))
    torch.testing.assert_close(there[1], back[1], atol=1e-5, rtol=0)


def test_points_of_nothing_known_have_no_match(network: LighterGlue) -> None:
    none = Points(torch.zeros(0, 2), torch.zeros(0, 64))
    with torch.inference_mode():
        for pair in ((two_views()[0], none), (none, none)):
            rows, probability = network(*pair)
            assert rows.shape == (0, 2) and probability.shape == (0,)


def test_a_file_of_another_network_is_named() -> None:
    other = Checkpoint(Path("other.pt"), {"matcher.posenc.Wr.weight": torch.zeros(48, 2)}, None)
    with pytest.raises(WeightsError, match=r"other\.pt does not fit LighterGlue; tensors: \d+ missing"):
        load_lighterglue(other)
