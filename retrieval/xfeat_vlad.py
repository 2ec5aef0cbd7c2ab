"""A global descriptor of pretrained local features: VLAD over dense XFeat, for places in other light.

Each feature is projected to the directions that tell points apart and change little with the light, by linear
discriminant analysis. The projection and the words come with the program (``retrieval.lab.place_vocabulary`` learns
them), so that the first frame of a run can be described. A collection of enough images learns words of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recon.core.bundled import bundled_weights
from recon.core.errors import WeightsError
from recon.core.types import Image, Mask
from recon.network.known_weights import read_published
from recon.network.runtime import choose_device
from recon.network.xfeat import CELL, DIM, MULTIPLE, XFeat, load_xfeat
from recon.settings import PlaceSettings
from retrieval.describer import Descriptors, Masks, normalised
from retrieval.digest import digest_of_arrays
from retrieval.vlad import Features, Vocabulary, sketch

VOCABULARY = "place-vocabulary.safetensors"
SIDE = 640  # px, longest side at which images are described; 960 and 448 measured worse, and so did both with 640
LENGTH = 4096  # length of the descriptor, 16 KB
CONTRAST = 1.0  # grey levels: an image that deviates less from its mean is blank
WHOLLY = 1 - 1e-3  # the weights of a resampled pixel add up to 1 but for rounding


@dataclass(frozen=True, eq=False)
class DenseXFeat:
    """XFeat's features of whole images on a device."""

    network: XFeat
    device: torch.device

    def describe(self, image: Image, mask: Mask | None = None) -> tuple[Features, Features]:
        """Features (n, 64) of length 1 and their reliability (n,) in 0..1, one per cell of 8 x 8 px of an RGB image
        (height, width, 3) resized to ``SIDE``; none of a blank image.

        mask: (height, width), True where the image may be used. The rest is painted over with the mean, so that it has
        no influence, and its cells and their neighbours are left out.
        """
        size = _working_size(image)
        grey = _resized(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size)
        free = np.ones(grey.shape, dtype=bool) if mask is None else _resized(mask, size) > WHOLLY
        if not free.any() or grey[free].std() < CONTRAST:
            return np.zeros((0, DIM), np.float32), np.zeros(0, np.float32)
        grey[~free] = grey[free].mean()
        with torch.inference_mode():
            found, trust = self.network(torch.from_numpy(grey)[None, None].to(self.device))
        kept = _free_cells(free)
        features = found[0].permute(1, 2, 0).cpu().numpy()[kept]
        return normalised(features), np.asarray(trust[0, 0].cpu().numpy()[kept])


class XFeatVlad:
    """Describes images by words of projected XFeat features.

    projection: (64, d). vocabulary: words of the projected features (words, d). The more reliable a feature, the more
    it counts. Implements ``retrieval.describer.WordDescriber``.
    """

    dim = LENGTH

    def __init__(self, dense: DenseXFeat, projection: Features, vocabulary: Vocabulary) -> None:
        self._dense, self._projection, self.vocabulary = dense, projection, vocabulary
        self.name = f"XFeat-VLAD {digest_of_arrays(projection, vocabulary.centres)}"

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        pairs = zip(images, masks or repeat(None, len(images)), strict=True)
        rows = np.array([self._aggregated(*pair) for pair in pairs], dtype=np.float32)
        return normalised(sketch(rows.reshape(-1, self.vocabulary.centres.size), self.dim))

    def with_vocabulary(self, vocabulary: Vocabulary) -> XFeatVlad:
        return XFeatVlad(self._dense, self._projection, vocabulary)

    def with_words_of(self, images: Iterable[Image]) -> XFeatVlad:
        found = [self._dense.describe(image)[0] for image in images]
        words, features = len(self.vocabulary.centres), np.concatenate([np.zeros((0, DIM), np.float32), *found])
        if len(features) < words:
            return self
        return self.with_vocabulary(Vocabulary.learn(projected(features, self._projection), words))

    def _aggregated(self, image: Image, mask: Mask | None) -> Features:
        features, reliability = self._dense.describe(image, mask)
        return self.vocabulary.aggregate(projected(features, self._projection), np.sqrt(reliability))


def projected(features: Features, projection: Features) -> Features:
    """Features (n, 64) in the directions of a projection (64, d), of length 1: (n, d)."""
    return normalised(features @ projection)


def open_dense_xfeat(settings: PlaceSettings) -> DenseXFeat:
    """XFeat with the weights that the settings name, or those of its package. Raises WeightsError, DependencyError for
    missing ones, SettingsError.
    """
    network, device = load_xfeat(read_published(settings.weights or "XFeat")), choose_device(settings.device)
    return DenseXFeat(network.to(device), device)


def open_xfeat_vlad(settings: PlaceSettings) -> XFeatVlad:
    """See ``retrieval.describer.PLACE_DESCRIPTORS``. Raises WeightsError, DependencyError, SettingsError."""
    return XFeatVlad(open_dense_xfeat(settings), *read_vocabulary(bundled_weights(VOCABULARY)))


def read_vocabulary(path: Path) -> tuple[Features, Vocabulary]:
    """The projection and the words in a file. Raises WeightsError if it is missing or damaged."""
    try:
        arrays = load_file(path)
        return arrays["projection"], Vocabulary(arrays["words"])
    except (OSError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}). Install the program again.") from error


def _working_size(image: Image) -> tuple[int, int]:
    """Width and height [px] with a longest side of about ``SIDE``, both multiples of what the network takes."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width) / MULTIPLE
    return max(1, round(width * scale)) * MULTIPLE, max(1, round(height * scale)) * MULTIPLE


def _resized(pixels: NDArray[Any], size: tuple[int, int]) -> Features:
    """One channel (height, width) at a size (width, height) as float."""
    method = cv2.INTER_AREA if size[0] < pixels.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels.astype(np.float32), size, interpolation=method), dtype=np.float32)


def _free_cells(free: Mask) -> Mask:
    """Which cells (height / 8, width / 8) and their neighbours have no hidden pixel."""
    height, width = free.shape
    whole = free.reshape(height // CELL, CELL, width // CELL, CELL).all(axis=(1, 3)).astype(np.uint8)
    return np.asarray(cv2.erode(np.asarray(whole), np.ones((3, 3), np.uint8)) == 1)
