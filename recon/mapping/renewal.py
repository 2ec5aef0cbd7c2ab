"""Computes the depth of frames again where the joint adjustment contradicts it.

A chunk's depth follows from the lens and the poses that the chunk has found. The joint adjustment may change them so
much that the depth no longer fits: with a lens a third too long, the scene is a third too deep.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from recon.core.events import Listener, Progress
from recon.core.sizes import scaled
from recon.core.types import DepthMap, Frame, FrameGeometry, SparseModel
from recon.depth.stages import open_depth_stage
from recon.depth.views import Depth, DepthStage, PosedView, known_depth, make_view, posed
from recon.mapping.correction import Renewed, misfit
from recon.mapping.doubts import Doubts, find_doubts
from recon.mapping.world import typical_depth
from recon.settings import DenseDepth
from recon.sources.decoding import UnreadableImage, read_photo
from recon.store.map import ReconstructedMap, frames_in, open_map, rewrite_depth, submap_number
from recon.store.masks import resized_mask

USELESS = 0.1  # misfit above which no depth is better
AROUND = 12  # frames before and after a submap that its frames are also compared with
OVERSIZE = 2  # of the images that are undistorted, in sizes of the depth


def renew_depth(folder: Path, frames: Collection[int], kind: DenseDepth, tell: Listener, views: int = 1) -> Renewed:
    """Compute the depth of ``frames`` again from their images, with the poses and lenses of the map in ``folder``.

    Where the new depth fits the sparse points no better, the old one stays; where both are useless, there is none.
    views: frames of a shot.
    Raises MapError and OutputError.
    """
    renewal = _Renewal(open_map(folder), open_depth_stage(kind, tell))
    depths, doubts, left = dict[int, float](), dict[int, Doubts](), set(frames)
    for path in renewal.map.submap_files:
        added = frames_in(path)
        chosen = left.intersection(added)
        if not chosen:
            continue
        found = renewal.compute(chosen, added, left)
        rewrite_depth(path, found)
        left -= chosen
        depths.update((frame.index, typical_depth(frame)) for frame in found)
        doubts[submap_number(path)] = renewal.doubts(added, views)
        tell(Progress("depth", len(frames) - len(left), len(frames)))
    return Renewed(depths, doubts, tuple(renewal.unread))


class _Renewal:
    """A map whose depth is computed again, submap by submap."""

    def __init__(self, reconstruction: ReconstructedMap, stage: DepthStage) -> None:
        self.map, self._stage = reconstruction, stage
        self.unread: list[str] = []
        self._placed = {frame.index: frame for frame in reconstruction.frames}
        self._order = sorted(self._placed)
        poses = {frame.index: frame.cam_from_world for frame in reconstruction.frames}
        cameras = {frame.index: frame.camera for frame in reconstruction.frames}
        self._model = SparseModel(poses, cameras, reconstruction.points)

    def compute(self, chosen: Collection[int], added: Sequence[int], stale: Collection[int]) -> list[FrameGeometry]:
        """New depth of the ``chosen`` frames of a submap that ``added`` them. stale: frames whose depth is not used."""
        before = {geometry.index: geometry for geometry in self._around(added)}
        new = ((index, self._new_view(before[index])) for index in sorted(chosen) if index in before)
        views = {index: view for index, view in new if view}
        own = [one for one in before.values() if one.index not in stale and not one.propagated]
        solved = [self._in_world(geometry) for geometry in own]
        known = {geometry.index: known_depth(geometry) for geometry in solved}
        others = [self._stored_view(geometry) for geometry in solved]
        together = sorted([*views.values(), *others], key=lambda view: view.index)
        depths = dict(zip((view.index for view in together), self._stage.depth(together, known), strict=True))
        return [self._better(before[index], view, depths[index]) for index, view in sorted(views.items())]

    def doubts(self, added: Sequence[int], views: int) -> Doubts:
        """Doubts about the frames that a submap added, after the one before."""
        return find_doubts([self._in_world(geometry) for geometry in self._around(added, before=1, after=0)], views)

    def _around(self, added: Sequence[int], before: int = AROUND, after: int = AROUND) -> list[FrameGeometry]:
        """The frames that a submap added, and some before and after them, in source order."""
        first, last = (int(place) for place in np.searchsorted(self._order, [min(added), max(added)]))
        near = self._order[max(0, first - before) : last + 1 + after]
        return sorted((geometry for _, geometry in self.map.geometry(near)), key=lambda geometry: geometry.index)

    def _in_world(self, geometry: FrameGeometry) -> FrameGeometry:
        """A frame's geometry with its pose and depth in the world."""
        placed = self._placed[geometry.index]
        depth = (geometry.depth * placed.world_from_cam.scale).astype(np.float32)
        return replace(geometry, cam_from_chunk=placed.cam_from_world, depth=depth)

    def _stored_view(self, geometry: FrameGeometry) -> PosedView:
        whole = np.ones(geometry.depth.shape, np.bool_)
        return posed(geometry.index, geometry.colour, whole, geometry.intrinsics, self._model)

    def _new_view(self, geometry: FrameGeometry) -> PosedView | None:
        """The view of a frame's original, with the lens that it has now; None if the image cannot be read."""
        placed, side = self._placed[geometry.index], max(geometry.depth.shape)
        path = self.map.images / placed.name
        try:
            original = read_photo(path).pixels
        except UnreadableImage as error:
            self.unread.append(f"{path}: {error}")
            return None
        height, width = original.shape[:2]
        if (width, height) != (placed.camera.width, placed.camera.height):
            self.unread.append(f"{path} has changed")
            return None
        size = scaled((width, height), OVERSIZE * side)
        image = np.asarray(cv2.resize(original, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        mask = resized_mask(self.map.folder, placed.index, image.shape[:2])
        frame = Frame(placed.index, placed.timestamp, image, placed.name, (width, height), "", 0.0, mask)
        return make_view(frame, self._model, side)

    def _better(self, old: FrameGeometry, view: PosedView, new: Depth) -> FrameGeometry:
        """Of the old and the new depth of a frame, the one that fits its points better, in the unit of its chunk."""
        scale = self._placed[old.index].world_from_cam.scale
        was, now = _misfit(self._stored_view(old), self._in_world(old).depth), _misfit(view, new.depth)
        best = old
        if now < was:
            depth = (new.depth / scale).astype(np.float32)
            best = replace(old, intrinsics=view.intrinsics, depth=depth, confidence=new.confidence, colour=view.image)
            best = replace(best, propagated=False)
        if min(now, was) > USELESS:
            nothing = np.zeros_like(best.depth)
            best = replace(best, depth=nothing, confidence=nothing)
        return best


def _misfit(view: PosedView, depth: DepthMap) -> float:
    """See ``misfit``; depth (h, w) in the unit of the view's points."""
    rows, columns, sparse = view.sparse_pixels()
    return misfit(depth[rows, columns], sparse)
