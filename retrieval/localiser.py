"""Where a photo was taken, in a finished map.

The frames that look most like it are matched by local features, which have places in the map; the pose follows by PnP
with RANSAC. A pose is an answer only if the map, seen from there, looks like the photo: that decides between a place
and another one with the same furniture, see ``retrieval.appearance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.colmap_log import quiet
from recon.core.metric import Metric
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, Frame, PlacedFrame
from recon.sfm.lens_table import DEFAULT_FOCAL, FOCAL_RANGE
from recon.sfm.matching import Features, SiftMatcher
from recon.store.map import ReconstructedMap, open_map
from retrieval.absolute_pose import AbsolutePose, estimate_pose
from retrieval.appearance import agreement
from retrieval.landmarks import image_of
from retrieval.map_index import MapIndex, MappedFrame, open_index
from retrieval.verification import GRID, occupied_cells

CLEARLY_MORE = 1.1  # ratio of the inliers with an estimated lens and a likely one
SAME_FOCAL = 0.02  # relative difference of an estimated focal length that means nothing
SURE_DEVIATIONS = 4.0  # by which it must differ
SAME_SHAPE = 0.01  # relative difference of the sides' ratio of a photo and of the map's images
FRAMES_IN_MEMORY = 64  # 0.4 MB each
VIEWS = 3  # frames with the most inliers, one of which must look like the photo


@dataclass(frozen=True)
class LocateSettings:
    """Criteria for a pose. frames: how many similar frames are matched. max_error: of an inlier [working px].

    min_inliers: features of the photo. min_cells: of its 4 x 4 cells that hold inliers. min_agreement: share of a
    frame's detail that the photo shows alike; min_overlap: share of the frame that the photo shows at all.
    max_deviation: standard deviation of the position as a share of the distance to the scene.
    """

    frames: int = 8
    max_error: float = 4.0
    min_inliers: int = 15
    min_cells: int = 4
    min_agreement: float = 0.6
    min_overlap: float = 0.15
    max_deviation: float = 0.03
    matcher: SiftMatcher = field(default_factory=SiftMatcher)


@dataclass(frozen=True, eq=False)
class Location:
    """Where a photo was taken.

    world_from_cam: of scale 1; None if the photo is not of this place, with the ``reason``. camera: its lens, estimated
    if it was unknown. position_deviation [map units], rotation_deviation [rad]: standard deviations by the scatter of
    the features; errors of the map itself come on top. inliers, matched: features of the photo that agree with the
    pose, and that match at all. agreement: of the appearance, 0..1. frame: of the map, with the most inliers.
    pixels, frame_pixels: (n, 2), these inliers in the photo and in the original of that frame.
    """

    world_from_cam: Sim3 | None
    camera: Camera | None
    position_deviation: float
    rotation_deviation: float
    inliers: int
    matched: int
    agreement: float
    frame: PlacedFrame | None
    pixels: Array
    frame_pixels: Array
    reason: str


@dataclass(frozen=True, eq=False)
class _Matches:
    """Matches of a photo's features with landmarks of several frames, one row each.

    features: (n,) rows of the photo's features. pixels: (n, 2). points: (n, 3) in the world. frames: (n,) indices.
    frame_pixels: (n, 2).
    """

    features: NDArray[np.int64]
    pixels: Array
    points: Array
    frames: NDArray[np.int64]
    frame_pixels: Array

    @property
    def distinct(self) -> int:
        """How many of the photo's features match."""
        return len(np.unique(self.features))

    def agreeing(self, pose: AbsolutePose) -> int:
        """How many of the photo's features agree with a pose."""
        return self.rows(pose.inliers).distinct

    def dependence(self, pose: AbsolutePose) -> float:
        """Factor of a pose's deviations, as the matches of one feature in several frames have the same error."""
        return float(np.sqrt(pose.inliers.sum() / self.agreeing(pose)))

    def rows(self, chosen: NDArray[np.bool_]) -> _Matches:
        return _Matches(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


class Localiser:
    """Locates photos in one map; keeps what it has read of it."""

    def __init__(
        self, reconstruction: ReconstructedMap, index: MapIndex, settings: LocateSettings | None = None
    ) -> None:
        self._map = reconstruction
        self._placed = {frame.index: frame for frame in reconstruction.frames}
        self._index, self._settings = index, settings or LocateSettings()
        self._frame: Callable[[int], MappedFrame] = lru_cache(FRAMES_IN_MEMORY)(index.frame)

    @property
    def metric(self) -> Metric | None:
        """Whether positions are in metres; None if they are in the map's own unit."""
        return self._map.metric

    @quiet()
    def locate(self, photo: Frame, camera: Camera | None = None) -> Location:
        """Where a photo was taken. camera: its lens, if it is known; at the size of the original.

        Raises MapError if the stored index is damaged.
        """
        similar = self._index.similar(photo.image, photo.mask, self._settings.frames)
        matches = self._matched(self._settings.matcher.describe(photo), similar)
        if matches.distinct < self._settings.min_inliers:
            return _nowhere(matches, f"only {matches.distinct} features match")
        found = self._pose(photo, matches, [camera]) if camera else self._pose_with_lens(photo, matches, similar)
        if found is None:
            return _nowhere(matches, "no pose fits the features that match")
        return self._judged(photo, matches, found)

    def image(self, frame: PlacedFrame) -> Frame:
        """A frame of the map with its image, for pictures. Raises MapError if the image is missing or damaged."""
        return image_of(self._map, frame)

    def _matched(self, features: Features, frames: Sequence[int]) -> _Matches:
        parts = []
        for index in frames:
            marks = self._frame(index).landmarks
            first, second = self._settings.matcher.match(features, marks.features).astype(np.int64).T
            pixels = features.keypoints[first, :2], marks.points[second], marks.pixels[second]
            photo_pixels, points, frame_pixels = (values.astype(np.float64) for values in pixels)
            parts.append((first, photo_pixels, points, np.full(len(first), index), frame_pixels))
        return _Matches(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def _likely_lenses(self, photo: Frame, similar: Sequence[int]) -> Iterator[Camera]:
        """Those of the map's frames, if the photo has their shape, and the one in EXIF."""
        of_map = dict.fromkeys(self._placed[index].camera for index in similar)
        yield from (lens for camera in of_map if (lens := _resized(camera, photo.original_size)))
        if photo.focal:
            yield _simple(photo.focal, photo.original_size)

    def _pose(self, photo: Frame, matches: _Matches, lenses: Iterable[Camera]) -> AbsolutePose | None:
        """The pose with the most inliers over some lenses."""
        poses = (estimate_pose(matches.pixels, matches.points, lens, self._max_error(photo)) for lens in lenses)
        return max((pose for pose in poses if pose), key=matches.agreeing, default=None)

    def _pose_with_lens(self, photo: Frame, matches: _Matches, similar: Sequence[int]) -> AbsolutePose | None:
        """The pose with a likely lens; with one estimated from the photo, if that shows that the others are wrong."""
        likely = self._pose(photo, matches, self._likely_lenses(photo, similar))
        guess = _simple(DEFAULT_FOCAL * max(photo.original_size), photo.original_size)
        free = estimate_pose(matches.pixels, matches.points, guess, self._max_error(photo), free=True)
        if free is None or not _plausible(free.camera):
            return likely
        if likely is None:
            return free
        more = matches.agreeing(free) / matches.agreeing(likely)
        change = abs(np.log(free.camera.matrix()[0, 0] / likely.camera.matrix()[0, 0]))
        certain = SURE_DEVIATIONS * free.focal_deviation * matches.dependence(free)
        return free if more > CLEARLY_MORE or (more >= 1 and change > max(SAME_FOCAL, certain)) else likely

    def _max_error(self, photo: Frame) -> float:
        """In pixels of the original."""
        return float(self._settings.max_error * photo.original_size[0] / photo.image.shape[1])

    def _judged(self, photo: Frame, matches: _Matches, found: AbsolutePose) -> Location:
        kept = matches.rows(found.inliers)
        frames, counts = np.unique(kept.frames, return_counts=True)
        order = frames[np.argsort(-counts, kind="stable")].tolist()
        alike = self._agreement(photo, found, order[:VIEWS])
        best = kept.rows(kept.frames == order[0])
        dependence = matches.dependence(found)
        location = Location(
            world_from_cam=found.world_from_cam,
            camera=found.camera,
            position_deviation=found.position_deviation * dependence,
            rotation_deviation=found.rotation_deviation * dependence,
            inliers=kept.distinct,
            matched=matches.distinct,
            agreement=alike,
            frame=self._placed[order[0]],
            pixels=best.pixels,
            frame_pixels=best.frame_pixels,
            reason="",
        )
        reason = self._objection(photo, location, kept)
        return replace(location, reason=reason, world_from_cam=None if reason else location.world_from_cam)

    def _agreement(self, photo: Frame, found: AbsolutePose, frames: Sequence[int]) -> float:
        """How much one of the frames looks like the photo, at best; 0 if it shows too little of any."""
        compared = []
        for index in frames:
            cam_from_view = found.world_from_cam.inverse() @ self._placed[index].world_from_cam
            compared.append(agreement(photo.image, found.camera, cam_from_view, self._frame(index).view))
        return max((alike for alike, overlap in compared if overlap >= self._settings.min_overlap), default=0.0)

    def _objection(self, photo: Frame, location: Location, kept: _Matches) -> str:
        """Why a pose is no answer; empty if it is one."""
        settings, cells = self._settings, occupied_cells(kept.pixels, photo.original_size)
        if location.inliers < settings.min_inliers:
            return f"only {location.inliers} of {location.matched} features that match agree on a pose"
        if cells < settings.min_cells:
            return f"the {location.inliers} features that agree lie in {cells} of {GRID * GRID} parts of the photo"
        if location.agreement < settings.min_agreement:
            return f"from its pose the map looks different: {location.agreement:.0%} of the detail is alike"
        distance = float(np.median(np.linalg.norm(kept.points - _centre(location), axis=1)))
        if not location.position_deviation <= settings.max_deviation * distance:
            return f"its position is uncertain by {location.position_deviation / distance:.0%} of the distance"
        return ""


def open_localiser(
    folder: Path, settings: LocateSettings | None = None, tell: Callable[[str], None] = lambda sentence: None
) -> Localiser:
    """The localiser of the map in ``folder``. tell: gets notes for the user, see ``open_index``.

    Raises MapError if there is no map, or if it cannot be searched.
    """
    reconstruction = open_map(folder)
    return Localiser(reconstruction, open_index(reconstruction, tell), settings)


def _nowhere(matches: _Matches, reason: str) -> Location:
    none = np.zeros((0, 2))
    return Location(None, None, np.inf, np.inf, 0, matches.distinct, 0.0, None, none, none, reason)


def _resized(camera: Camera, size: tuple[int, int]) -> Camera | None:
    """The lens for the same image at another size; None if the sides have another ratio."""
    factor = size[0] / camera.width
    if abs(size[1] / (camera.height * factor) - 1) > SAME_SHAPE:
        return None
    lengths = 4 if camera.model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE") else 3
    scaled = tuple(value * factor for value in camera.params[:lengths])
    return Camera(camera.model, *size, scaled + camera.params[lengths:])


def _simple(focal: float, size: tuple[int, int]) -> Camera:
    return Camera("SIMPLE_RADIAL", *size, (focal, size[0] / 2, size[1] / 2, 0.0))


def _plausible(camera: Camera) -> bool:
    return FOCAL_RANGE[0] <= camera.params[0] / max(camera.width, camera.height) <= FOCAL_RANGE[1]


def _centre(location: Location) -> Array:
    assert location.world_from_cam is not None
    return location.world_from_cam.translation
