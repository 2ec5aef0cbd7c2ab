"""Learning the projection and the words of xfeat-vlad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.core.bundled import XFEAT, bundled_weights
from recon.core.types import Image
from recon.settings import PlaceSettings
from retrieval.collection import list_images, read_image
from retrieval.lab.place_vocabulary import by_night, discriminant, learn, recall_by_night
from retrieval.xfeat_vlad import VOCABULARY, open_dense_xfeat, open_xfeat_vlad, read_vocabulary
from tests.support import SAMPLE


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_projection_leaves_out_directions_that_change_with_the_light(seed: int) -> None:
    random = np.random.default_rng(seed)
    turned = np.linalg.qr(random.normal(size=(8, 8)))[0].astype(np.float32)
    features = random.normal(size=(2000, 8)).astype(np.float32) @ turned
    changes = (random.normal(size=(2000, 8)) * [9, 9, 9, 9, 0.1, 0.1, 0.1, 0.1]).astype(np.float32) @ turned
    projection = discriminant(features, changes, directions=4)
    steady, fickle = turned[4:] @ projection, turned[:4] @ projection
    assert np.linalg.svd(steady)[1].min() > 10 * np.linalg.svd(fickle)[1].max()
    assert (changes @ projection).var(axis=0).max() < 1.01


def test_the_night_is_grey_and_noisy_and_the_same_for_a_seed() -> None:
    image: Image = np.full((60, 80, 3), 128, np.uint8)
    night, again = (by_night(image, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(night, again) and not np.array_equal(night, by_night(image, np.random.default_rng(4)))
    assert (night == night[..., :1]).all() and 10 < night.std() < 100


def test_the_shipped_vocabulary_has_the_shape_that_learning_gives() -> None:
    projection, vocabulary = read_vocabulary(bundled_weights(VOCABULARY))
    assert (projection.shape, vocabulary.centres.shape) == ((64, 32), (256, 32))
    assert np.isfinite(projection).all()
    assert 0.5 < np.linalg.norm(vocabulary.centres, axis=1).max() < 1  # means of unit vectors


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_learning_is_deterministic_and_its_file_reads_back(tmp_path: Path) -> None:
    dense = open_dense_xfeat(PlaceSettings())
    images = [read_image(path) for path in list_images(SAMPLE / "images")[:2]]
    learned, again = (learn(images, dense, seed=1) for _ in range(2))
    assert learned.describer(dense).name == again.describer(dense).name
    learned.save(tmp_path / "words.safetensors")
    projection, vocabulary = read_vocabulary(tmp_path / "words.safetensors")
    assert np.array_equal(projection, learned.projection)
    assert np.array_equal(vocabulary.centres, learned.vocabulary.centres)


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_recall_by_night_of_a_sequence() -> None:
    found = recall_by_night(open_xfeat_vlad(PlaceSettings()), SAMPLE / "images", every=10)
    assert (found.queries, found.database) == (6, 6)
    assert found.recall[5] == 1 and found.recall[1] >= 0.8
