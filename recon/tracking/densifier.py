"""Computes the depth of the newest keyframe of a local map; runs in a process of its own, see ``dense``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recon.core.projection import back_project
from recon.core.similarity import Array
from recon.core.types import Camera, FrameGeometry, Image
from recon.depth.learned import LearnedSweep
from recon.depth.views import Depth, PosedView, pinhole, undistort
from recon.depth.weights import BUNDLED, load_weights
from recon.tracking.dense import LocalView
from recon.tracking.depths import depth_at

SOURCES = 2
SIDE = 240  # longest side of the images [px]
SPACING = 4  # pixels between points: at most 2,700 of a 4:3 image


class Densifier:
    """The learned depth stage alone: at this size, it takes a tenth of a second. Raises ReconError without weights."""

    def __init__(self) -> None:
        device = torch.device("cpu")
        self._stage = LearnedSweep(load_weights(BUNDLED, device), device, SOURCES)

    def points(self, local: Sequence[LocalView]) -> tuple[Array, Image]:
        """Points (n, 3) in the camera of the last view, in the unit of the local map, and their colours (n, 3)."""
        views = [_posed(view) for view in local]
        nothing = Depth(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
        found = self._stage.depth(views, {view.index: nothing for view in views[:-1]})[-1]
        return _sure_points(views[-1], found, local[-1].camera)


def _posed(local: LocalView) -> PosedView:
    intrinsics, _ = pinhole(local.camera, SIDE)
    image, mask = undistort(local.frame, local.camera, SIDE)
    seen = local.seen[local.seen[:, 2] > 0]
    pixels = np.column_stack([seen[:, :2], np.ones(len(seen))]) @ intrinsics.T
    sparse = np.column_stack([pixels[:, :2], seen[:, 2]])
    tracks = local.tracks[local.seen[:, 2] > 0]
    return PosedView(local.frame.index, image, mask, intrinsics, local.cam_from_world, sparse, tracks)


def _sure_points(view: PosedView, found: Depth, camera: Camera) -> tuple[Array, Image]:
    """Some of the pixels that are sure and not at the edge of a surface: points (n, 3) in the camera, and colours."""
    colour, height, width = view.image, *view.mask.shape
    geometry = FrameGeometry(
        view.index, view.cam_from_chunk, camera, view.intrinsics, found.depth, found.confidence, colour
    )
    rows, columns = np.mgrid[SPACING // 2 : height : SPACING, SPACING // 2 : width : SPACING].reshape(2, -1)
    pixels = np.column_stack([columns, rows]) + 0.5
    depth = depth_at(geometry, pixels)
    has = depth > 0
    return back_project(pixels[has], depth[has], view.intrinsics), colour[rows[has], columns[has]]
