"""The classical describer on the sample sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from recon.core.errors import MapError
from recon.core.types import Image
from retrieval.dense_sift import DenseSift
from retrieval.describer import normalised
from retrieval.vlad import VladDescriber, Vocabulary, learn_vlad, sketch

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [np.asarray(Pillow.open(path)) for path in sorted(SAMPLE.glob("*.jpg"))[::3]]


@pytest.fixture(scope="module")
def describer(images: list[Image]) -> VladDescriber:
    found = learn_vlad(images)
    assert found is not None
    return found


def test_neighbours_look_more_alike_than_the_other_side_of_the_room(
    images: list[Image], describer: VladDescriber
) -> None:
    descriptors = describer.describe(images)
    assert descriptors.shape == (len(images), describer.dim)
    assert np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    similarity = descriptors @ descriptors.T
    count = len(images)
    next_to = np.mean([similarity[i, (i + 1) % count] for i in range(count)])
    opposite = np.mean([similarity[i, (i + count // 2) % count] for i in range(count)])
    assert next_to > opposite + 0.2


def test_brightness_does_not_matter(images: list[Image], describer: VladDescriber) -> None:
    darker = (images[0] * 0.6).astype(np.uint8)
    pair = describer.describe([images[0], darker])
    assert pair[0] @ pair[1] > 0.8


def test_same_images_give_the_same_describer(images: list[Image], describer: VladDescriber) -> None:
    again = learn_vlad(images)
    assert again is not None
    assert again.name == describer.name
    other = learn_vlad(images[:10])
    assert other is not None
    assert other.name != describer.name


def test_blank_images_give_no_vocabulary(describer: VladDescriber) -> None:
    blank = np.full((60, 80, 3), 128, np.uint8)
    assert learn_vlad([blank]) is None
    assert learn_vlad([]) is None
    assert not describer.describe([blank]).any()


def test_vocabulary_survives_its_file_and_damage_is_named(tmp_path: Path, describer: VladDescriber) -> None:
    path = tmp_path / "vocabulary.npz"
    describer.vocabulary.save(path)
    assert VladDescriber(Vocabulary.load(path)).name == describer.name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MapError, match=r"vocabulary\.npz"):
        Vocabulary.load(path)
    with pytest.raises(MapError, match="absent"):
        Vocabulary.load(tmp_path / "absent.npz")


def test_flat_and_tiny_images_have_few_features() -> None:
    sift = DenseSift()
    assert sift.describe(np.zeros((100, 100, 3), np.uint8)).shape == (0, 128)
    assert sift.describe(np.zeros((5, 5, 3), np.uint8)).shape == (0, 128)
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    features = sift.describe(noise)
    assert len(features)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_sketch_keeps_inner_products() -> None:
    rng = np.random.default_rng(0)
    a = normalised(rng.normal(size=(200, 4100)))
    b = normalised(a + 0.01 * rng.normal(size=a.shape))
    short_a, short_b = sketch(a, 1024), sketch(b, 1024)
    error = (short_a * short_b).sum(axis=1) - (a * b).sum(axis=1)
    assert short_a.shape == (200, 1024)
    assert np.abs(error).mean() < 0.06
    assert abs(error.mean()) < 0.02


def test_masked_pixels_do_not_count(images: list[Image], describer: VladDescriber) -> None:
    """Another picture in the masked half gives the same descriptor; without the mask it does not."""
    first = images[0]
    second, mask = first.copy(), np.ones(first.shape[:2], bool)
    second[:, 320:], mask[:, 320:] = images[10][:, 320:], False
    whole, masked = describer.describe([first, second]), describer.describe([first, second], [mask, mask])
    assert whole[0] @ whole[1] < 0.9
    assert masked[0] @ masked[1] > 0.99
    assert len(DenseSift().describe(first, ~np.ones_like(mask))) == 0
