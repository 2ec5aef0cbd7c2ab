"""Undistorted, smaller copies of frames with their poses: the input of every dense depth stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera
from recon.core.similarity import Array
from recon.core.sizes import scaled
from recon.core.types import SURE, Camera, DepthMap, Frame, FrameGeometry, Image, Mask, SparseModel


@dataclass(frozen=True, eq=False)
class PosedView:
    """A pinhole image with its pose.

    image: (h, w, 3) uint8 RGB. mask: (h, w), True where usable. intrinsics: (3, 3). cam_from_chunk: (4, 4) rigid.
    sparse: (n, 3): column and row [px] and depth along z of triangulated points seen in the view.
    point_ids: (n,) their numbers, equal in two views that see the same point.
    """

    index: int
    image: Image
    mask: Mask
    intrinsics: Array
    cam_from_chunk: Array
    sparse: Array
    point_ids: NDArray[np.int64]

    def sparse_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Row, column and depth (n,) of the sparse points inside the image."""
        columns, rows = np.floor(self.sparse[:, :2]).astype(np.int64).T
        height, width = self.mask.shape
        inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height) & (self.sparse[:, 2] > 0)
        return rows[inside], columns[inside], self.sparse[inside, 2]


@dataclass(frozen=True, eq=False)
class Depth:
    """depth: (h, w) float32 along z, 0 = none. confidence: (h, w) float32 in 0..1, 0 where there is no depth.

    propagated: whether it is depth of other views, see ``recon.depth.propagation``.
    """

    depth: DepthMap
    confidence: DepthMap
    propagated: bool = False

    def all_sure(self) -> Depth:
        """The same depth with confidence mapped from 0..1 to SURE..1, since another view has confirmed it."""
        confidence = np.where(self.confidence > 0, SURE + (1 - SURE) * self.confidence, 0)
        return Depth(self.depth, confidence.astype(np.float32))


def known_depth(frame: FrameGeometry) -> Depth:
    """The depth that a frame already has."""
    return Depth(frame.depth, frame.confidence, frame.propagated)


class DepthStage(Protocol):
    """Turns posed views into depth: the classical plane sweep, or a learned one."""

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        """Depth of every view, in the unit of the poses and in the order of the views.

        solved: known depth of some views, by index; it stays unchanged.
        """
        ...


def pinhole(camera: Camera, longest_side: int) -> tuple[Array, tuple[int, int]]:
    """Intrinsics (3, 3) and (width, height) of the undistorted, smaller image of a camera."""
    width, height = scaled((camera.width, camera.height), longest_side)
    return camera.matrix_at(width, height), (width, height)


def frame_geometry(view: PosedView, depth: Depth, camera: Camera) -> FrameGeometry:
    """A view and its depth as the result for a frame. camera: the lens at the original resolution."""
    return FrameGeometry(
        index=view.index,
        cam_from_chunk=view.cam_from_chunk,
        camera=camera,
        intrinsics=view.intrinsics,
        depth=depth.depth,
        confidence=depth.confidence,
        colour=view.image,
        propagated=depth.propagated,
    )


def relative_projection(view: PosedView, source: PosedView) -> tuple[Array, Array]:
    """A (3, 3) and b (3,): the source sees a pixel of the view at A pixel + b / depth, homogeneous."""
    source_from_view = source.cam_from_chunk @ np.linalg.inv(view.cam_from_chunk)
    rotation = source.intrinsics @ source_from_view[:3, :3] @ np.linalg.inv(view.intrinsics)
    return rotation, source.intrinsics @ source_from_view[:3, 3]


def halved(view: PosedView) -> PosedView:
    """The same view at half its size, rounded up."""
    height, width = view.mask.shape
    return resized(view, ((width + 1) // 2, (height + 1) // 2))


def resized(view: PosedView, size: tuple[int, int]) -> PosedView:
    """The same view at another (width, height), at most its own."""
    height, width = view.mask.shape
    scale = np.array([size[0] / width, size[1] / height, 1.0])
    return replace(
        view,
        image=np.asarray(cv2.resize(view.image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8),
        mask=cv2.resize(view.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0,
        intrinsics=np.diag(scale) @ view.intrinsics,
        sparse=view.sparse * scale,
    )


def undistort(frame: Frame, camera: Camera, longest_side: int) -> tuple[Image, Mask]:
    """The frame's image (h, w, 3) and mask (h, w) as the pinhole of ``camera`` sees them."""
    height, width = frame.image.shape[:2]
    columns, rows = _pixel_maps(camera, longest_side, width, height)
    reduction = max(width, height) / longest_side
    # Remapping reads single pixels, so strong reduction aliases without a blur.
    image = cv2.GaussianBlur(frame.image, (0, 0), 0.4 * reduction) if reduction > 1.3 else frame.image
    colour = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (columns >= 0) & (rows >= 0) & (columns <= width - 1) & (rows <= height - 1)
    usable = cv2.remap(frame.mask.astype(np.uint8), columns, rows, cv2.INTER_NEAREST) > 0
    return np.asarray(colour, dtype=np.uint8), np.asarray(inside & usable)


def make_view(frame: Frame, model: SparseModel, longest_side: int) -> PosedView:
    """The frame's pinhole view with the sparse points it sees."""
    camera = model.cameras[frame.index]
    intrinsics, _ = pinhole(camera, longest_side)
    return posed(frame.index, *undistort(frame, camera, longest_side), intrinsics, model)


def posed(index: int, image: Image, mask: Mask, intrinsics: Array, model: SparseModel) -> PosedView:
    """The view of a pinhole image with the pose of frame ``index`` and the sparse points that it sees."""
    cam_from_model = model.cam_from_model[index]
    ids = model.points.point_ids[model.points.frame_indices == index]
    points_cam = model.points.positions[ids] @ cam_from_model[:3, :3].T + cam_from_model[:3, 3]
    in_front = points_cam[:, 2] > 1e-6
    points_cam, ids = points_cam[in_front], ids[in_front]
    pixels = points_cam @ intrinsics.T
    sparse = np.column_stack([pixels[:, :2] / pixels[:, 2:], points_cam[:, 2]])
    return PosedView(index, image, mask, intrinsics, cam_from_model, sparse, ids)


@lru_cache(maxsize=8)
def _pixel_maps(
    camera: Camera, longest_side: int, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of every pinhole pixel in a width x height copy of the original; 0 is a pixel centre."""
    intrinsics, (out_width, out_height) = pinhole(camera, longest_side)
    rows, columns = np.mgrid[:out_height, :out_width] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
    pixels = np.asarray(colmap_camera(camera).img_from_cam(rays)).reshape(out_height, out_width, 2)
    pixels = np.nan_to_num(pixels, nan=-1e6) * [width / camera.width, height / camera.height] - 0.5
    return pixels[..., 0].astype(np.float32), pixels[..., 1].astype(np.float32)
