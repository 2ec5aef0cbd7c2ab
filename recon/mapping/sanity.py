"""Whether the result of a run can be a map at all, and why to doubt it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from recon.core.cameras import colmap_camera
from recon.core.errors import InsaneMapError
from recon.core.projection import begins_shot
from recon.core.similarity import Array
from recon.core.types import PlacedFrame, SparsePoints
from recon.mapping.carriers import weakest_stretch
from recon.mapping.centres import centres_move
from recon.mapping.joints import weakest_joint

FEWEST_POINTS, FEW_POINTS = 12, 25  # least number of points that half of the frames see
IMPOSSIBLE_STEP = 50.0  # in depths seen: two images on either side of such a step cannot show the same thing
LARGE_STEP = 10.0  # times the usual one; at most 5.3 in real sequences
LONGER_STEPS = 75  # percentile: as long a step is usual anywhere, as after turning on the spot
AROUND, FEWEST_AROUND = 5, 2  # steps on either side
DENSE = 0.05  # of the width: images that differ less follow each other as closely as those of a video
USUAL_SHIFT = 3.0  # times the usual shift between neighbouring images; a real step exceeds it
ENOUGH_SHARED = 12  # points
ENOUGH_STEPS = 6
SHARE_BEHIND = 0.1
LARGE_ERROR = 0.005  # of the width
LITTLE_ANGLE = np.radians(0.5)
POINTS_ASKED = 2000


def examine(
    frames: Mapping[int, PlacedFrame], points: SparsePoints, depths: Mapping[int, float], views: int = 1
) -> tuple[str, ...]:
    """Reasons to doubt a map, one sentence each.

    frames: by index. points: in the world; empty if a network made the map. depths: distance of the scene that each
    frame sees, in the world. views: frames of a shot. Raises InsaneMapError if the map is certainly wrong.
    """
    ordered = [frames[index] for index in sorted(frames)]
    shots = _shots(sorted(frames), views)
    first = [frame for frame in ordered if shots[frame.index] == frame.index]
    found = _doubt_steps(first, points, depths)
    if len(points.positions):
        seen = _seen_by_shots(points, shots)
        found += _doubt_points(frames, points) + _doubt_joints(first, seen) + doubt_scale(first, seen)
        found += _doubt_centres(ordered, points)
    return tuple(found)


def _shots(indices: list[int], views: int) -> dict[int, int]:
    """The first of the frames that were taken together with each frame."""
    first = np.maximum.accumulate(np.where(begins_shot(indices, views), np.arange(len(indices)), 0))
    return {index: indices[row] for index, row in zip(indices, first.tolist(), strict=True)}


def _seen_by_shots(points: SparsePoints, shots: Mapping[int, int]) -> SparsePoints:
    """The points as the first frames of shots would see them if they saw all around."""
    indices = np.array([shots.get(index, index) for index in points.frame_indices.tolist()], dtype=np.int64)
    return replace(points, frame_indices=indices)


def _doubt_steps(frames: list[PlacedFrame], points: SparsePoints, depths: Mapping[int, float]) -> list[str]:
    centres = np.array([frame.world_from_cam.translation for frame in frames])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    depth = float(np.median(list(depths.values()))) if depths else 1.0
    wild = np.flatnonzero(steps > IMPOSSIBLE_STEP * depth)
    if len(wild) > len(steps) / 2:
        _refuse(f"the cameras are {np.median(steps) / depth:.0f} times as far apart as the scene is away")
    found = [
        f"{frames[row + 1].name} is {steps[row] / depth:.0f} times as far from the previous frame as from the scene"
        for row in wild[:1]
    ]
    jumps = {row: why for row, why in find_jumps(frames, points, steps).items() if row not in wild}
    return found + [
        f"the step to {frames[row + 1].name} is {steps[row] / usual_step(steps, row):.0f} times as long as those "
        f"around it, {why}"
        for row, why in list(jumps.items())[:1]
    ]


def usual_step(steps: Array, row: int) -> float:
    """The median of the steps before or after ``steps[row]``, or the longer ones of all others, whichever is larger."""
    sides = (steps[max(0, row - AROUND) : row], steps[row + 1 : row + 1 + AROUND])
    medians = [float(np.median(side)) for side in sides if len(side) >= FEWEST_AROUND]
    if not medians:
        return np.inf
    return max(*medians, float(np.percentile(np.delete(steps, row), LONGER_STEPS))) + 1e-12


def find_jumps(frames: list[PlacedFrame], points: SparsePoints, steps: Array) -> dict[int, str]:
    """Rows of ``steps`` that exceed those around them many times, in length and in speed, with the evidence against
    each.

    A video does not jump. Nor do images as close as those of a video, unless they differ more at that step, too: then
    the camera may have moved far, as from one group of photographs to the next.
    """
    if len(steps) < ENOUGH_STEPS:
        return {}
    times = np.diff([frame.timestamp for frame in frames])
    speeds = steps / np.where(times > 0, times, max(float(np.median(times)), 1e-9))
    jumps = [
        row
        for row in range(len(steps))
        if all(values[row] > LARGE_STEP * usual_step(values, row) for values in (steps, speeds))
    ]
    if not jumps:
        return {}
    if any(frame.timestamp != frame.index for frame in frames):
        return dict.fromkeys(jumps, "which the times of the frames do not explain")
    if not len(points.positions):
        return {}
    shifts = np.array([_shift(points, first.index, second.index) for first, second in pairwise(frames)])
    usual = float(np.nanmedian(shifts)) if np.isfinite(shifts).any() else np.nan
    width = frames[0].camera.width
    return {row: why for row in jumps if (why := _unexplained(float(shifts[row]), usual, width))}


def _unexplained(shift: float, usual: float, width: int) -> str:
    """The evidence against a jump between two images; empty if a larger shift of the image [px] explains it."""
    if shift < USUAL_SHIFT * usual:
        return "but the two images hardly differ more than others"
    if np.isnan(shift) and usual < DENSE * width:
        return "and hardly any point is seen from both sides: unless images are missing, the map breaks there"
    return ""


def _shift(points: SparsePoints, first: int, second: int) -> float:
    """Median distance [px] between the observations of the points that two frames share; nan if they share too few."""
    rows = [np.flatnonzero(points.frame_indices == index) for index in (first, second)]
    _, *both = np.intersect1d(points.point_ids[rows[0]], points.point_ids[rows[1]], return_indices=True)
    if len(both[0]) < ENOUGH_SHARED:
        return np.nan
    pixels = [points.pixels[row[shared]] for row, shared in zip(rows, both, strict=True)]
    return float(np.median(np.linalg.norm(pixels[0] - pixels[1], axis=1)))


def _doubt_points(frames: Mapping[int, PlacedFrame], points: SparsePoints) -> list[str]:
    rows = points.rows_by_frame()
    seen = float(np.median([len(rows.get(index, ())) for index in frames]))
    if not np.isfinite(points.positions).all():
        _refuse("points are not finite")
    if seen < FEWEST_POINTS:
        _refuse(f"half of the frames see at most {seen:.0f} points of the scene, where hundreds are usual")
    found = [f"half of the frames see at most {seen:.0f} points of the scene"] if seen < FEW_POINTS else []
    behind, error = measure(frames, points)
    if behind > SHARE_BEHIND:
        found.append(f"{behind:.0%} of the points lie behind cameras that see them")
    if error > LARGE_ERROR:
        found.append(f"points are seen {error:.1%} of the image width from where they should be")
    angle = widest_angle(frames, points)
    if angle < LITTLE_ANGLE:
        found.append(f"the scene is seen from directions only {np.degrees(angle):.1f} degrees apart: depth is a guess")
    return found


def _doubt_joints(frames: list[PlacedFrame], points: SparsePoints) -> list[str]:
    joint = weakest_joint(frames, points)
    if joint is None:
        return []
    part, joining = joint
    return [
        f"only {joining} points join the {len(part)} frames from {part[0].name} to {part[-1].name} to the others: how "
        "far away and how large that part is, is a guess"
    ]


def doubt_scale(frames: Sequence[PlacedFrame], points: SparsePoints) -> list[str]:
    """A sentence if hardly any point carries the scale across a place in the sequence."""
    stretch = weakest_stretch({frame.index: frame.world_from_cam.translation for frame in frames}, points)
    if stretch is None:
        return []
    names = {frame.index: frame.name for frame in frames}
    return [
        f"the scale may jump between {names[stretch.first]} and {names[stretch.last]}: only {stretch.carrying} points "
        f"carry it across, where {stretch.usual} are usual in this map"
    ]


def _doubt_centres(frames: list[PlacedFrame], points: SparsePoints) -> list[str]:
    if not centres_move(((frame.index, frame.camera, frame.cam_from_world) for frame in frames), points):
        return []
    return [
        "the points fit clearly better if the centre of the image moves: the video is stabilised, the images are "
        "cropped, or the poses are wrong"
    ]


def measure(frames: Mapping[int, PlacedFrame], points: SparsePoints) -> tuple[float, float]:
    """Share of observations whose point is behind the camera, and the median error of the others, in widths."""
    behind, errors = [], []
    for index, rows in points.rows_by_frame().items():
        if index not in frames:
            continue
        frame = frames[index]
        points_cam = points.positions[points.point_ids[rows]] @ frame.cam_from_world[:3, :3].T
        points_cam += frame.cam_from_world[:3, 3]
        before = points_cam[:, 2] > 0
        pixels = np.asarray(colmap_camera(frame.camera).img_from_cam(points_cam[before]))
        errors.append(np.linalg.norm(pixels - points.pixels[rows][before], axis=1) / frame.camera.width)
        behind.append(~before)
    return float(np.concatenate(behind).mean()), float(np.median(np.concatenate(errors)))


def widest_angle(frames: Mapping[int, PlacedFrame], points: SparsePoints) -> float:
    """Median over the points of the angle [rad] between the rays of the first and last frame that see the point."""
    order = np.lexsort((points.frame_indices, points.point_ids))
    ids, indices = points.point_ids[order], points.frame_indices[order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])[:: len(points.positions) // POINTS_ASKED + 1]
    ends = np.searchsorted(ids, ids[starts], side="right") - 1
    known = [(a, b) for a, b in zip(starts, ends, strict=True) if indices[a] in frames and indices[b] in frames]
    if not known:
        return np.pi
    rays = []
    for rows in zip(*known, strict=True):
        centres = np.array([frames[int(indices[row])].world_from_cam.translation for row in rows])
        ray = points.positions[ids[list(rows)]] - centres
        rays.append(ray / np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12))
    return float(np.median(2 * np.arcsin(np.clip(np.linalg.norm(rays[0] - rays[1], axis=1) / 2, 0, 1))))


def _refuse(why: str) -> None:
    raise InsaneMapError(
        f"The estimated poses cannot belong to a real scene: {why}. The images may be filled by something that moves "
        "with or in front of the camera (an overlay, glass, a reflection), or have no parallax. Mask it with --masks, "
        "or record with sideways motion."
    )
