"""A global descriptor without weights: VLAD over a grid of RootSIFT (Jegou et al. 2010; Torii et al. 2015, DenseVLAD).

It recognises a place in similar light and from a similar direction. The vocabulary is learned from the sequence itself,
in seconds. Descriptors of two vocabularies cannot be compared; the name distinguishes them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError, SettingsError
from recon.core.files import write_atomically
from recon.core.types import Image
from recon.settings import PlaceSettings
from retrieval.dense_sift import DenseSift
from retrieval.describer import Descriptors, Masks, normalised
from retrieval.digest import digest_of_arrays

WORDS = 64
ITERATIONS = 12
TRAINING_FEATURES = 40_000
IMAGES_TO_LEARN_FROM = 100
SEED = 0
LENGTH = 2048  # length of the descriptor: 8 KB a frame, so that an hour of frames fits into memory
VOCABULARY_VERSION = 1
Features = NDArray[np.float32]


def sketch(vectors: Features, length: int, seed: int = SEED) -> Features:
    """Vectors (n, d) shortened to (n, length); inner products stay the same within about 1 / sqrt(length). Feature
    hashing (Weinberger et al. 2009): every value is added to one of ``length`` sums, chosen at random, with a random
    sign. Nothing is learned, so a sequence can be described from its first frame.
    """
    rng, dim = np.random.default_rng(seed), vectors.shape[1]
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), dim)
    padding = -dim % length
    dealt = np.pad((vectors * signs)[:, rng.permutation(dim)], ((0, 0), (0, padding)))
    return np.asarray(dealt.reshape(len(vectors), (dim + padding) // length, length).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """centres: (words, d), the typical local features that others are compared with; d is 128 for SIFT."""

    centres: Features

    @classmethod
    def learn(cls, features: Features, words: int = WORDS, seed: int = SEED) -> Vocabulary:
        """K-means over features (n, d), deterministic. Raises ValueError if there are fewer features than words."""
        if len(features) < words:
            raise ValueError(f"a vocabulary of {words} words needs as many features, got {len(features)}")
        rows = np.random.default_rng(seed).permutation(len(features))[:TRAINING_FEATURES]
        chosen = features[rows]
        centres = chosen[:words].copy()
        for _ in range(ITERATIONS):
            nearest = _nearest(chosen, centres)
            sizes = np.bincount(nearest, minlength=words)
            sums = _sums(chosen, nearest, words)
            centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres).astype(np.float32)
        return cls(centres)

    def aggregate(self, features: Features, weights: Features | None = None) -> Features:
        """The differences of one image's features (n, d) from their nearest words, summed by word: (words * d,).

        weights: of the features (n,), None for equal ones. Each word's sum has length 1, so that repeated structure
        does not dominate (Arandjelovic 2013).
        """
        nearest = _nearest(features, self.centres)
        differences = features - self.centres[nearest]
        if weights is not None:
            differences *= weights[:, None]
        residuals = _sums(differences, nearest, len(self.centres))
        return np.asarray(normalised(normalised(residuals).reshape(1, -1))[0])

    def save(self, path: Path) -> None:
        """Write an npz file. Raises OutputError."""
        version = np.int64(VOCABULARY_VERSION)
        write_atomically(path, lambda file: np.savez(file, version=version, centres=self.centres))

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what ``save`` wrote. Raises MapError for a file that is missing, damaged or of another version."""
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["version"]) != VOCABULARY_VERSION:
                    raise ValueError(f"version {int(file['version'])}, this program reads {VOCABULARY_VERSION}")
                centres = np.asarray(file["centres"], dtype=np.float32)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise MapError(
                f"{path} is missing, damaged, or not of version {VOCABULARY_VERSION}. Build the index again."
            ) from error
        if centres.ndim != 2 or not np.isfinite(centres).all():
            raise MapError(f"{path} holds no vocabulary. Build the index again.")
        return cls(centres)


class VladDescriber:
    """Describes images by a vocabulary of dense RootSIFT."""

    def __init__(self, vocabulary: Vocabulary, sift: DenseSift | None = None) -> None:
        self._sift = sift or DenseSift()
        self.vocabulary = vocabulary
        self.name = f"SIFT-VLAD {digest_of_arrays(vocabulary.centres)}"
        self.dim = min(LENGTH, vocabulary.centres.size)

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        pairs = zip(images, masks or repeat(None, len(images)), strict=True)
        rows = [self.vocabulary.aggregate(self._sift.describe(*pair)) for pair in pairs]
        vectors = np.array(rows, dtype=np.float32).reshape(-1, self.vocabulary.centres.size)
        return normalised(sketch(vectors, self.dim))


def learn_vlad(images: Sequence[Image], sift: DenseSift | None = None, masks: Masks = None) -> VladDescriber | None:
    """A describer with a vocabulary from some of the images, evenly chosen; None if they show too little."""
    sift = sift or DenseSift()
    step = max(1, len(images) // IMAGES_TO_LEARN_FROM)
    pairs = list(zip(images, masks or repeat(None, len(images)), strict=True))
    features = [sift.describe(*pair) for pair in pairs[::step]]
    joined = np.concatenate(features) if features else np.zeros((0, 128), np.float32)
    return VladDescriber(Vocabulary.learn(joined), sift) if len(joined) >= WORDS else None


class VladLearner:
    """Learns a vocabulary from the first images that it sees."""

    name = "SIFT-VLAD, learned from the first frames"

    def learn(self, images: Sequence[Image], masks: Masks = None) -> VladDescriber | None:
        return learn_vlad(images, masks=masks)


def open_vlad(settings: PlaceSettings) -> VladLearner:
    """See ``retrieval.describer.PLACE_DESCRIPTORS``. Raises SettingsError if the settings name weights: it has none."""
    if settings.weights:
        raise SettingsError(f"The place descriptor vlad has no weights, got {settings.weights}. Leave them out.")
    return VladLearner()


def _nearest(features: Features, centres: Features) -> NDArray[np.int64]:
    """Row of the nearest centre of every feature."""
    return np.asarray((2 * features @ centres.T - (centres**2).sum(axis=1)).argmax(axis=1), dtype=np.int64)


def _sums(features: Features, groups: NDArray[np.int64], count: int) -> Features:
    """Sums (count, d) of the features (n, d) by group."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((count, features.shape[1]), dtype=np.float32)
    if len(present):
        sums[present] = np.add.reduceat(features[order], starts, axis=0)
    return sums
