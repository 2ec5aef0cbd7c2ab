"""Learns the projection and the words of ``retrieval.xfeat_vlad``, and measures them by simulated night.

The projection is a linear discriminant analysis of local features: their differences between images and the same images
in other light are to be small, those between points large. Everything is learned from rendered images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.linalg import eigh

from recon.core.files import write_atomically
from recon.core.types import Image
from recon.lab.training.light import relight
from retrieval.benchmark import Recall, recall_at
from retrieval.collection import list_images, read_image
from retrieval.describer import PlaceDescriber
from retrieval.vlad import Features, Vocabulary
from retrieval.xfeat_vlad import DenseXFeat, XFeatVlad, projected

WORDS = 256
DIRECTIONS = 32  # of the 64 dimensions of a feature
RIDGE = 1.0  # added to the covariance by light, as a share of its mean variance
STRENGTH = 1.0  # of the change of light
FULL = 255


@dataclass(frozen=True, eq=False)
class Learned:
    """projection: (64, directions)."""

    projection: Features
    vocabulary: Vocabulary

    def describer(self, dense: DenseXFeat) -> XFeatVlad:
        return XFeatVlad(dense, self.projection, self.vocabulary)

    def save(self, path: Path) -> None:
        """Write a safetensors file. Raises OutputError."""
        arrays = {"projection": self.projection, "words": self.vocabulary.centres}
        write_atomically(path, lambda file: save_file(arrays, file.name))


def learn(images: Sequence[Image], dense: DenseXFeat, seed: int) -> Learned:
    """From images (height, width, 3), deterministic. seed: of the changes of light and of the words."""
    generator = torch.Generator().manual_seed(seed)
    features = np.concatenate([dense.describe(image)[0] for image in images])
    relit = np.concatenate([dense.describe(in_other_light(image, generator))[0] for image in images])
    projection = discriminant(features, features - relit)
    return Learned(projection, Vocabulary.learn(projected(features, projection), WORDS, seed))


def discriminant(features: Features, changes: Features, directions: int = DIRECTIONS) -> Features:
    """The directions (d, directions) in which features (n, d) vary most compared with unwanted changes (n, d), scaled
    such that a change has a variance of about 1 in each.
    """
    unwanted = np.cov(changes.T)
    ridge = RIDGE * np.trace(unwanted) / len(unwanted) * np.eye(len(unwanted))
    _, vectors = eigh(np.cov(features.T), unwanted + ridge)
    return np.ascontiguousarray(vectors[:, -directions:], dtype=np.float32)


def in_other_light(image: Image, generator: torch.Generator) -> Image:
    """An image under another light, lens and sensor, see ``relight``."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / FULL
    changed = relight(pixels, generator, STRENGTH)[0].permute(1, 2, 0)
    return np.asarray((FULL * changed).round().to(torch.uint8).numpy())


def by_night(image: Image, random: np.random.Generator) -> Image:
    """An RGB image as a camera might see it by night: dark, lit by a few lamps, grey, with the noise of few photons,
    and brightened again.
    """
    height, width = image.shape[:2]
    lamps = cv2.resize(random.normal(size=(4, 5)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    linear = ((image / np.float32(FULL)) ** 2.2).mean(axis=2) * np.exp(1.2 * lamps)
    photons = random.poisson(linear * random.uniform(15, 60)) + random.normal(0, 3, linear.shape)
    brightened = np.clip(photons / np.quantile(photons, 0.99), 0, 1) ** (1 / 2.2)
    return np.repeat((FULL * brightened).astype(np.uint8)[..., None], 3, axis=2)


def recall_by_night(describer: PlaceDescriber, folder: Path, every: int, seed: int = 0) -> Recall:
    """Recall of a sequence's places: every ``every``-th image by day is in the database, those half-way between are
    asked for by simulated night, and the two images around one are right.
    """
    random, paths = np.random.default_rng(seed), list_images(folder)
    stored = describer.describe([read_image(path) for path in paths[::every]])
    asked = describer.describe([by_night(read_image(path), random) for path in paths[every // 2 :: every]])
    found = np.argsort(-asked @ stored.T, axis=1, kind="stable")
    offset = np.arange(len(stored)) - np.arange(len(asked))[:, None]
    return recall_at(found, (offset == 0) | (offset == 1), (1, 5))
