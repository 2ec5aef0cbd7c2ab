"""Features, verified matches and lenses of all frames on disk, in COLMAP's own database format."""

from __future__ import annotations

import ctypes
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.beside import beside
from recon.core.cameras import colmap_rigs
from recon.core.errors import MapError, OutputError
from recon.core.rigs import frames_of_shot
from recon.core.stopwatch import stage
from recon.core.types import SAME_CENTRE, Camera, CameraModel, Frame, Mount, SparseModel
from recon.sfm.matching import AnyMatcher, Features, GuidedMatcher, ImageMatcher, Matcher, Pair
from recon.sfm.pairs import most_alike, window_pairs
from recon.sfm.stored_features import (
    descriptors_from_bytes,
    descriptors_to_bytes,
    one_to_one,
    require_consistent,
    rows_of,
    with_keypoints,
)
from recon.sfm.verification import FEWEST_MATCHES, Rows, verify
from recon.sources.base import Cameras

DEFAULT_FOCAL = 0.85  # in longest sides: phones, webcams and depth cameras have 0.7 to 1; COLMAP assumes 1.2
FISHEYE_FOCAL = 0.5  # in longest sides: about 115 degrees from side to side
FOCAL_RANGE = (0.25, 4.0)  # in longest sides, from fisheye to a phone's tele lens
ENOUGH_INLIERS = FEWEST_MATCHES
ENOUGH_IMAGES = 8  # that determine a lens while the map grows
FRAMES_IN_MEMORY = 64  # 1 MB each
GLANCE_FEATURES = 300
GLANCES_IN_MEMORY = 128  # more frames than the grid of far pairs has; 0.17 MB each
GLANCE_MATCHES = 6
ENOUGH_TRACKED = 300
COS_APART = math.cos(math.radians(100))  # between the directions of cameras of a rig that see nothing in common
NO_IMAGE, NO_MASK = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.bool_)
ID_LIMIT = 2**31 - 1  # COLMAP's pair id: the first image's id times this, plus the second's id


class _End(NamedTuple):
    """One of two frames to match: the features to match, their rows, the lens, and original per working pixels."""

    features: Features
    rows: NDArray[np.int64]
    lens: pycolmap.Camera
    scale: float


Pixels = tuple[NDArray[np.floating], NDArray[np.floating]]  # matched, (m, 2) each
_Matched = tuple[Pair, Rows, pycolmap.TwoViewGeometry | None]


def image_id(frame_index: int) -> int:
    """COLMAP's ids start at 1."""
    return frame_index + 1


def image_name(frame_index: int) -> str:
    """A number instead of the file name: COLMAP splits names at spaces and reads a leading # as a comment."""
    return f"{frame_index:09d}"


class MatchDatabase:
    """What structure from motion remembers between chunks.

    Pixels are those of the originals. Two frames are matched and verified at most once, except on request.
    finished: frames of an earlier run, even a killed one, that left the file ``path``; their features and matches are
    kept. Raises MapError if that file is missing or damaged.
    """

    def __init__(
        self,
        path: Path,
        matcher: AnyMatcher,
        model: CameraModel,
        known: Camera | None,
        finished: Sequence[int] = (),
        *,
        cameras: Cameras = "auto",
    ) -> None:
        self._inliers: dict[Pair, int] = trim(path, finished) if finished else {}
        if not finished:
            delete(path)
        self.path = path
        self._database = pycolmap.Database.open(path)
        self._matcher = matcher
        self._model = model
        self._known = known
        self.cameras: Cameras = "one" if known else cameras
        self._lenses: dict[str, int] = {}
        self._lens_of: dict[int, int] = {}
        self._chosen: set[int] = set()
        self.lenses_may_differ = False  # according to some pairs
        self._frames: dict[int, Frame] = {}  # without pixels
        self._scale: dict[int, float] = {}
        self.features = lru_cache(FRAMES_IN_MEMORY)(self._read_features)
        self._few_features = lru_cache(GLANCES_IN_MEMORY)(self._read_few_features)

    def close(self) -> None:
        """Close the file, which stays on disk for a resumed run. Raises RuntimeError if the disk is full."""
        try:
            self._database.close()
        except RuntimeError:
            # The destructor would retry at the end of the program and abort.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database))
            raise

    @property
    def frames(self) -> list[int]:
        return sorted(self._lens_of)

    def name(self, frame_index: int) -> str:
        """File name of a frame."""
        return self._frames[frame_index].name

    def shot(self, frame_index: int) -> int:
        """The first frame of those that were taken together with a frame; see ``Mount``."""
        return self._frames[frame_index].shot

    @property
    def mounts(self) -> dict[int, Mount]:
        """The camera of a rig that took a frame, by index; of frames of rigs only."""
        return {index: frame.mount for index, frame in self._frames.items() if frame.mount}

    @property
    def views(self) -> int:
        """The most frames that were taken together."""
        return frames_of_shot(self.mounts.values())

    def by_shot(self, model: SparseModel) -> SparseModel:
        """The model with one frame for every shot: the first, which sees the points that any of them sees."""
        if self.views == 1:
            return model
        first = {self.shot(index): index for index in sorted(model.cam_from_model, reverse=True)}
        points = model.points
        shots = np.array([first[self.shot(index)] for index in points.frame_indices.tolist()], dtype=np.int64)
        _, kept = np.unique(np.column_stack([points.point_ids, shots]), axis=0, return_index=True)
        once = replace(points, point_ids=points.point_ids[kept], frame_indices=shots[kept], pixels=points.pixels[kept])
        indices = first.values()
        return SparseModel(
            {index: model.cam_from_model[index] for index in indices},
            {index: model.cameras[index] for index in indices},
            once,
        )

    def window(self, frame_indices: Sequence[int], steps: range | tuple[int, ...], *, same: bool = False) -> list[Pair]:
        """Pairs of frames ``steps`` shots apart. Of rigs, only those whose cameras may see the same.

        same: of rigs, only frames of the same camera.
        """
        apart = self._by_shot(frame_indices)
        return [
            pair
            for first, second in window_pairs(sorted(apart), steps)
            for pair in product(apart[first], apart[second])
            if self._may_overlap(pair, same=same)
        ]

    def within_shots(self, frame_indices: Iterable[int]) -> list[Pair]:
        """Pairs of frames of one shot, by cameras of a rig with parallax between them that may see the same."""
        together = self._by_shot(frame_indices).values()
        pairs = (pair for indices in together for pair in combinations(indices, 2))
        return [pair for pair in pairs if self._has_parallax(pair) and self._may_overlap(pair)]

    def _by_shot(self, frame_indices: Iterable[int]) -> dict[int, list[int]]:
        shots: dict[int, list[int]] = {}
        for index in sorted(frame_indices):
            shots.setdefault(self.shot(index), []).append(index)
        return shots

    def _may_overlap(self, pair: Pair, *, same: bool = False) -> bool:
        """Whether two frames may see the same, by the directions of their cameras; same: only those of one camera."""
        first, second = (self._frames[index].mount for index in pair)
        if first is None or second is None or first.rig != second.rig:
            return True
        if same:
            return first.number == second.number
        return float(first.cam_from_rig[2, :3] @ second.cam_from_rig[2, :3]) > COS_APART

    def _has_parallax(self, pair: Pair) -> bool:
        """Whether the centres of two frames differ: those of different shots do, and of a rig's cameras, most do."""
        if self.shot(pair[0]) != self.shot(pair[1]):
            return True
        first, second = (self._frames[index].mount for index in pair)
        assert first and second
        return bool(np.abs(second.cam_from(first)[:3, 3]).max() > SAME_CENTRE)

    def shot_to_begin_with(self, frame_indices: Iterable[int]) -> dict[int, NDArray[np.float64]]:
        """cam_from_rig (4, 4) of the frames of the shot that match each other best; none without parallax in shots."""
        pairs = [pair for pair in self.within_shots(frame_indices) if self.inliers(*pair)]
        inliers = Counter({self.shot(first): 0 for first, _ in pairs})
        for pair in pairs:
            inliers[self.shot(pair[0])] += self.inliers(*pair)
        best = max(inliers, key=inliers.__getitem__, default=None)
        mounts = {index: self._frames[index].mount for pair in pairs for index in pair if self.shot(index) == best}
        return {index: mount.cam_from_rig for index, mount in mounts.items() if mount}

    def add(self, *frames: Frame) -> None:
        """Detect and store the features of frames, unless they are stored already."""
        self.add_all(frames)

    @stage("features")
    def add_all(self, frames: Iterable[Frame]) -> None:
        """``add`` for any number of frames, of which memory holds a few at a time."""
        for frame, features in self._described(filter(self._is_new, frames)):
            camera_id = self._lens(frame)
            image = pycolmap.Image(image_name(frame.index), camera_id=camera_id, image_id=image_id(frame.index))
            self._database.write_image(image, use_image_id=True)
            self._database.write_frame(_rig_frame(image), use_frame_id=True)
            self._write_features(frame.index, features)
            self._lens_of[frame.index] = camera_id

    def _is_new(self, frame: Frame) -> bool:
        """Whether the features of a frame are not stored; notes the frame."""
        if frame.index in self._lens_of:
            return False
        self._scale[frame.index] = frame.original_size[0] / frame.image.shape[1]
        self._frames[frame.index] = replace(frame, image=NO_IMAGE, mask=NO_MASK)
        if not self._database.exists_image(image_id(frame.index)):
            return True
        camera_id = self._database.read_image(image_id(frame.index)).camera_id  # from an earlier run
        self._lens_of[frame.index] = self._lenses[self.kind(frame.index)] = camera_id
        return False

    def describe_again(self, frames: Sequence[Frame]) -> None:
        """Detect the features of frames again after their masks changed, and delete their old matches."""
        ids = [image_id(frame.index) for frame in frames]
        self._database.close()  # two SQLite libraries in one process release each other's locks
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for number in ids:
                connection.execute("DELETE FROM keypoints WHERE image_id = ?", (number,))
                connection.execute("DELETE FROM descriptors WHERE image_id = ?", (number,))
                ends = (ID_LIMIT, number, ID_LIMIT, number)
                connection.execute("DELETE FROM matches WHERE pair_id / ? = ? OR pair_id % ? = ?", ends)
                connection.execute("DELETE FROM two_view_geometries WHERE pair_id / ? = ? OR pair_id % ? = ?", ends)
        self._database = pycolmap.Database.open(self.path)
        changed = {frame.index for frame in frames}
        self._inliers = {pair: count for pair, count in self._inliers.items() if changed.isdisjoint(pair)}
        self.features.cache_clear()
        self._few_features.cache_clear()
        with stage("features"):
            for frame, features in self._described(frames):
                self._write_features(frame.index, features)

    def _described(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Features]]:
        of_images = isinstance(self._matcher, ImageMatcher)
        for frame, features in beside(lambda frame: (frame, self._matcher.describe(frame)), frames):
            require_consistent(features, of_images=of_images)
            yield frame, features

    def _write_features(self, frame_index: int, features: Features) -> None:
        self._database.write_keypoints(image_id(frame_index), features.keypoints)
        raw, kind = descriptors_to_bytes(features.descriptors), pycolmap.FeatureExtractorType.UNDEFINED
        self._database.write_descriptors(image_id(frame_index), pycolmap.FeatureDescriptors(data=raw, type=kind))

    def _read_features(self, frame_index: int) -> Features:
        keypoints = self._database.read_keypoints(image_id(frame_index))
        descriptors = descriptors_from_bytes(np.array(self._database.read_descriptors(image_id(frame_index)).data))
        if not isinstance(self._matcher, ImageMatcher):
            keypoints = keypoints[: len(descriptors)]  # those that were added later have none
        return Features(keypoints, descriptors, self._frames[frame_index].original_size)

    def _read_few_features(self, frame_index: int) -> Features:
        return self.features(frame_index).largest(GLANCE_FEATURES)

    def pixel_scale(self, frame_indices: Iterable[int]) -> float:
        """Original pixels per working pixel, the median over the frames: the unit of detection noise."""
        return float(np.median([self._scale[index] for index in frame_indices]))

    @stage("matching")
    def match(self, pairs: Iterable[Pair], *, glance: bool = False, tracked: Sequence[int] = ()) -> None:
        """Match and verify the pairs (smaller index first) that have not been matched.

        glance: match only pairs whose largest features match (preemptive matching, Wu 2013), for each frame those with
        the most such matches, and do not search weak pairs for more matches. Use it for many pairs of which few
        overlap. tracked: frames among which a feature must have verified matches already, if the frame has enough of
        those; others hardly ever make tracks. Frames of one shot and centre count as tried, too.
        """
        missing = sorted({pair for pair in pairs if pair not in self._inliers})
        if not missing:
            return
        parallax = list(filter(self._has_parallax, missing))
        if isinstance(self._matcher, ImageMatcher):
            found: Iterable[_Matched] = self._match_images(self._matcher, parallax)
        else:
            alike = self._most_alike(self._matcher, parallax) if glance else parallax
            found = self._match_features(self._matcher, alike, guided=not glance, tracked=tracked)
        inliers = dict.fromkeys(missing, 0)
        for pair, matches, geometry in found:
            if geometry is not None:
                self._database.write_matches(image_id(pair[0]), image_id(pair[1]), matches)
                self._database.write_two_view_geometry(image_id(pair[0]), image_id(pair[1]), geometry)
                inliers[pair] = len(geometry.inlier_matches)
        self._inliers.update(inliers)

    def _match_features(
        self, matcher: Matcher, pairs: Sequence[Pair], *, guided: bool, tracked: Sequence[int]
    ) -> Iterator[_Matched]:
        """Match pairs by their features, and verify each at once, while the matcher still knows it."""
        chosen = self._tracked_rows(tracked)
        guide = matcher if guided and isinstance(matcher, GuidedMatcher) else None

        def match(ends: tuple[_End, _End]) -> tuple[Rows, pycolmap.TwoViewGeometry | None]:
            first, second = ends
            found = rows_of(matcher.match(first.features, second.features), first.features, second.features)
            geometry = _verified(found, first, second, guide)
            if geometry is not None:
                geometry.inlier_matches = _of_all(geometry.inlier_matches, first, second)
            return _of_all(found, first, second), geometry

        ends = ((self._end(first, chosen.get(first)), self._end(second, chosen.get(second))) for first, second in pairs)
        return ((pair, *found) for pair, found in zip(pairs, beside(match, ends), strict=True))

    def _tracked_rows(self, frame_indices: Sequence[int]) -> dict[int, NDArray[np.int64]]:
        """Features of each frame with verified matches among some frames; only of frames with ENOUGH_TRACKED of
        them."""
        rows = {index: np.flatnonzero(counts) for index, counts in self.times_matched(frame_indices).items()}
        return {index: found for index, found in rows.items() if len(found) >= ENOUGH_TRACKED}

    def times_matched(self, frame_indices: Sequence[int]) -> dict[int, NDArray[np.int64]]:
        """Number of verified pairs, among some frames, in which each feature is matched."""
        counts = {index: np.zeros(len(self.positions(index)), dtype=np.int64) for index in frame_indices}
        for pair in self.verified_pairs(frame_indices):
            for index, rows in zip(pair, self.verified_matches(pair).T, strict=True):
                counts[index][rows] += 1
        return counts

    def _most_alike(self, matcher: Matcher, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs whose largest features match, for each frame those with the MOST_ALIKE best matching others."""

        def glance(views: tuple[Features, Features]) -> int:
            return len(matcher.match(*views))

        frames = self.frames
        places = {index: place for place, index in enumerate(frames)}
        counts = beside(glance, ((self._few_features(first), self._few_features(second)) for first, second in pairs))
        alike = {
            (places[first], places[second]): count
            for (first, second), count in zip(pairs, counts, strict=True)
            if count >= GLANCE_MATCHES
        }
        return [(frames[first], frames[second]) for first, second in most_alike(alike)]

    def _match_images(self, matcher: ImageMatcher, pairs: Sequence[Pair]) -> list[_Matched]:
        """Match pairs by their images, add the keypoints that this finds, and verify."""
        pixels = zip(pairs, matcher.match_images(pairs, self.features), strict=True)
        matches = [one_to_one(rows) for rows in self._add_keypoints(pixels)]
        return list(zip(pairs, matches, self._judged(pairs, matches), strict=True))

    @stage("matching")
    def add_matches(self, pixels: Mapping[Pair, Pixels]) -> dict[Pair, pycolmap.TwoViewGeometry]:
        """Add matched pixels (m, 2) in the originals to the verified matches of pairs, and verify them together.

        Pixels without a keypoint near them become new keypoints, without descriptors. Returns the geometries that the
        pairs had before, of those that have more matches now.
        """
        rows, before = self._add_keypoints(pixels.items()), {}
        known = [self.verified_matches(pair) if self.inliers(*pair) else np.zeros((0, 2), np.int64) for pair in pixels]
        matches = [one_to_one(np.concatenate(both)) for both in zip(known, rows, strict=True)]
        for pair, geometry in zip(pixels, self._judged(list(pixels), matches), strict=True):
            if geometry is not None and len(geometry.inlier_matches) > self.inliers(*pair):
                before[pair] = self.two_views(pair) if self.inliers(*pair) else pycolmap.TwoViewGeometry()
                self._replace_geometry(pair, geometry)
        return before

    def restore_geometries(self, before: Mapping[Pair, pycolmap.TwoViewGeometry]) -> None:
        """Undo ``add_matches``, but for the keypoints, which matter no more."""
        for pair, geometry in before.items():
            self._replace_geometry(pair, geometry)

    def _replace_geometry(self, pair: Pair, geometry: pycolmap.TwoViewGeometry) -> None:
        ids = image_id(pair[0]), image_id(pair[1])
        self._database.delete_two_view_geometry(*ids)
        self._database.write_two_view_geometry(*ids, geometry)
        self._inliers[pair] = len(geometry.inlier_matches)

    def _add_keypoints(self, pixels: Iterable[tuple[Pair, Pixels]]) -> list[NDArray[np.int64]]:
        """The keypoint rows (m, 2) of matched pixels of pairs; those without a keypoint near them get one."""
        changed: dict[int, NDArray[np.float32]] = {}
        rows = []
        for pair, matched in pixels:
            ends = []
            for index, own in zip(pair, matched, strict=True):
                before = changed[index] if index in changed else self._database.read_keypoints(image_id(index))
                changed[index], found = with_keypoints(before, own, self._scale[index])
                ends.append(found)
            rows.append(np.column_stack(ends))
        for index, keypoints in changed.items():
            self._database.update_keypoints(image_id(index), keypoints)
        self.features.cache_clear()
        return rows

    def _judged(self, pairs: Sequence[Pair], matches: Sequence[Rows]) -> list[pycolmap.TwoViewGeometry | None]:
        """The geometries of pairs with matched keypoint rows (m, 2)."""

        def judge(view: tuple[Rows, tuple[_End, _End]]) -> pycolmap.TwoViewGeometry | None:
            return _verified(view[0], *view[1], None)

        ends = ((self._whole_end(first), self._whole_end(second)) for first, second in pairs)
        return list(beside(judge, zip(matches, ends, strict=True)))

    def _whole_end(self, index: int) -> _End:
        """What verification needs of a frame, with the keypoints that have no descriptors."""
        keypoints = self._database.read_keypoints(image_id(index))
        features = replace(self.features(index), keypoints=keypoints)
        return _End(features, np.arange(len(keypoints)), self.camera(index), self._scale[index])

    def _end(self, index: int, rows: NDArray[np.int64] | None = None) -> _End:
        """What matching needs of a frame. rows: of the features to match; None for all."""
        features = self.features(index)
        if rows is None:
            rows = np.arange(len(features.keypoints))
        else:
            rows = rows[rows < len(features.keypoints)]
            features = features.rows(rows)
        return _End(features, rows, self.camera(index), self._scale[index])

    def tried(self) -> dict[Pair, int]:
        """The number of verified matches of every pair whose matching has been tried."""
        return dict(self._inliers)

    def restore_tried(self, tried: Mapping[Pair, int]) -> None:
        """Return to an earlier state of ``tried``: pairs that were matched since are forgotten, and may be again."""
        known = {pair: inliers for pair, inliers in self._inliers.items() if inliers and tried.get(pair)}
        for pair in self._inliers.keys() - known.keys():
            self._database.delete_two_view_geometry(*map(image_id, pair))
            self._database.delete_matches(*map(image_id, pair))
        self._inliers = known | {pair: 0 for pair, inliers in tried.items() if not inliers}

    def matched(self, pair: Pair) -> bool:
        """Whether matching the pair has been tried."""
        return pair in self._inliers

    def inliers(self, first: int, second: int) -> int:
        """Number of verified matches between two frames; 0 if they were not matched or have too few."""
        return self._inliers.get((min(first, second), max(first, second)), 0)

    def camera(self, frame_index: int) -> pycolmap.Camera:
        return self._database.read_camera(self._lens_of[frame_index])

    def update_cameras(self, cameras: Mapping[int, Camera]) -> None:
        """Store the estimated lens of each frame index, so that the next chunk starts from it."""
        for frame_index, camera in cameras.items():
            lens = self.camera(frame_index)
            lens.params, lens.has_prior_focal_length = camera.params, True
            self._database.update_camera(lens)

    @property
    def lenses(self) -> dict[int, tuple[list[float], bool]]:
        """Parameters of every lens by number, and whether its focal length is better than a guess."""
        found = self._database.read_all_cameras()
        return {camera.camera_id: (camera.params.tolist(), camera.has_prior_focal_length) for camera in found}

    def restore_lenses(self, lenses: Mapping[int, tuple[list[float], bool]], lens_of: Mapping[int, int]) -> None:
        """Restore earlier values of ``lenses`` and ``lens_of``."""
        owners = {number: index for index, number in lens_of.items()}
        for number, (params, estimated) in lenses.items():
            if not self._database.exists_camera(number):  # deleted when no frame used it
                if number not in owners:
                    continue
                camera = self._new_camera(self._frames[owners[number]])
                camera.camera_id = number
                self._write_camera(camera, self._database.write_camera(camera, use_camera_id=True))
            lens = self._database.read_camera(number)
            lens.params, lens.has_prior_focal_length = params, estimated
            self._database.update_camera(lens)
        self.use_lenses(lens_of)

    def set_focal(self, number: int, focal: float) -> None:
        """Set the focal length [px] of a lens and mark it as estimated."""
        lens = self._database.read_camera(number)
        for row in lens.focal_length_idxs():
            lens.params[row] = focal
        lens.has_prior_focal_length = True
        self._database.update_camera(lens)
        self._chosen.add(number)

    def two_views(self, pair: Pair) -> pycolmap.TwoViewGeometry:
        """The two-view geometry of a verified pair."""
        return self._database.read_two_view_geometry(*map(image_id, pair))

    def scales(self, frame_index: int) -> NDArray[np.float64]:
        """Sizes (n,) of the features of a frame [px]."""
        return np.asarray(self._database.read_keypoints(image_id(frame_index))[:, 2], dtype=np.float64)

    def calibrate(self) -> None:
        """Estimate the unknown focal lengths from the epipolar geometry of all pairs. Raises OutputError."""
        options = pycolmap.ViewGraphCalibrationOptions(random_seed=0, reestimate_relative_pose=False)
        options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RANGE
        cameras = self._database.read_all_cameras()
        if not all(camera.has_prior_focal_length for camera in cameras):
            self._require_space()
            pycolmap.calibrate_view_graph(self.path, options)

    def forget_focals(self, frame_indices: Iterable[int]) -> bool:
        """Replace the focal lengths that EXIF gives for some frames by guesses; returns whether it gave any."""
        if self._known is not None:
            return False
        given = {self._lens_of[index]: self._frames[index] for index in frame_indices if self._frames[index].focal > 0}
        for number, frame in given.items():
            lens = self._new_camera(replace(frame, focal=0.0))
            lens.camera_id = number
            self._database.update_camera(lens)
        return bool(given)

    def _require_space(self) -> None:
        """Raise OutputError if the disk may fill during a calibration, in which case COLMAP aborts the program.

        A calibration rewrites most of the file.
        """
        needed = sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.name}*"))
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OutputError(
                f"Cannot write {self.path}: {free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed. "
                "Free some space or choose another --out."
            )

    def fixed_cameras(self) -> set[int]:
        """Ids of the lenses that are known: the user calibrated them, or they are those of a rig."""
        return {number for index, number in self._lens_of.items() if self._known or self._frames[index].mount}

    def rare_lenses(self, frame_indices: Iterable[int]) -> set[int]:
        """Ids of lenses with a set focal length and few frames, too few for a growing map to refine them."""
        counts = Counter(self._lens_of[index] for index in frame_indices)
        return {number for number, count in counts.items() if count < ENOUGH_IMAGES and number in self._chosen}

    def positions(self, frame_index: int) -> NDArray[np.float64]:
        """Features (n, 2) of a frame: column and row in the original [px]."""
        return np.asarray(self._database.read_keypoints(image_id(frame_index))[:, :2], dtype=np.float64)

    def verified_pairs(self, frame_indices: Iterable[int]) -> list[Pair]:
        """The pairs among some frames that have verified matches."""
        wanted = set(frame_indices)
        return [pair for pair, inliers in self._inliers.items() if inliers and wanted.issuperset(pair)]

    def matches(self, pair: Pair) -> NDArray[np.int64]:
        """Matched feature rows (m, 2) of a pair before verification; empty if none are stored."""
        ids = tuple(map(image_id, pair))
        if not self._database.exists_matches(*ids):
            return np.zeros((0, 2), dtype=np.int64)
        return np.asarray(self._database.read_matches(*ids), dtype=np.int64).reshape(-1, 2)

    def verified_matches(self, pair: Pair) -> NDArray[np.int64]:
        """Matched feature rows (m, 2) of a pair after verification."""
        geometry = self._database.read_two_view_geometry(image_id(pair[0]), image_id(pair[1]))
        return np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)

    def reduced_cache(self, rows: Mapping[int, NDArray[np.int64]], *, apart: bool = False) -> pycolmap.DatabaseCache:
        """The given feature rows of each frame index and the verified matches among them, in memory.

        apart: give every frame its own copy of its lens.
        """
        cache = pycolmap.DatabaseCache()
        lens_of = {index: image_id(index) if apart else self._lens_of[index] for index in rows}
        cameras = {number: self.camera(index) for index, number in lens_of.items()}
        for number, camera in sorted(cameras.items()):
            camera.camera_id = number
            cache.add_camera(camera)
        rigs = colmap_rigs({number: self._frames[index].mount for index, number in lens_of.items()})
        for rig in {rig.rig_id: rig for rig in rigs.values()}.values():
            cache.add_rig(rig)
        new_rows = {}
        shots: dict[int, pycolmap.Frame] = {}
        for index, kept in rows.items():
            positions = self.positions(index)
            new_rows[index] = np.full(len(positions), -1, dtype=np.int64)
            new_rows[index][kept] = np.arange(len(kept))
            image = pycolmap.Image(image_name(index), positions[kept], lens_of[index], image_id(index))
            shot = shots.setdefault(
                self.shot(index), pycolmap.Frame(frame_id=image_id(index), rig_id=rigs[lens_of[index]].rig_id)
            )
            shot.add_data_id(image.data_id)
            image.frame_id = shot.frame_id
            cache.add_image(image)
        for shot in shots.values():
            cache.add_frame(shot)
        for pair in self.verified_pairs(rows):
            geometry = self._database.read_two_view_geometry(image_id(pair[0]), image_id(pair[1]))
            matches = np.asarray(geometry.inlier_matches, dtype=np.int64).reshape(-1, 2)
            matches = np.column_stack([new_rows[pair[0]][matches[:, 0]], new_rows[pair[1]][matches[:, 1]]])
            geometry.inlier_matches = matches[(matches >= 0).all(axis=1)].astype(np.uint32)
            cache.correspondence_graph.add_two_view_geometry(image_id(pair[0]), image_id(pair[1]), geometry)
        cache.correspondence_graph.finalize()
        return cache

    def relative_rotation(self, first: int, second: int) -> NDArray[np.float64] | None:
        """Rotation (3, 3) from camera ``first`` to ``second``, from their matches alone; None if undetermined."""
        geometry = self._database.read_two_view_geometry(image_id(first), image_id(second))
        cameras = [self.camera(first), self.camera(second)]
        points = [self._database.read_keypoints(image_id(index))[:, :2] for index in (first, second)]
        pycolmap.estimate_two_view_geometry_pose(cameras[0], points[0], cameras[1], points[1], geometry)
        pose = geometry.cam2_from_cam1
        return None if pose is None else np.asarray(pose.rotation.matrix())

    def forget(self, pair: Pair) -> None:
        """Drop the verified matches of a pair that contradicts the model."""
        self._database.delete_two_view_geometry(image_id(pair[0]), image_id(pair[1]))
        self._inliers[pair] = 0

    def kind(self, frame_index: int) -> str:
        """The lens according to the source; frames with different texts have different lenses."""
        frame = self._frames[frame_index]
        if frame.mount:
            return f"{frame.mount.rig} {frame.mount.number}"
        match self.cameras:
            case "one":
                return "{}x{}".format(*frame.original_size)
            case "per-image":
                return str(frame_index)
            case _:
                return frame.lens

    @property
    def lens_of(self) -> dict[int, int]:
        """Number of the lens of every frame."""
        return dict(self._lens_of)

    def lens_cameras(self, numbers: Iterable[int]) -> dict[int, pycolmap.Camera]:
        """Lenses by their numbers."""
        return {number: self._database.read_camera(number) for number in numbers}

    def add_lens(self, frame_index: int) -> int:
        """Create a lens from what is known about a frame; returns its number."""
        camera = self._new_camera(self._frames[frame_index])
        return self._write_camera(camera, self._database.write_camera(camera))

    def use_lenses(self, lens_of: Mapping[int, int]) -> None:
        """Assign lenses to frames. lens_of: lens number by frame index."""
        for index, number in lens_of.items():
            if self._lens_of[index] == number:
                continue
            image = self._database.read_image(image_id(index))
            image.camera_id = number
            self._database.update_frame(_rig_frame(image))
            self._database.update_image(image)
            self._lens_of[index] = self._lenses[self.kind(index)] = number

    def split_lenses(self, frame_indices: Iterable[int]) -> None:
        """Give every frame its own lens, with its present focal length."""
        for index in frame_indices:
            focal, number = self.camera(index).mean_focal_length(), self.add_lens(index)
            self.set_focal(number, focal)
            self.use_lenses({index: number})

    def _lens(self, frame: Frame) -> int:
        kind = self.kind(frame.index)
        if kind not in self._lenses:
            self._lenses[kind] = self.add_lens(frame.index)
        return self._lenses[kind]

    def _write_camera(self, camera: pycolmap.Camera, number: int) -> int:
        """Write the rig of a stored camera."""
        camera.camera_id = number
        self._database.write_rig(_rig(camera), use_rig_id=True)
        return number

    def _new_camera(self, frame: Frame) -> pycolmap.Camera:
        width, height = frame.original_size
        known = frame.mount.camera if frame.mount else self._known
        if known is not None:
            return pycolmap.Camera(
                model=known.model, width=width, height=height, params=known.params, has_prior_focal_length=True
            )
        usual = FISHEYE_FOCAL if self._model == "OPENCV_FISHEYE" else DEFAULT_FOCAL
        focal = frame.focal or usual * max(width, height)
        camera = pycolmap.Camera.create_from_model_name(0, self._model, focal, width, height)
        camera.has_prior_focal_length = frame.focal > 0
        return camera


def _verified(
    matches: Rows, first: _End, second: _End, matcher: GuidedMatcher | None
) -> pycolmap.TwoViewGeometry | None:
    """The geometry of two frames, see ``verify``; None if they have too few matches for any."""
    if len(matches) < ENOUGH_INLIERS:
        return None
    pixel = (first.scale + second.scale) / 2
    return verify(matches, (first.features, second.features), (first.lens, second.lens), pixel, matcher)


def _of_all(matches: Rows, first: _End, second: _End) -> Rows:
    """Matches (m, 2) of the features at either end as rows of all features of their frames."""
    return np.column_stack([first.rows[matches[:, 0]], second.rows[matches[:, 1]]]).astype(np.uint32)


def _rig(camera: pycolmap.Camera) -> pycolmap.Rig:
    """COLMAP's rig with a single camera."""
    rig = pycolmap.Rig(rig_id=camera.camera_id)
    rig.add_ref_sensor(camera.sensor_id)
    return rig


def _rig_frame(image: pycolmap.Image) -> pycolmap.Frame:
    """COLMAP's frame of an image; a rig has the id of its only camera."""
    frame = pycolmap.Frame(frame_id=image.image_id, rig_id=image.camera_id)
    frame.add_data_id(image.data_id)
    return frame


def delete(path: Path) -> None:
    """Delete an SQLite file and any journal left by a killed process, which SQLite would apply to a new file of that
    name."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def trim(path: Path, frames: Sequence[int]) -> dict[Pair, int]:
    """Reduce a COLMAP database to ``frames``: delete all other frames and all unverified matches.

    Lenses, and pairs of these frames that were matched later, stay as they are. Returns the number of verified matches
    of every pair. Pairs that had too few matches to verify are omitted and may be matched again. Raises MapError if the
    file is missing or damaged, or lacks the features of any of the frames.
    """
    if not path.is_file():
        raise MapError(f"{path} is missing, so the run cannot be resumed. Rebuild the map with --overwrite.")
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            _trim(connection, frames)
            (count,) = connection.execute("SELECT COUNT(*) FROM images JOIN descriptors USING (image_id)").fetchone()
            pairs = connection.execute("SELECT pair_id, rows FROM two_view_geometries").fetchall()
    except sqlite3.Error as error:
        raise MapError(f"{path} is damaged ({error}). Rebuild the map with --overwrite.") from error
    if count != len(frames):
        missing = len(frames) - count
        raise MapError(f"{path} lacks the features of {missing} frames. Rebuild the map with --overwrite.")
    return {(number // ID_LIMIT - 1, number % ID_LIMIT - 1): rows for number, rows in pairs}


def _trim(connection: sqlite3.Connection, frames: Sequence[int]) -> None:
    connection.execute("CREATE TEMP TABLE kept (id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO kept VALUES (?)", [(image_id(index),) for index in frames])
    connection.execute("DELETE FROM images WHERE image_id NOT IN kept")
    connection.execute("DELETE FROM frames WHERE frame_id NOT IN kept")
    of_others = "DELETE FROM two_view_geometries WHERE pair_id / ? NOT IN kept OR pair_id % ? NOT IN kept"
    connection.execute(of_others, (ID_LIMIT, ID_LIMIT))
    connection.execute("DELETE FROM matches WHERE pair_id NOT IN (SELECT pair_id FROM two_view_geometries)")
    connection.execute("DELETE FROM cameras WHERE camera_id NOT IN (SELECT camera_id FROM images)")
    connection.execute("DELETE FROM rigs WHERE rig_id NOT IN (SELECT rig_id FROM frames)")
