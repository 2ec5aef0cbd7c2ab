"""``recon lab wide-pairs``: the poses of views far apart, by SIFT and by pretrained features.

The pairs come from a finished map, whose depth tells how much two views share; the truth is a file of poses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera
from recon.core.errors import SourceError
from recon.core.similarity import Array, Sim3
from recon.core.types import Frame, FrameGeometry
from recon.exports.trajectory import read_tum
from recon.mapping.overlap import shared_surface
from recon.sfm.matching import Features, SiftMatcher
from recon.sfm.wide_pairs import near_both_ways
from recon.sfm.xfeat_matching import XFeatMatcher, open_xfeat_matcher
from recon.store.map import open_map

OVERLAP = 0.1, 0.4
SAME_DEPTH = 0.1  # relative error of depth up to which two views see the same surface
MOST_FRAMES = 80  # of a map, evenly spread
LEAST_BASELINE = 0.05  # in depths; the direction of a shorter one is not worth asking for
FEWEST = 8  # matches of a pose
MAX_ERROR = 2.0  # px
WITHIN = 5, 10, 20  # degrees
NO_POSE = 180.0

Describe = Callable[[Frame], Features]
Match = Callable[[Features, Features], NDArray[np.integer]]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two frames of a map. moved: second_from_first (4, 4), true but for its unit. overlap: 0 to 1."""

    first: FrameGeometry
    second: FrameGeometry
    moved: Array
    overlap: float


@dataclass(frozen=True)
class MethodResult:
    """errors: of each pair [degrees], the larger of rotation and direction. Times are processor seconds."""

    name: str
    errors: tuple[float, ...]
    matches: float
    seconds_per_image: float
    seconds_per_pair: float

    def row(self) -> str:
        shares = (f"{np.mean(np.array(self.errors) <= limit):.0%}" for limit in WITHIN)
        times = f"{1000 * self.seconds_per_image:.0f} ms | {1000 * self.seconds_per_pair:.0f} ms"
        return f"| {self.name} | {' | '.join(shares)} | {self.matches:.0f} | {times} |"


HEADER = "\n".join(
    [
        f"| features | {' | '.join(f'within {limit} degrees' for limit in WITHIN)} | matches | an image | a pair |",
        "|---" * (len(WITHIN) + 4) + "|",
    ]
)


def measure(folder: Path, reference: Path, count: int) -> Iterator[MethodResult]:
    """Every method on the same ``count`` pairs of the map in ``folder``.

    Raises ReconError if the map, the truth or the weights are missing, or SourceError if no pair qualifies.
    """
    pairs = choose_pairs(folder, reference, count)
    images = open_map(folder).images
    names = {frame.index: frame.name for frame in open_map(folder).frames}
    frames = {
        geometry.index: _frame(images / names[geometry.index], geometry)
        for pair in pairs
        for geometry in (pair.first, pair.second)
    }
    for name, describe, match in methods():
        yield _measured(name, describe, match, pairs, frames)


def methods() -> Iterator[tuple[str, Describe, Match]]:
    """Name, description and matching of every method. Raises ReconError if the weights are missing."""
    sift, xfeat = SiftMatcher(), open_xfeat_matcher("cpu")
    yield "SIFT, 2,048", sift.describe, sift.match
    yield "XFeat, 2,048, nearest both ways", replace(xfeat, keypoints=2048).describe, nearest
    for count in (512, 1024):
        glued: XFeatMatcher = replace(xfeat, keypoints=count)
        yield f"XFeat, {count:,}, LighterGlue", glued.describe, glued.match


def nearest(first: Features, second: Features) -> NDArray[np.integer]:
    """Matched rows (m, 2): descriptors that are each other's nearest, and near."""
    return near_both_ways(first.descriptors, second.descriptors)


def choose_pairs(folder: Path, reference: Path, count: int) -> list[Pair]:
    """Pairs of frames with a true overlap in OVERLAP and a baseline, at random but always the same ones."""
    truth = read_tum(reference)
    rows = {round(stamp): row for row, stamp in enumerate(truth.timestamps.tolist())}
    found = [frame for frame in open_map(folder).frames if frame.index in rows]
    some = {found[at].index for at in np.linspace(0, len(found) - 1, min(len(found), MOST_FRAMES)).astype(int)}
    views = [(placed.world_from_cam, geometry) for placed, geometry in open_map(folder).geometry(some)]
    pairs = list(combinations(views, 2))
    chosen: list[Pair] = []
    for at in np.random.default_rng(0).permutation(len(pairs)):
        (world_from_first, first), (world_from_second, second) = pairs[at]
        overlap = min(
            _seen(world_from_first, first, world_from_second, second),
            _seen(world_from_second, second, world_from_first, first),
        )
        depth = world_from_first.scale * float(np.median(first.depth[first.depth > 0]))
        baseline = float(np.linalg.norm(world_from_first.translation - world_from_second.translation))
        if OVERLAP[0] <= overlap <= OVERLAP[1] and baseline >= LEAST_BASELINE * depth:
            poses = [truth.world_from_cam[rows[geometry.index]] for geometry in (first, second)]
            chosen.append(Pair(first, second, np.linalg.inv(poses[1]) @ poses[0], overlap))
        if len(chosen) == count:
            break
    if not chosen:
        raise SourceError(f"{folder} has no two frames with an overlap of {OVERLAP[0]:.0%} to {OVERLAP[1]:.0%}.")
    return chosen


def _seen(world_from_source: Sim3, source: FrameGeometry, world_from_target: Sim3, target: FrameGeometry) -> float:
    """Share of the source's depth that the target sees at the same depth."""
    cams = (Sim3.from_matrix(geometry.cam_from_chunk) for geometry in (source, target))
    source_cam, target_cam = cams
    target_from_source = target_cam.inverse() @ world_from_target.inverse() @ world_from_source @ source_cam
    share, same = shared_surface(target_from_source, source, target, SAME_DEPTH, step=8)
    return share * same


def _measured(
    name: str, describe: Describe, match: Match, pairs: list[Pair], frames: Mapping[int, Frame]
) -> MethodResult:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    features = {index: describe(frame) for index, frame in frames.items()}
    described = time.process_time()
    matches = [match(features[pair.first.index], features[pair.second.index]).astype(np.uint32) for pair in pairs]
    matched = time.process_time()
    torch.set_num_threads(threads)
    errors = [
        pose_error(pair, features[pair.first.index], features[pair.second.index], rows)
        for pair, rows in zip(pairs, matches, strict=True)
    ]
    number = float(np.mean([len(rows) for rows in matches]))
    return MethodResult(
        name, tuple(errors), number, (described - start) / len(frames), (matched - described) / len(pairs)
    )


def pose_error(pair: Pair, first: Features, second: Features, rows: NDArray[np.uint32]) -> float:
    """The larger error [degrees] of the rotation and of the direction of a pair's motion, solved from its matches."""
    options = pycolmap.TwoViewGeometryOptions(min_num_inliers=FEWEST, compute_relative_pose=True)
    options.ransac.max_error, options.ransac.random_seed = MAX_ERROR, 0
    cameras = [colmap_camera(geometry.camera) for geometry in (pair.first, pair.second)]
    pixels = [features.keypoints[:, :2].astype(np.float64) for features in (first, second)]
    if len(rows) < FEWEST:
        return NO_POSE
    found = pycolmap.estimate_calibrated_two_view_geometry(
        cameras[0], pixels[0], cameras[1], pixels[1], rows, options
    ).cam2_from_cam1
    if found is None:
        return NO_POSE
    rotation, step = np.asarray(found.rotation.matrix()), np.asarray(found.translation)
    turned = (np.trace(rotation.T @ pair.moved[:3, :3]) - 1) / 2
    lengths = float(np.linalg.norm(step) * np.linalg.norm(pair.moved[:3, 3]))
    along = float(step @ pair.moved[:3, 3]) / max(lengths, 1e-12)
    return max(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))) for cosine in (turned, along))


def _frame(path: Path, geometry: FrameGeometry) -> Frame:
    """The upright original of a frame. Raises SourceError if it is missing."""
    stored = cv2.imread(str(path))
    if stored is None:
        raise SourceError(f"{path} is missing or no image. Run the map again.")
    image = np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    size = image.shape[1], image.shape[0]
    return Frame(geometry.index, 0.0, image, path.name, size, "", 0.0, np.ones(image.shape[:2], dtype=bool))
