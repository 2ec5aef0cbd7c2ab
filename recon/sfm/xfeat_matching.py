"""Pretrained local features: XFeat's keypoints, refined to fractions of a pixel, matched by LighterGlue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recon.core.types import Frame
from recon.network.known_weights import read_published
from recon.network.lighterglue import LighterGlue, Points, load_lighterglue
from recon.network.runtime import choose_device
from recon.network.xfeat import CELL, DIM, MULTIPLE, XFeat, load_xfeat
from recon.sfm.matching import Features

KEYPOINTS = 512  # 1,024 take three times as long to match
LIKELY = 0.05  # probability of a keypoint
RIVALS = 5  # px, side of the square in which a keypoint must be the likeliest
LEAST = 1e-6  # probability, of which there is a logarithm


@dataclass(frozen=True, eq=False)
class XFeatMatcher:
    """A ``recon.sfm.matching.Matcher`` for different light and views far apart.

    It also matches what only looks alike, such as the two sides of a printed mug, so that geometry alone does not tell
    a fold: mapping uses it through ``recon.sfm.wide_pairs``.
    """

    network: XFeat
    glue: LighterGlue
    device: torch.device
    keypoints: int = KEYPOINTS

    def describe(self, frame: Frame) -> Features:
        """The ``keypoints`` most reliable features, the best first. Scale and angle are unknown."""
        height, width = frame.image.shape[:2]
        if min(height, width) < MULTIPLE:
            return Features(np.zeros((0, 4), np.float32), np.zeros((0, DIM), np.float32), frame.original_size)
        grey = torch.from_numpy(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)).to(self.device).float()
        with torch.inference_mode():
            found = detect(self.network, grey)
        positions, scores, descriptors = (values.cpu().numpy() for values in found)
        columns, rows = np.minimum(positions.astype(np.int64), (width - 1, height - 1)).T
        free = np.flatnonzero(frame.mask[rows, columns])
        best = free[np.argsort(-scores[free], kind="stable")[: self.keypoints]]
        keypoints = np.ones((len(best), 4), np.float32)
        keypoints[:, :2], keypoints[:, 3] = positions[best] * (frame.original_size[0] / width), 0
        return Features(keypoints, descriptors[best], frame.original_size)

    def match(self, first: Features, second: Features) -> NDArray[np.uint32]:
        if not len(first.keypoints) or not len(second.keypoints):
            return np.zeros((0, 2), np.uint32)
        with torch.inference_mode():
            rows, _ = self.glue(self._points(first), self._points(second))
        return np.asarray(rows.cpu().numpy(), dtype=np.uint32)

    def _points(self, features: Features) -> Points:
        size = np.array(features.size, np.float32)
        positions = (features.keypoints[:, :2] - size / 2) / (size.max() / 2)
        return Points(*(torch.from_numpy(values).to(self.device) for values in (positions, features.descriptors)))


def open_xfeat_matcher(device: str) -> XFeatMatcher:
    """With the installed weights. Raises WeightsError, DependencyError if they are missing, SettingsError."""
    on = choose_device(device)
    network, glue = load_xfeat(read_published("XFeat")), load_lighterglue(read_published("LighterGlue"))
    return XFeatMatcher(network.to(on), glue.to(on), on)


def detect(network: XFeat, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints of a grey image (height, width) of any range, at least 32 px wide and high.

    Returns positions (n, 2), x and y [px]; scores (n,), probability times reliability; descriptors (n, 64) of length 1,
    those at the whole pixel, as the network was trained.
    """
    height, width = (side // MULTIPLE * MULTIPLE for side in grey.shape)
    features, reliability, heat = network.detect(
        functional.interpolate(grey[None, None], (height, width), mode="bilinear")
    )
    peaks = (heat == functional.max_pool2d(heat, RIVALS, 1, RIVALS // 2)) & (heat > LIKELY)
    rows, columns = (peaks[0, 0, 1:-1, 1:-1].nonzero() + 1).unbind(1)  # those on the border have no neighbours
    pixels = torch.stack([columns, rows], dim=1).float()
    scores = heat[0, 0, rows, columns] * _at(reliability, pixels, "bilinear")[:, 0]
    descriptors = functional.normalize(_at(functional.normalize(features), pixels, "bicubic"))
    exact = pixels + 0.5 + torch.stack([_peak(heat[0, 0], rows, columns, *step) for step in ((0, 1), (1, 0))], dim=1)
    return exact * exact.new_tensor([grey.shape[1] / width, grey.shape[0] / height]), scores, descriptors


def _at(maps: Tensor, pixels: Tensor, method: str) -> Tensor:
    """Values (n, channels) of maps (1, channels, height / 8, width / 8) at pixels (n, 2), on the grid of the training:
    the first and the last pixel are half a cell outside the centres of the outermost cells.
    """
    last = pixels.new_tensor([maps.shape[3] * CELL - 1, maps.shape[2] * CELL - 1])
    grid = 2 * pixels / last - 1
    return functional.grid_sample(maps, grid[None, None], mode=method, align_corners=False)[0, :, 0].T


def _peak(heat: Tensor, rows: Tensor, columns: Tensor, down: int, right: int) -> Tensor:
    """Offsets (n,) of peaks from their pixels, along one direction: the vertex of a parabola through the logarithms of
    three probabilities, exact for a Gaussian.
    """
    steps = (heat[rows + step * down, columns + step * right] for step in (-1, 0, 1))
    before, at, after = (values.clamp(min=LEAST).log() for values in steps)
    return (before - after) / (2 * (before - 2 * at + after)).clamp(max=-LEAST)
