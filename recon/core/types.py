"""The data that flows through the pipeline. All of it is immutable.

docs/conventions.md explains axes, pixels and names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SettingsError
from recon.core.refusal import Unplaced
from recon.core.similarity import Array, Sim3

Image = NDArray[np.uint8]
DepthMap = NDArray[np.float32]
Mask = NDArray[np.bool_]

SURE = 0.5  # confidence
SAME_CENTRE = 1e-9  # how far apart, in the rig's unit, cameras of a rig are that share their centre

SkipKind = Literal["unreadable", "unplaced", "passed"]
CameraModel = Literal["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"]
CAMERA_MODELS: dict[str, CameraModel] = {model: model for model in get_args(CameraModel)}
PARAMETERS = dict(zip(CAMERA_MODELS, (3, 4, 4, 5, 8, 8), strict=True))  # how many each model has


@dataclass(frozen=True)
class Camera:
    """A lens: one of COLMAP's camera models with its parameters in COLMAP's order, in pixels of a width x height image.

    The centre of the upper left pixel is (0.5, 0.5), as in COLMAP. Raises SettingsError for another number of
    parameters than the model has, and for a size that is not positive.
    """

    model: CameraModel
    width: int
    height: int
    params: tuple[float, ...]

    def __post_init__(self) -> None:
        count = PARAMETERS.get(self.model)
        if count is None:
            raise SettingsError(f"There is no camera model {self.model}. Choose one of {', '.join(PARAMETERS)}.")
        if len(self.params) != count or min(self.width, self.height) < 1:
            raise SettingsError(
                f"A {self.model} camera needs a positive size and {count} parameters, got "
                f"{self.width} x {self.height} and {tuple(self.params)}."
            )

    def matrix(self) -> Array:
        """Intrinsics (3, 3) without the distortion."""
        if self.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
            fx, cx, cy = self.params[:3]
            fy = fx
        else:
            fx, fy, cx, cy = self.params[:4]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)

    def matrix_at(self, width: int, height: int) -> Array:
        """``matrix`` of the image resized to width x height."""
        return np.diag([width / self.width, height / self.height, 1.0]) @ self.matrix()

    def resized(self, width: int, height: int) -> Camera:
        """The lens of the image resized to width x height, which must have about the same ratio of its sides."""
        if (width, height) == (self.width, self.height):
            return self
        pixels = 3 if self.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL") else 4
        scales = (width / self.width, height / self.height)
        along = (scales[0], *scales) if pixels == 3 else (*scales, *scales)
        params = tuple(value * scale for value, scale in zip(self.params[:pixels], along, strict=True))
        return Camera(self.model, width, height, params + self.params[pixels:])


@dataclass(frozen=True)
class Mount:
    """One camera of a rig, whose cameras are fixed to each other and take their frames together, as one shot.

    rig: its name. number: of the camera, from 0, of ``count``; the frames of a shot are in this order and consecutive.
    camera: the known lens. rotation, translation: cam_from_rig, (3, 3) by rows and (3,), in the rig's unit.
    """

    rig: str
    number: int
    count: int
    camera: Camera
    rotation: tuple[float, ...]
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def cam_from_rig(self) -> Array:
        """The rigid transform (4, 4)."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.reshape(self.rotation, (3, 3)), self.translation
        return pose

    def cam_from(self, other: Mount) -> Array:
        """The rigid transform (4, 4) from another camera of the rig to this one."""
        return np.asarray(self.cam_from_rig @ np.linalg.inv(other.cam_from_rig))

    def shot_of(self, frame_index: int) -> int:
        """The first frame of the shot in which this camera took a frame, by index."""
        return frame_index - self.number


@dataclass(frozen=True, eq=False)
class Frame:
    """One upright image of the source.

    index: position in the source, counted before frames are left out. timestamp: seconds for a video, the position
    for a folder. image: (height, width, 3) uint8 RGB at the working size. name: file name of the upright original in
    the run's image folder. original_size: (width, height) of that original. lens: frames with the same text share one
    camera. focal: from EXIF, in pixels of the original, 0 when unknown. mask: (height, width), True where the
    image may be used; all True when there is no mask. content: hash of the file that it comes from and, if
    it has a mask, of that, see ``recon.sources.identity``; empty for cameras and streams. mount: the camera of the rig
    that took it, None for a camera of its own.
    """

    index: int
    timestamp: float
    image: Image
    name: str
    original_size: tuple[int, int]
    lens: str
    focal: float
    mask: Mask
    content: str = ""
    mount: Mount | None = None

    @property
    def shot(self) -> int:
        """The index of the first frame that was taken together with this one; its own without a rig."""
        return self.mount.shot_of(self.index) if self.mount else self.index

    def without_pixels(self) -> Frame:
        """The frame with an empty image and mask, to remember it in little memory."""
        return replace(self, image=np.zeros((0, 0, 3), np.uint8), mask=np.zeros((0, 0), np.bool_))


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive frames; the first ``overlap`` repeat the last ones of the previous chunk."""

    index: int
    frames: tuple[Frame, ...]
    overlap: int


@dataclass(frozen=True, eq=False)
class FrameGeometry:
    """A front end's result for one frame.

    cam_from_chunk: (4, 4) rigid. camera: the lens at the original resolution, with its distortion.
    intrinsics: (3, 3) pinhole of the three arrays below, which are undistorted. depth: (h, w) float32 along z in the
    chunk's unit, 0 = none. confidence: (h, w) float32 in 0..1, 0 where there is no depth; depth of at least SURE is
    good enough for placement. colour: (h, w, 3) uint8 RGB. propagated: whether the depth is that of other frames, see
    ``recon.depth.propagation``; it adds no surface to theirs.
    """

    index: int
    cam_from_chunk: Array
    camera: Camera
    intrinsics: Array
    depth: DepthMap
    confidence: DepthMap
    colour: Image
    propagated: bool = False

    def sure(self) -> FrameGeometry:
        """A copy without the depth that only fills gaps."""
        return replace(self, depth=np.where(self.confidence >= SURE, self.depth, np.float32(0)))


@dataclass(frozen=True, eq=False)
class SparsePoints:
    """Triangulated points and their observations.

    positions: (points, 3). colours: (points, 3) uint8. point_ids, frame_indices: (observations,): row of
    ``positions`` and index of the frame. pixels: (observations, 2) in the original, distorted image.
    """

    positions: Array
    colours: Image
    point_ids: NDArray[np.int64]
    frame_indices: NDArray[np.int64]
    pixels: Array

    @classmethod
    def empty(cls) -> SparsePoints:
        none = np.zeros(0, dtype=np.int64)
        return cls(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8), none, none, np.zeros((0, 2)))

    def rows_by_frame(self) -> dict[int, NDArray[np.int64]]:
        """Rows of the observations by frame, in order, for frames that have any."""
        order = np.argsort(self.frame_indices, kind="stable")
        indices, starts = np.unique(self.frame_indices[order], return_index=True)
        groups = np.split(order, starts[1:]) if len(indices) else []
        return dict(zip(indices.tolist(), groups, strict=True))

    def seen_by(self, frames: Collection[int], fewest: int = 1) -> SparsePoints:
        """The observations by some frames, of the points that at least ``fewest`` of these frames see."""
        kept = np.isin(self.frame_indices, list(frames))
        points = np.bincount(self.point_ids[kept], minlength=len(self.positions)) >= fewest
        kept &= points[self.point_ids]
        return SparsePoints(
            positions=self.positions[points],
            colours=self.colours[points],
            point_ids=(np.cumsum(points) - 1)[self.point_ids[kept]],
            frame_indices=self.frame_indices[kept],
            pixels=self.pixels[kept],
        )


@dataclass(frozen=True, eq=False)
class SparseModel:
    """Posed frames and triangulated points of one connected model.

    cam_from_model: rigid (4, 4) by frame index. cameras: the lens of each of these frames at the original resolution.
    """

    cam_from_model: dict[int, Array]
    cameras: dict[int, Camera]
    points: SparsePoints

    def restricted(self, frames: Iterable[int], fewest: int = 1) -> SparseModel:
        """The part of the model that some frames see; see ``SparsePoints.seen_by``."""
        poses = {index: self.cam_from_model[index] for index in frames if index in self.cam_from_model}
        return SparseModel(poses, {index: self.cameras[index] for index in poses}, self.points.seen_by(poses, fewest))


@dataclass(frozen=True, eq=False)
class ChunkGeometry:
    """Poses and depth of a chunk's frames in one chunk frame, the sparse points, and why other frames have no pose.

    revised: cam_from_chunk (4, 4) of earlier frames for which the chunk gave better poses.
    """

    frames: tuple[FrameGeometry, ...]
    points: SparsePoints
    unplaced: dict[int, Unplaced] = field(default_factory=dict)
    revised: dict[int, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Submap:
    """A chunk's geometry placed in the world.

    residual: RMS distance of the overlap alignment as a share of scene depth, 0 for the first chunk.
    """

    index: int
    geometry: ChunkGeometry
    world_from_chunk: Sim3
    residual: float


@dataclass(frozen=True, eq=False)
class PlacedFrame:
    """A frame of the finished or growing map.

    world_from_cam is a similarity: it maps camera coordinates, in the unit of the frame's stored depth, to the world.
    So a correction of the scale never rewrites depth.
    """

    index: int
    timestamp: float
    name: str
    camera: Camera
    world_from_cam: Sim3

    @property
    def cam_from_world(self) -> Array:
        """The rigid pose (4, 4), without the scale of the stored depth."""
        pose = np.eye(4)
        rotation = self.world_from_cam.rotation.T
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ self.world_from_cam.translation
        return pose


@dataclass(frozen=True)
class SkippedFrame:
    """A frame or file without a pose, and why. kind: it could not be read, could not be placed, or was passed over and
    got no pose afterwards.
    """

    index: int
    name: str
    reason: str
    kind: SkipKind = "unreadable"


@dataclass(frozen=True)
class PassedFrame:
    """A frame that was captured or read but not mapped, as it shows almost nothing that its neighbours do not, or for
    want of time.
    """

    index: int
    timestamp: float
    name: str
