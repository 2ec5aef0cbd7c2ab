"""Decides from the matches which frames share a lens."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.types import SparseModel
from recon.sfm.database import ENOUGH_INLIERS, MatchDatabase
from recon.sfm.lenses import Lenses, PairTerms, find_lenses, may_differ

EPIPOLAR = (
    pycolmap.TwoViewGeometryConfiguration.CALIBRATED,
    pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED,
)
FEWEST_MATCHES = 2 * ENOUGH_INLIERS
CLEARLY_MORE = 1.03  # ratio of observations by which several lenses must beat one


def lend_focals(database: MatchDatabase, model: SparseModel) -> None:
    """Replace guessed focal lengths by those of a model with more lenses, to compare both fairly."""
    focals: dict[int, list[float]] = {}
    for index, camera in model.cameras.items():
        if not database.lenses[index].has_prior_focal_length:
            focals.setdefault(database.lenses.number_of(index), []).append(camera.params[0])
    for number, found in focals.items():
        database.lenses.set_focal(number, float(np.median(found)))


@stage("lenses")
def divide(database: MatchDatabase, frames: Sequence[int], placed: Collection[int]) -> bool:
    """Assign to frames the lenses that their matches support; returns whether any lens changed.

    placed: the frames whose lens is known. Frames of different kinds never share a lens. With a lens per image, this
    sets the initial focal lengths.
    """
    free = np.array([index not in placed for index in frames])
    if database.lenses.sharing not in ("auto", "per-image"):
        return False
    apart = database.lenses.sharing == "per-image"
    if not free.any() or (not apart and not _may_differ(database, frames, placed)):
        return False
    terms = pair_terms(database, frames)
    start = _start(database, frames, free)
    found = find_lenses(terms, start, free, lambda: zooms(database, frames))
    database.lenses.may_differ |= may_differ(terms, found, free)
    if apart:
        unbent = _bias(database, frames, placed, found)
        for index, row in zip(frames, found.of_frame, strict=True):
            if index not in placed:
                focal = float(found.focals[row]) * unbent * longest_side(database, index)
                database.lenses.set_focal(database.lenses.number_of(index), focal)
        return True
    return _take_over(database, frames, free, found)


def pair_terms(database: MatchDatabase, frames: Sequence[int]) -> PairTerms:
    """Terms from the epipolar geometry of pairs; their rows are positions in ``frames``."""
    places = {index: place for place, index in enumerate(frames)}
    pairs, fundamentals = [], []
    for pair in sorted(database.verified_pairs(frames)):
        geometry = database.two_views(pair)
        if geometry.config in EPIPOLAR and len(geometry.inlier_matches) >= FEWEST_MATCHES and geometry.F is not None:
            first, second = (_pixels_from_centre(database, index) for index in pair)
            fundamental = second.T @ np.asarray(geometry.F) @ first
            pairs.append([places[index] for index in pair])
            fundamentals.append(fundamental / np.linalg.norm(fundamental))
    return PairTerms.of(
        np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(fundamentals, dtype=np.float64).reshape(-1, 3, 3)
    )


def zooms(database: MatchDatabase, frames: Sequence[int]) -> Array:
    """Guessed ratios (frames,) of focal lengths in longest sides, with median 1.

    The guess takes every change in the size of matched features for zoom, none for motion.
    """
    places = {index: place for place, index in enumerate(frames)}
    scales = {index: np.log(database.scales(index) / longest_side(database, index)) for index in frames}
    rows, ratios = [1e-3 * np.ones(len(frames))], [0.0]
    for pair in database.verified_pairs(frames):
        first, second = (scales[index][of] for index, of in zip(pair, database.verified_matches(pair).T, strict=True))
        row = np.zeros(len(frames))
        row[[places[index] for index in pair]] = np.sqrt(len(first)) * np.array([1, -1])
        rows.append(row)
        ratios.append(float(np.sqrt(len(first)) * np.median(first - second)))
    logarithms = np.linalg.lstsq(np.array(rows), np.array(ratios))[0]
    return np.asarray(np.exp(logarithms - np.median(logarithms)))


def longest_side(database: MatchDatabase, frame_index: int) -> int:
    """Longest side of a frame's original [px]."""
    camera = database.lenses[frame_index]
    return int(max(camera.width, camera.height))


def clearly_better(several: SparseModel, one: SparseModel) -> bool:
    """Whether several lenses place more frames, or as many with clearly more observations."""
    if len(several.cam_from_model) != len(one.cam_from_model):
        return len(several.cam_from_model) > len(one.cam_from_model)
    return len(several.points.point_ids) > CLEARLY_MORE * len(one.points.point_ids)


def _pixels_from_centre(database: MatchDatabase, frame_index: int) -> Array:
    """Matrix (3, 3) from coordinates relative to the centre, in longest sides, to pixels."""
    camera, side = database.lenses[frame_index], longest_side(database, frame_index)
    return np.array([[side, 0, camera.width / 2], [0, side, camera.height / 2], [0, 0, 1.0]])


def _may_differ(database: MatchDatabase, frames: Sequence[int], placed: Collection[int]) -> bool:
    """Whether any unplaced frame shares its kind with another frame."""
    kinds = [database.lenses.kind(index) for index in frames]
    return any(kinds.count(database.lenses.kind(index)) > 1 for index in frames if index not in placed)


def _start(database: MatchDatabase, frames: Sequence[int], free: NDArray[np.bool_]) -> Lenses:
    """The present lenses; those of placed frames are marked as kept."""
    numbers, rows = np.unique([database.lenses.number_of(index) for index in frames], return_inverse=True)
    names = [database.lenses.kind(index) if database.lenses.sharing == "auto" else "" for index in frames]
    kinds, focals = np.zeros(len(numbers), dtype=np.int64), np.ones(len(numbers))
    for row, index, name in zip(rows, frames, names, strict=True):
        kinds[row] = names.index(name)
        focals[row] = database.lenses[index].mean_focal_length() / longest_side(database, index)
    return Lenses(rows, focals, kinds, np.isin(np.arange(len(numbers)), rows[~free]))


def _take_over(database: MatchDatabase, frames: Sequence[int], free: NDArray[np.bool_], found: Lenses) -> bool:
    """Write the lenses to the database; returns whether any frame's lens changed."""
    before = database.lenses.by_frame
    placed = {index for index, is_free in zip(frames, free, strict=True) if not is_free}
    lens_of: dict[int, int] = {}
    focals: dict[int, float] = {}
    taken, unbent = {before[index] for index in placed}, _bias(database, frames, placed, found)
    for row in np.argsort(-np.bincount(found.of_frame, minlength=len(found.focals)), kind="stable"):
        members = [frames[place] for place in np.flatnonzero(found.of_frame == row).tolist()]
        known = [index for index in members if index in placed]
        if not members:
            continue
        number = before[(known or members)[0]]
        if not known:
            number = number if number not in taken else database.lenses.add(members[0])
            focals[number] = float(found.focals[row]) * unbent * longest_side(database, members[0])
        taken.add(number)
        lens_of.update(dict.fromkeys(members, number))
    if all(before[index] == number for index, number in lens_of.items()):
        return False
    database.lenses.use(lens_of)
    for number, focal in focals.items():
        database.lenses.set_focal(number, focal)
    return True


def _bias(database: MatchDatabase, frames: Sequence[int], placed: Collection[int], found: Lenses) -> float:
    """Ratio of known to estimated focal lengths; the pairs ignore distortion, which biases all alike."""
    ratios = [
        database.lenses[index].mean_focal_length() / longest_side(database, index) / found.focals[row]
        for index, row in zip(frames, found.of_frame, strict=True)
        if index in placed
    ]
    return float(np.median(ratios)) if ratios else 1.0
