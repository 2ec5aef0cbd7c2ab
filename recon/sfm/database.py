"""Features, verified matches and lenses of all frames on disk, in COLMAP's own database format."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.beside import beside
from recon.core.cameras import colmap_rigs
from recon.core.stopwatch import stage
from recon.core.types import Camera, CameraModel, Frame
from recon.sfm.colmap_file import delete, delete_features, image_id, image_name, lone_frame, trim
from recon.sfm.lens_table import LensTable
from recon.sfm.matching import AnyMatcher, Features, GuidedMatcher, ImageMatcher, Matcher, Pair
from recon.sfm.pairs import most_alike
from recon.sfm.shots import Shots
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

ENOUGH_INLIERS = FEWEST_MATCHES
FRAMES_IN_MEMORY = 64  # 1 MB each
GLANCE_FEATURES = 300
GLANCES_IN_MEMORY = 128  # more frames than the grid of far pairs has; 0.17 MB each
GLANCE_MATCHES = 6
ENOUGH_TRACKED = 300


class _End(NamedTuple):
    """One of two frames to match: the features to match, their rows, the lens, and original per working pixels."""

    features: Features
    rows: NDArray[np.int64]
    lens: pycolmap.Camera
    scale: float


Pixels = tuple[NDArray[np.floating], NDArray[np.floating]]  # matched, (m, 2) each
_Matched = tuple[Pair, Rows, pycolmap.TwoViewGeometry | None]


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
        self._frames: dict[int, Frame] = {}  # without pixels
        self.shots = Shots(self._frames)
        self.lenses = LensTable(self._database, self._frames, model, known, cameras)
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
        return sorted(self.lenses.by_frame)

    def name(self, frame_index: int) -> str:
        """File name of a frame."""
        return self._frames[frame_index].name

    def add(self, *frames: Frame) -> None:
        """Detect and store the features of frames, unless they are stored already."""
        self.add_all(frames)

    @stage("features")
    def add_all(self, frames: Iterable[Frame]) -> None:
        """``add`` for any number of frames, of which memory holds a few at a time."""
        for frame, features in self._described(filter(self._is_new, frames)):
            camera_id, number = self.lenses.assign(frame.index), image_id(frame.index)
            image = pycolmap.Image(image_name(frame.index), camera_id=camera_id, image_id=number)
            self._database.write_image(image, use_image_id=True)
            self._database.write_frame(lone_frame(image), use_frame_id=True)
            self._write_features(frame.index, features)

    def _is_new(self, frame: Frame) -> bool:
        """Whether the features of a frame are not stored; notes the frame."""
        if frame.index in self.lenses:
            return False
        self._scale[frame.index] = frame.original_size[0] / frame.image.shape[1]
        self._frames[frame.index] = frame.without_pixels()
        if not self._database.exists_image(image_id(frame.index)):
            return True
        self.lenses.adopt(frame.index)
        return False

    def describe_again(self, frames: Sequence[Frame]) -> None:
        """Detect the features of frames again after their masks changed, and delete their old matches."""
        self._database.close()
        delete_features(self.path, [frame.index for frame in frames])
        self._database = self.lenses.database = pycolmap.Database.open(self.path)
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
        parallax = list(filter(self.shots.has_parallax, missing))
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
        return _End(features, np.arange(len(keypoints)), self.lenses[index], self._scale[index])

    def _end(self, index: int, rows: NDArray[np.int64] | None = None) -> _End:
        """What matching needs of a frame. rows: of the features to match; None for all."""
        features = self.features(index)
        if rows is None:
            rows = np.arange(len(features.keypoints))
        else:
            rows = rows[rows < len(features.keypoints)]
            features = features.rows(rows)
        return _End(features, rows, self.lenses[index], self._scale[index])

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

    def two_views(self, pair: Pair) -> pycolmap.TwoViewGeometry:
        """The two-view geometry of a verified pair."""
        return self._database.read_two_view_geometry(*map(image_id, pair))

    def scales(self, frame_index: int) -> NDArray[np.float64]:
        """Sizes (n,) of the features of a frame [px]."""
        return np.asarray(self._database.read_keypoints(image_id(frame_index))[:, 2], dtype=np.float64)

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
        numbers = self.lenses.by_frame
        lens_of = {index: image_id(index) if apart else numbers[index] for index in rows}
        cameras = {number: self.lenses[index] for index, number in lens_of.items()}
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
                self.shots.of(index), pycolmap.Frame(frame_id=image_id(index), rig_id=rigs[lens_of[index]].rig_id)
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
        cameras = [self.lenses[first], self.lenses[second]]
        points = [self._database.read_keypoints(image_id(index))[:, :2] for index in (first, second)]
        pycolmap.estimate_two_view_geometry_pose(cameras[0], points[0], cameras[1], points[1], geometry)
        pose = geometry.cam2_from_cam1
        return None if pose is None else np.asarray(pose.rotation.matrix())

    def forget(self, pair: Pair) -> None:
        """Drop the verified matches of a pair that contradicts the model."""
        self._database.delete_two_view_geometry(image_id(pair[0]), image_id(pair[1]))
        self._inliers[pair] = 0


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
