"""Features as COLMAP's database stores them: descriptors as bytes, and keypoints that matched pixels extend."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from recon.sfm.matching import Features

EXACT = np.frombuffer(b"\x93NUMPY", dtype=np.uint8)  # marks descriptors that are not rows of bytes


def descriptors_to_bytes(descriptors: NDArray[Any]) -> NDArray[np.uint8]:
    """Rows of bytes (n, d) as they are; other descriptors as one row (1, bytes) with type and shape."""
    if descriptors.dtype == np.uint8 and descriptors.ndim == 2:
        return descriptors
    file = io.BytesIO()
    np.save(file, descriptors, allow_pickle=False)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)[None]


def descriptors_from_bytes(raw: NDArray[np.uint8]) -> NDArray[Any]:
    """The descriptors given to ``descriptors_to_bytes``."""
    if len(raw) == 1 and np.array_equal(raw[0, : len(EXACT)], EXACT):
        return np.asarray(np.load(io.BytesIO(raw.tobytes()), allow_pickle=False))
    return raw


def require_consistent(features: Features, *, of_images: bool) -> None:
    """Raise ValueError if a matcher returned invalid features. of_images: from an ``ImageMatcher``."""
    keypoints, descriptors = features.keypoints, features.descriptors
    if keypoints.ndim != 2 or keypoints.shape[1] != 4 or not np.isfinite(keypoints).all():
        raise ValueError(f"keypoints must be finite and (n, 4), got {keypoints.shape}")
    if not of_images and len(descriptors) != len(keypoints):
        raise ValueError(f"{len(keypoints)} keypoints need as many descriptors, got {len(descriptors)}")


def rows_of(matches: NDArray[np.integer], first: Features, second: Features) -> NDArray[np.uint32]:
    """The matches (m, 2) of two frames. Raises ValueError if a row is out of range, which would crash COLMAP."""
    counts = [len(first.keypoints), len(second.keypoints)]
    if matches.ndim != 2 or matches.shape[1] != 2 or (matches >= counts).any() or (matches < 0).any():
        raise ValueError(f"matches must be rows (m, 2) of {counts} features, got {matches.shape}")
    return matches.astype(np.uint32, copy=False)


def with_keypoints(
    keypoints: NDArray[np.float32], pixels: NDArray[np.floating], reach: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Keypoints (n, 4), followed by new ones for pixels (m, 2) without a keypoint within ``reach`` [px].

    Also returns each pixel's keypoint row. New pixels in the same square of side ``reach`` share a keypoint at the
    first of them. Raises ValueError if pixels are not finite.
    """
    if pixels.ndim != 2 or pixels.shape[1] != 2 or not np.isfinite(pixels).all():
        raise ValueError(f"matched pixels must be finite and (m, 2), got {pixels.shape}")
    rows = np.full(len(pixels), -1, dtype=np.int64)
    if len(keypoints) and len(pixels):
        distances, nearest = cKDTree(keypoints[:, :2]).query(pixels)
        rows = np.where(distances <= reach, nearest, -1)
    new = np.flatnonzero(rows < 0)
    _, first, square = np.unique(np.floor(pixels[new] / reach), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in the order of the pixels
    added = np.zeros((len(first), 4), dtype=np.float32)
    added[:, :2], added[:, 2] = pixels[new[first[order]]], 1.0
    rows[new] = len(keypoints) + np.argsort(order)[square.ravel()]
    return np.concatenate([keypoints, added]), rows


def one_to_one(rows: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The matches (m, 2) that share no feature with an earlier match."""
    for side in (0, 1):
        _, first = np.unique(rows[:, side], return_index=True)
        rows = rows[np.sort(first)]
    return rows.astype(np.uint32)
