"""Finds the axes that ``recon.sfm.matching`` projects SIFT descriptors on, from images that the project ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.core.bundled import sample_folder
from recon.core.files import write_atomically
from recon.core.similarity import Array
from recon.core.types import Frame
from recon.sfm.matching import SiftMatcher
from recon.sources import open_source
from recon.sources.base import SourceOptions

AXES = 64
EVERY = 6  # frames of the sample


def sample_descriptors() -> Array:
    """The descriptors (n, 128) of every EVERY-th frame of the sample."""
    frames = open_source(str(sample_folder() / "images"), SourceOptions(every=EVERY))
    return np.concatenate([SiftMatcher().describe(frame).descriptors for frame in frames if isinstance(frame, Frame)])


def principal_axes(descriptors: Array, count: int = AXES) -> Array:
    """The axes (d, count) that hold most of the squares of descriptors (n, d), the greatest first.

    The mean is not removed, so that products along the axes approximate those of the descriptors.
    """
    _, vectors = np.linalg.eigh(descriptors.T.astype(np.float64) @ descriptors)
    return np.asarray(vectors[:, ::-1][:, :count])


def write_axes(path: Path) -> None:
    """Write the axes as half-precision numbers. Raises OutputError."""
    axes = principal_axes(sample_descriptors()).astype(np.float16)
    write_atomically(path, lambda file: np.save(file, axes))
