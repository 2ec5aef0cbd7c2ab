"""The compact network as a depth stage: posed views in, depth and confidence for every pixel out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon.core.beside import beside
from recon.core.sizes import scaled
from recon.core.stopwatch import stage
from recon.core.types import DepthMap, Mask
from recon.depth.consistency import keep_consistent
from recon.depth.network import Estimate, PosedDepthNet, Sweep
from recon.depth.plane_sweep import FEWEST_POINTS, PlaneSweep, depth_hypotheses, enlarged, select_sources
from recon.depth.stem import EIGHTH, Features
from recon.depth.sweep import Geometry
from recon.depth.views import Depth, DepthStage, PosedView, resized
from recon.depth.weights import load_weights

GOOD = 0.05  # confidence is the probability that the relative error of the depth is below this
HINTED_SOURCES = 1  # with classical depth as a hint, more sources take time without any gain


@dataclass(frozen=True)
class LearnedSweep:
    """Dense depth by the compact network, at every pixel inside the view's mask.

    net: in evaluation mode, on ``device``. sources: neighbouring views compared with each view. best_angle: preferred
    triangulation angle of the neighbours [degrees]. use_sparse: give the network the sparse points, not just their
    depth range. confirm: keep only depth that a second view confirms, as the classical stage does.
    """

    net: PosedDepthNet
    device: torch.device
    sources: int = 4
    best_angle: float = 6.0
    use_sparse: bool = True
    confirm: bool = False

    @stage("learned depth")
    def depth(
        self, views: list[PosedView], solved: Mapping[int, Depth], hints: Mapping[int, Depth] | None = None
    ) -> list[Depth]:
        """Depth of every view, see ``DepthStage``; none for views that share too few points with the others.

        hints: depth known at some pixels, by view index, used like sparse points.
        """
        new = [view for view in views if view.index not in solved]
        neighbours = [select_sources(view, views, self.sources, self.best_angle) for view in new]
        found = dict(solved) | self._estimate(new, neighbours, hints or {})
        if self.confirm:
            checks = [[(other, found[other.index]) for other in chosen] for chosen in neighbours]
            kept = [keep_consistent(view, found[view.index], check) for view, check in zip(new, checks, strict=True)]
            found |= {view.index: depth for view, depth in zip(new, kept, strict=True)}
        return [found[view.index] for view in views]

    def _estimate(
        self, views: list[PosedView], neighbours: list[list[PosedView]], hints: Mapping[int, Depth]
    ) -> dict[int, Depth]:
        """Depth by view index; every image is encoded once."""
        used = {view.index: view for group in (views, *neighbours) for view in group}
        if not used:
            return {}
        size = _padded_size(list(used.values()))
        features = dict(zip(used, beside(lambda view: self._encode(view, size), used.values()), strict=True))
        sparse = (self._sparse(view, hints.get(view.index), size) for view in views)
        jobs = zip(views, neighbours, sparse, strict=True)
        depths = beside(lambda job: self._depth(features, *job), jobs)
        return {view.index: depth for view, depth in zip(views, depths, strict=True)}

    def _encode(self, view: PosedView, size: tuple[int, int]) -> Features:
        with torch.inference_mode():
            return self.net.encode(self._image(view, size))

    def _depth(self, features: dict[int, Features], view: PosedView, sources: list[PosedView], sparse: Tensor) -> Depth:
        if not sources or len(view.sparse) < FEWEST_POINTS:
            nothing = np.zeros(view.mask.shape, np.float32)
            return Depth(nothing, nothing)
        with torch.inference_mode():
            sweep = self._sweep(view, sources, sparse).to(self.device)
            together = Features.stack([features[source.index] for source in sources])
            return _to_depth(view, self.net.estimate(features[view.index], together, sweep))

    def _image(self, view: PosedView, size: tuple[int, int]) -> Tensor:
        """The view's image (1, 3, h, w) in 0..1, padded at the right and bottom to ``size``."""
        image = torch.from_numpy(view.image).to(self.device).permute(2, 0, 1)[None].float() / 255
        padding = (0, size[1] - image.shape[3], 0, size[0] - image.shape[2])
        return functional.pad(image, padding, mode="replicate").contiguous(memory_format=torch.channels_last)

    def _sparse(self, view: PosedView, hint: Depth | None, size: tuple[int, int]) -> Tensor:
        """Known inverse depth (1, 1, h, w), 0 elsewhere."""
        image = _sparse_image(view, size) if self.use_sparse else np.zeros(size, np.float32)
        if hint is not None:
            height, width = (side // EIGHTH * EIGHTH for side in hint.depth.shape)
            centres = slice(EIGHTH // 2, height, EIGHTH), slice(EIGHTH // 2, width, EIGHTH)
            known = (hint.depth[centres] > 0) & (image[centres] == 0)
            image[centres][known] = 1 / hint.depth[centres][known]
        return torch.from_numpy(image)[None, None]

    def _sweep(self, view: PosedView, sources: list[PosedView], sparse: Tensor) -> Sweep:
        view_from_chunk = torch.from_numpy(view.cam_from_chunk)
        source_from_chunk = torch.from_numpy(np.stack([source.cam_from_chunk for source in sources]))
        extent = torch.tensor([[source.mask.shape[::-1] for source in sources]])
        geometry = Geometry.between(
            torch.from_numpy(view.intrinsics)[None],
            torch.from_numpy(np.stack([source.intrinsics for source in sources]))[None],
            (source_from_chunk @ torch.linalg.inv(view_from_chunk))[None],
            extent,
        )
        planes = torch.from_numpy(depth_hypotheses(view, self.net.config.planes))[None].float()
        return Sweep(Geometry(geometry.rotation.float(), geometry.offset.float(), extent), planes, sparse)


@dataclass(frozen=True)
class FilledSweep:
    """The depth of one stage, with its gaps filled by the network, which uses that depth as a hint.

    longest_side: of the network's images [px]. What it fills is smooth, so that larger ones only take time.
    """

    first: DepthStage
    second: LearnedSweep
    longest_side: int = 240

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        """Depth of every view, see ``DepthStage``."""
        first = self.first.depth(views, solved)
        small = [resized(view, scaled((view.mask.shape[1], view.mask.shape[0]), self.longest_side)) for view in views]
        hints = {view.index: _sampled(depth, view) for view, depth in zip(small, first, strict=True)}
        filled = self.second.depth(small, solved, hints)
        return [
            depth if view.index in solved else _filled(depth, other, view.mask)
            for view, depth, other in zip(views, first, filled, strict=True)
        ]


def filled_sweep(weights: Path) -> FilledSweep:
    """The plane sweep, with its gaps filled by the network of a weight file. See ``load_weights`` for errors."""
    device = torch.device("cpu")
    return FilledSweep(PlaneSweep(), LearnedSweep(load_weights(weights, device), device, HINTED_SOURCES))


def _sampled(depth: Depth, view: PosedView) -> Depth:
    """Depth at the size of a smaller view, without values between those of neighbouring pixels."""
    size = view.mask.shape[::-1]
    found, sure = (cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) for part in (depth.depth, depth.confidence))
    return Depth(found.astype(np.float32), sure.astype(np.float32))


def _filled(first: Depth, second: Depth, mask: Mask) -> Depth:
    """``first``, with its gaps inside the mask (h, w) filled by ``second``, which may be smaller."""
    kept = first.depth > 0
    depth = np.where(kept, first.depth, np.where(mask, enlarged(second.depth, mask.shape), 0))
    sure = cv2.resize(second.confidence, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return Depth(depth, np.where(kept, first.confidence, np.where(depth > 0, sure, 0)))


def _padded_size(views: list[PosedView]) -> tuple[int, int]:
    """Smallest height and width, multiples of the coarse map's stride, that fit every view."""
    height, width = (max(view.mask.shape[axis] for view in views) for axis in (0, 1))
    return math.ceil(height / EIGHTH) * EIGHTH, math.ceil(width / EIGHTH) * EIGHTH


def _sparse_image(view: PosedView, size: tuple[int, int]) -> DepthMap:
    """Inverse depth (h, w) at the view's sparse points, 0 elsewhere."""
    image = np.zeros(size, np.float32)
    rows, columns, depth = view.sparse_pixels()
    image[rows, columns] = 1 / depth
    return image


def confidence(log_scale: Tensor) -> Tensor:
    """Probability of a relative error below ``GOOD``, if the log depth's error has a Laplace distribution."""
    return 1 - torch.exp(-math.log1p(GOOD) / log_scale.exp())


def _to_depth(view: PosedView, estimate: Estimate) -> Depth:
    height, width = view.mask.shape
    window = (0, 0, slice(height), slice(width))
    depth = np.where(view.mask, (1 / estimate.inverse_depth[window]).cpu().numpy(), 0)
    sure = np.where(view.mask, confidence(estimate.log_scale[window]).cpu().numpy(), 0)
    return Depth(depth.astype(np.float32), sure.astype(np.float32))
