"""Chooses a frame's lens by the points of the map if its pairs do not determine it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import SparseModel
from recon.sfm.database import MatchDatabase

SAME_FOCAL = 1.03  # ratio below which two lenses of a map are the same
FEWEST_POINTS = 30
CLEAR = 10.0  # decrease in the misfit of a frame's points that another lens must achieve
MAX_ERROR = 4.0  # of a point [px of the working image]

Views = tuple[Array, Array]  # pixels (n, 2) and points (n, 3)


def several_lenses(database: MatchDatabase) -> bool:
    """Whether the frames of any kind have more than one lens."""
    return any(len(numbers) > 1 for numbers in _lenses_by_kind(database).values())


def join_equal(database: MatchDatabase, model: SparseModel) -> None:
    """Merge lenses of one kind whose focal lengths agree in the map."""
    focals: dict[tuple[str, float], int] = {}
    for index, camera in model.cameras.items():
        focals[database.lenses.kind(index), camera.params[0]] = database.lenses.number_of(index)
    joined: dict[int, int] = {}
    first: tuple[str, float] | None = None  # of the merged lenses: a slow zoom must not become one lens
    for kind, focal in sorted(focals):
        if first is None or kind != first[0] or focal >= SAME_FOCAL * first[1]:
            first = (kind, focal)
        else:
            joined[focals[kind, focal]] = focals[first]
    by_frame = database.lenses.by_frame
    database.lenses.use({index: joined[number] for index, number in by_frame.items() if number in joined})


def reassign(database: MatchDatabase, model: SparseModel, frames: Sequence[int]) -> list[int]:
    """Give each frame whose kind has several lenses the one that fits the map's points best, or a new one.

    Returns the frames whose lens has changed.
    """
    lens_of, lenses = database.lenses.by_frame, _lenses_by_kind(database)
    doubtful = [index for index in frames if len(lenses[database.lenses.kind(index)]) > 1]
    if not doubtful:
        return []
    views = points_seen(database, model, doubtful)
    changed = {}
    for index in doubtful:
        number = _best_lens(database, index, lenses[database.lenses.kind(index)], views[index])
        if number != lens_of[index]:
            changed[index] = number
    database.lenses.use(changed)
    return list(changed)


def points_seen(database: MatchDatabase, model: SparseModel, frames: Collection[int]) -> dict[int, Views]:
    """The map's points that each frame sees, by its matches with other frames, whatever its pose."""
    wanted = set(frames)
    found: dict[int, list[NDArray[np.int64]]] = {index: [] for index in wanted}
    rows = model.points.rows_by_frame()
    ids = {
        index: _point_of_row(database.positions(index), model.points.pixels[of], model.points.point_ids[of])
        for index, of in rows.items()
    }
    for pair in database.verified_pairs({*wanted, *ids}):
        matches = database.verified_matches(pair)
        for side, index in enumerate(pair):
            if index in wanted and pair[1 - side] in ids:
                points = ids[pair[1 - side]][matches[:, 1 - side]]
                found[index].append(np.column_stack([matches[:, side], points])[points >= 0])
    return {index: _views(database.positions(index), model.points.positions, seen) for index, seen in found.items()}


def _lenses_by_kind(database: MatchDatabase) -> dict[str, set[int]]:
    lenses: dict[str, set[int]] = {}
    for index, number in database.lenses.by_frame.items():
        lenses.setdefault(database.lenses.kind(index), set()).add(number)
    return lenses


def _views(pixels: Array, points: Array, seen: list[NDArray[np.int64]]) -> Views:
    table = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *seen]), axis=0)
    return pixels[table[:, 0]], points[table[:, 1]]


def _point_of_row(positions: Array, pixels: Array, point_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The point (rows,) of each feature, -1 for none. pixels: positions of the features with a point."""
    rows = {tuple(pixel): row for row, pixel in enumerate(positions.tolist())}
    found = np.full(len(positions), -1, dtype=np.int64)
    for pixel, point in zip(pixels.tolist(), point_ids.tolist(), strict=True):
        found[rows[tuple(pixel)]] = point
    return found


def _best_lens(database: MatchDatabase, index: int, numbers: Collection[int], views: Views) -> int:
    own = database.lenses.number_of(index)
    if len(views[0]) < FEWEST_POINTS:
        return own
    scale, cameras = database.pixel_scale([index]), database.lenses.numbered(numbers)
    misfits = {number: _misfit(views, camera, scale) for number, camera in cameras.items()}
    best = min(misfits, key=lambda number: misfits[number])
    best = best if misfits[own] - misfits[best] > CLEAR else own
    focal, free = cameras[best].params[0], cameras[best]
    gain = misfits[best] - _misfit(views, free, scale, free=True)
    if gain < 2 * CLEAR or 1 / SAME_FOCAL < free.params[0] / focal < SAME_FOCAL:
        return best
    number = database.lenses.add(index)
    database.lenses.set_focal(number, float(free.params[0]))
    return number


def _misfit(views: Views, camera: pycolmap.Camera, scale: float, *, free: bool = False) -> float:
    """Misfit of the points at the best pose. free: also estimate the focal length and set it in ``camera``."""
    estimation = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=free)
    estimation.ransac.max_error, estimation.ransac.random_seed = MAX_ERROR * scale, 0
    estimation.ransac.max_num_trials = 1000
    refinement = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=free)
    found = pycolmap.estimate_and_refine_absolute_pose(*views, camera, estimation, refinement)
    if found is None:
        return np.inf
    points_cam = found["cam_from_world"] * views[1]
    errors = np.linalg.norm(np.asarray(camera.img_from_cam(points_cam)) - views[0], axis=1)
    errors = np.where(np.isfinite(errors) & (points_cam[:, 2] > 0), errors, np.inf)
    return float(np.log1p(np.minimum(errors / scale, MAX_ERROR) ** 2).sum())
