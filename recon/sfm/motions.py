"""Finds objects that move in front of the scene: in many pairs, they contradict the geometry of most of the image.

An object that the camera follows can have more matches than the scene, so counting matches fails. Instead, the geometry
is fitted to a few matches from every cell of the image, most of them at the border. A single pair can still be wrong,
so tracks over many pairs decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from recon.core.cameras import points_at_depth_one
from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.types import Frame, Mask
from recon.sfm.database import MatchDatabase
from recon.sfm.matching import Pair

CELLS = 12  # along either side of an image
BORDER = 3  # cells
BORDER_MATCHES, INNER_MATCHES = 3, 1  # per cell, for fitting a geometry
FEWEST_MATCHES = 15
FOCALS = (0.5, 0.65, 0.8, 1.0, 1.25, 1.6)  # in longest sides
BETTER = 1.1  # score ratio by which a lens must beat the one known from EXIF or the previous chunk
PAIRS_FOR_FOCAL = 16
PAIRS_FOR_MOTIONS = 40
PAIRS_OF_FRAME = 3
SHARED_BORDER = 0.5  # of the border cells that a frame shares with its most similar one
NOISE, BREACH = 1.5, 2.0  # px of the working image
CLEAR_BREACH = 8.0  # times the pair's median error
FEWEST_VOTES = 3
ROUNDS = 4
MAP_SIDE = 160  # px, of the density maps from which regions are taken
REACH = 0.03  # of a feature, as a share of the image's diagonal
FEWEST_FEATURES = 1.5  # density, see _density
SMALLEST_REGION = 0.03  # of the image
SHARE_OF_FRAMES, FRAMES_IN_A_ROW = 0.35, 8  # either suffices; static scenes give at most 4 in a row
FARTHER_APART = 1.2
SIMILAR = 0.4  # of the area with features; above, it is unclear which motion is the scene's
TORN_FOR_ANY_LENS = 0.015  # share of cells explained by a second fundamental matrix; 0 if only the lens is wrong
TORN = 0.06  # share of cells explained by a second essential matrix; at most 0.03 in static scenes

Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Moving:
    """Moving objects. masks: by frame index, True on the object, in the shape of the frame's working image.

    area: the object's share of the area with features, median over these frames. surrounds: whether the object
    surrounds the supposed scene instead of moving in front of it. torn: whether two motions remain outside the masks.
    """

    masks: dict[int, Mask]
    area: float = 0.0
    surrounds: bool = False
    torn: bool = False

    @property
    def is_doubtful(self) -> bool:
        """Whether the supposed scene may be the moving object."""
        return self.surrounds or self.torn or self.area > SIMILAR

    def leave_out(self, frames: Sequence[Frame]) -> tuple[Frame, ...]:
        """The frames with the moving objects masked."""
        return tuple(
            replace(frame, mask=frame.mask & ~self.masks[frame.index]) if frame.index in self.masks else frame
            for frame in frames
        )

    def describe(self, frames: Sequence[Frame]) -> str:
        """The notice for the user. frames: all frames of the chunk, masked or not."""
        if not self.masks:
            return (
                "two motions share the images, and it is unclear which one is the scene's. Nothing is masked, and the "
                "map may mix them. Mask moving objects with --masks."
            )
        where = f"in {len(self.masks)} of {len(frames)} frames"
        if self.surrounds:
            return (
                f"two motions of similar extent {where}, and it is unclear which one is the scene's. Nothing is "
                "masked, and the map may show the moving object. Mask moving objects with --masks."
            )
        share = float(np.mean([mask.mean() for mask in self.masks.values()]))
        said = f"something moves in front of the scene {where}; {share:.0%} of their area is left out of the map."
        if self.torn:
            said += " Two motions remain in the rest, and the map may mix them. Mask moving objects with --masks."
        elif self.is_doubtful:
            said += (
                f" It and the scene are of similar extent: the part left out covers {self.area:.0%} of the area with "
                "features, and may be the scene. Mask moving objects with --masks."
            )
        return said


@dataclass(frozen=True, eq=False)
class _Matches:
    """Matches of one pair. first, second: normalised image coordinates (n, 2). cells: (n, 2), image cell in each frame.
    tracks: (n,), track numbers. pixel: size of a working pixel in normalised coordinates."""

    first: Array
    second: Array
    cells: Rows
    tracks: Rows
    pixel: float

    @cached_property
    def essential(self) -> Array | None:
        """See ``_fit``."""
        return _fit(self)

    def without(self, tracks: Flags) -> _Matches:
        left_out = tracks[self.tracks]
        return self.only(~left_out) if left_out.any() else self

    def only(self, kept: Flags) -> _Matches:
        return _Matches(self.first[kept], self.second[kept], self.cells[kept], self.tracks[kept], self.pixel)


class _Tracks:
    """Features of some frames, joined by the matches of chosen pairs."""

    def __init__(self, database: MatchDatabase, frames: Sequence[Frame]) -> None:
        self._database = database
        self._frames = {frame.index: frame for frame in frames}
        self.positions = {index: database.positions(index) for index in self._frames}
        verified = database.verified_pairs(self._frames)
        self._rows = {pair: database.matches(pair) for pair in verified}
        self._cells = {index: self._find_cells(index) for index in self._frames}
        self.pairs = self._wide_pairs()
        self._numbers = self._join()
        self.count = 1 + max((int(numbers.max(initial=-1)) for numbers in self._numbers.values()), default=-1)

    def of_frame(self, index: int) -> Rows:
        """The number of the track of every feature."""
        return self._numbers[index]

    def cells_of_frame(self, index: int) -> Rows:
        """The cell of every feature."""
        return self._cells[index]

    def matches(self, pair: Pair, focal: float | None) -> _Matches:
        """Matches of a pair. focal: for all frames, in longest sides; None uses the lenses in the database."""
        rows = self._rows[pair]
        rays, scales = zip(*(self._rays(index, focal) for index in pair), strict=True)
        first, second = (ray[column] for ray, column in zip(rays, rows.T, strict=True))
        cells = np.column_stack([self._cells[index][column] for index, column in zip(pair, rows.T, strict=True)])
        tracks = self._numbers[pair[0]][rows[:, 0]]
        finite = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        return _Matches(first[finite], second[finite], cells[finite], tracks[finite], float(np.mean(scales)))

    def inside(self, masks: Mapping[int, Mask]) -> Flags:
        """Whether each track (count,) lies in any of the masks."""
        found = np.zeros(self.count, np.bool_)
        for index, mask in masks.items():
            height, width = mask.shape
            places = self.positions[index] / self._frames[index].original_size * [width, height]
            columns, rows = np.clip(places.astype(np.int64), 0, [width - 1, height - 1]).T
            found[self._numbers[index][mask[rows, columns]]] = True
        return found

    @property
    def is_calibrated(self) -> bool:
        """Whether the user gave the lens; EXIF can be wrong."""
        return bool(self._database.lenses.fixed())

    @property
    def has_lenses(self) -> bool:
        """Whether the lenses are more than a guess."""
        return all(self._database.lenses[index].has_prior_focal_length for index in self._frames)

    def _rays(self, index: int, focal: float | None) -> tuple[Array, float]:
        camera = self._database.lenses[index]
        if focal is not None:
            params = camera.params.copy()
            params[camera.focal_length_idxs()] = focal * max(camera.width, camera.height)
            camera.params = params.tolist()
        pixel = self._frames[index].original_size[0] / self._frames[index].image.shape[1]
        return points_at_depth_one(camera, self.positions[index]), pixel / camera.mean_focal_length()

    def _find_cells(self, index: int) -> Rows:
        places = self.positions[index] / self._frames[index].original_size * CELLS
        columns, rows = np.clip(places.astype(np.int64), 0, CELLS - 1).T
        return np.asarray(rows * CELLS + columns)

    def _wide_pairs(self) -> list[Pair]:
        """For every frame, the widest pairs that share enough of the border to determine the scene's motion."""
        shared: dict[int, list[tuple[int, Pair]]] = {}
        for pair, rows in self._rows.items():
            cells = np.unique(self._cells[pair[0]][rows[:, 0]])
            shared.setdefault(pair[0], []).append((int(IS_BORDER[cells].sum()), pair))
        chosen: list[Pair] = []
        for around in shared.values():
            enough = SHARED_BORDER * max(cells for cells, _ in around)
            chosen += [pair for cells, pair in sorted(around) if cells >= enough][:PAIRS_OF_FRAME]
        return sorted(chosen)

    def _join(self) -> dict[int, Rows]:
        starts = dict(zip(self._frames, np.cumsum([0, *map(len, self.positions.values())]), strict=False))
        total = sum(map(len, self.positions.values()))
        links = [np.zeros((0, 2), np.int64)]
        links += [rows + np.array([starts[pair[0]], starts[pair[1]]]) for pair, rows in self._rows.items()]
        first, second = np.concatenate(links).T
        graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(total, total))
        numbers = connected_components(graph, directed=False)[1].astype(np.int64)
        return {index: numbers[start : start + len(self.positions[index])] for index, start in starts.items()}


IS_BORDER = np.pad(np.zeros((CELLS - 2 * BORDER,) * 2, np.bool_), BORDER, constant_values=True).ravel()


@stage("moving objects")
def find_moving(database: MatchDatabase, frames: Sequence[Frame]) -> Moving:
    """Find moving objects in frames whose near neighbours are matched; no masks if one motion explains enough.

    Tracks that contradict the geometry of most of their pairs are removed and the geometries estimated again, until
    the result is stable. A wrong lens also looks like motion, but fundamental matrices need no lens: a motion counts
    only if they show it, too.
    """
    tracks = _Tracks(database, frames)
    focal = None if tracks.is_calibrated else _best_focal(tracks)
    pairs = [tracks.matches(pair, focal) for pair in tracks.pairs]
    found = _find(tracks, frames, pairs)
    if found.masks:
        own = [of for pair, of in zip(tracks.pairs, pairs, strict=True) if found.masks.keys() >= set(pair)]
        if _second_motion(own, _fit_without_lens) < TORN_FOR_ANY_LENS:
            return Moving({})
    left_out = tracks.inside(found.masks)
    room = [matches.without(left_out) for matches in pairs]
    torn = _second_motion(room, attrgetter("essential")) > TORN
    if torn and not found.masks:  # a wrong lens is not excluded yet
        torn = _second_motion(room, _fit_without_lens) > TORN_FOR_ANY_LENS
    return replace(found, torn=torn)


def _find(tracks: _Tracks, frames: Sequence[Frame], pairs: Sequence[_Matches]) -> Moving:
    moving, found = np.zeros(tracks.count, np.bool_), Moving({})
    for _ in range(ROUNDS):
        before, (moving, judged) = moving, _vote(pairs, moving)
        found = _regions(tracks, frames, moving, judged)
        if not found.masks or (moving != before).sum() < 0.02 * moving.sum():
            break
    return found


def _second_motion(pairs: Sequence[_Matches], fit: Callable[[_Matches], Array | None]) -> float:
    """Share of the image that only a second geometry explains, exceeded in SHARE_OF_FRAMES of the pairs."""
    some = pairs[:: max(1, len(pairs) // PAIRS_FOR_MOTIONS)]
    shares = [_explained_by_second(matches, fit) for matches in some]
    return float(np.quantile(shares, 1 - SHARE_OF_FRAMES)) if shares else 0.0


def _explained_by_second(matches: _Matches, fit: Callable[[_Matches], Array | None]) -> float:
    """Share of cells in which most matches contradict the pair's geometry but fit a second one.

    The second geometry is fitted to all matches that contradict the first. Wrong matches fit neither.
    """
    first = fit(matches)
    if first is None:
        return 0.0
    errors = _errors(first, matches)
    breaks = errors > _clear(errors)
    second = fit(matches.only(breaks))
    if second is None:
        return 0.0
    obeys = breaks & (_errors(second, matches) < NOISE)
    cells = matches.cells[:, 0]
    counts, obeying = (np.bincount(of, minlength=CELLS**2) for of in (cells, cells[obeys]))
    filled = counts > 1
    return float((2 * obeying > counts)[filled].sum() / max(filled.sum(), 1))


def _best_focal(tracks: _Tracks) -> float | None:
    """The focal length for which the pairs' geometries explain most of the image; None for the known lenses."""
    some = tracks.pairs[:: max(1, len(tracks.pairs) // PAIRS_FOR_FOCAL)]

    def score(focal: float | None) -> float:
        return sum(_explained(tracks.matches(pair, focal)) for pair in some)

    best = max(FOCALS, key=score)
    return None if tracks.has_lenses and BETTER * score(None) >= score(best) else best


def _explained(matches: _Matches) -> float:
    """Sum over cells of the share of matches that a pair's geometry explains; border cells count twice."""
    essential = matches.essential
    if essential is None:
        return 0.0
    fits = np.maximum(0, 1 - (_errors(essential, matches) / NOISE) ** 2)
    cells = matches.cells[:, 0]
    counts, sums = np.bincount(cells, minlength=CELLS**2), np.bincount(cells, fits, minlength=CELLS**2)
    return float(((1 + IS_BORDER) * sums / np.maximum(counts, 1)).sum())


def _fit(matches: _Matches) -> Array | None:
    """The essential matrix of a pair, from matches all over the image; None if there are too few.

    A planar object determines an essential matrix completely. A fundamental matrix that fits it would have two degrees
    of freedom left to fit half of the scene as well.
    """
    to_pixels = np.diag([1 / matches.pixel, 1 / matches.pixel, 1])
    method = cv2.USAC_MAGSAC
    return _fit_spread(
        matches,
        lambda first, second: cv2.findEssentialMat(first, second, to_pixels, method, 0.99, NOISE, maxIters=1000)[0],
    )


def _fit_without_lens(matches: _Matches) -> Array | None:
    """Like ``_fit``, but with a fundamental matrix."""
    to_pixels = np.diag([1 / matches.pixel, 1 / matches.pixel, 1])
    found = _fit_spread(
        matches, lambda first, second: cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, NOISE, 0.99, 2000)[0]
    )
    return None if found is None else to_pixels @ found @ to_pixels


def _fit_spread(matches: _Matches, estimate: Callable[[Array, Array], MatLike | None]) -> Array | None:
    """The geometry estimated from matches spread over the image."""
    chosen = _spread(matches.cells)
    if len(chosen) < FEWEST_MATCHES:
        return None
    try:
        found = estimate(matches.first[chosen] / matches.pixel, matches.second[chosen] / matches.pixel)
    except cv2.error:  # how OpenCV reports no model
        return None
    return np.asarray(found, dtype=np.float64) if found is not None and found.shape == (3, 3) else None


def _spread(cells: Rows) -> Rows:
    """Rows of matches, thinned to the limit of every cell in both frames. cells: (n, 2)."""
    order = np.random.default_rng(0).permutation(len(cells))
    kept = np.ones(len(cells), np.bool_)
    for column in cells.T:
        limits = np.where(IS_BORDER[column], BORDER_MATCHES, INNER_MATCHES)
        kept &= _turns(column, order) < limits
    return np.flatnonzero(kept)


def _turns(groups: Rows, order: Rows) -> Rows:
    """Number of elements of the same group before each element in ``order``."""
    by_group = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    turns = np.empty(len(groups), np.int64)
    turns[by_group] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return turns


def _errors(essential: Array, matches: _Matches) -> Array:
    """Sampson errors (n,) [px of the working image]."""
    first, second = (np.column_stack([rays, np.ones(len(rays))]) for rays in (matches.first, matches.second))
    lines_second, lines_first = first @ essential.T, second @ essential
    spread = (lines_second[:, :2] ** 2).sum(axis=1) + (lines_first[:, :2] ** 2).sum(axis=1)
    return np.asarray(np.abs((second * lines_second).sum(axis=1)) / np.sqrt(spread + 1e-18) / matches.pixel)


def _vote(pairs: Sequence[_Matches], moving: Flags) -> tuple[Flags, Flags]:
    """Which tracks move, judged by geometries without ``moving``, and which have enough votes to decide."""
    against, votes = np.zeros(len(moving)), np.zeros(len(moving))
    for matches in pairs:
        room = matches.without(moving)
        essential = room.essential
        if essential is None:
            continue
        errors = _errors(essential, matches)
        clear = _clear(_errors(essential, room))
        breaks, obeys = errors > clear, errors < 0.5 * clear
        against += np.bincount(matches.tracks[breaks], minlength=len(moving))
        votes += np.bincount(matches.tracks[breaks | obeys], minlength=len(moving))
    judged = votes >= FEWEST_VOTES
    return judged & (against > 0.5 * votes), judged


def _clear(errors: Array) -> float:
    """The error above which a match contradicts the pair's geometry."""
    return max(BREACH, CLEAR_BREACH * float(np.median(errors)))


def _regions(tracks: _Tracks, frames: Sequence[Frame], moving: Flags, judged: Flags) -> Moving:
    """Regions where moving tracks outnumber the scene's, if in many frames or in many in a row."""
    masks: dict[int, Mask] = {}
    areas, around = {}, {}
    for frame in frames:
        numbers = tracks.of_frame(frame.index)
        places = tracks.positions[frame.index] / frame.original_size
        parts = moving[numbers], judged[numbers] & ~moving[numbers]
        height, width = frame.image.shape[:2]
        region = _region(places[parts[0]], places[parts[1]], (height, width))
        if region.any():
            masks[frame.index] = region
            cells = tracks.cells_of_frame(frame.index)
            counts = [np.bincount(cells[part], minlength=CELLS**2) for part in parts]
            ahead = counts[0] > counts[1]
            areas[frame.index] = ahead.sum() / ((counts[0] > 0) | (counts[1] > 0)).sum()
            around[frame.index] = _surrounds(ahead, counts[1] > counts[0])
    kept = list(masks) if len(masks) >= SHARE_OF_FRAMES * len(frames) else _stretches(masks, frames)
    if not kept:
        return Moving({})
    area, surrounds = (float(np.median([values[index] for index in kept])) for values in (areas, around))
    return Moving({index: masks[index] for index in kept}, area, surrounds > 0.5)


def _stretches(found: Collection[int], frames: Sequence[Frame]) -> list[int]:
    """Frames in long rows, as when somebody enters or leaves; single frames may be missing in a row."""
    places = np.flatnonzero([frame.index in found for frame in frames])
    rows = np.split(places, np.flatnonzero(np.diff(places) > 2) + 1)
    return [frames[place].index for row in rows if len(row) >= FRAMES_IN_A_ROW for place in row]


def _surrounds(cells: Flags, others: Flags) -> bool:
    """Whether cells (CELLS * CELLS,) spread clearly wider than the others, horizontally or vertically."""
    spreads = [np.argwhere(part.reshape(CELLS, CELLS)).std(axis=0) for part in (cells, others) if part.any()]
    return len(spreads) < 2 or bool((spreads[0] > FARTHER_APART * spreads[1]).any())


def _region(moving: Array, room: Array, shape: tuple[int, int]) -> Mask:
    """True where moving features outnumber the scene's; both (n, 2), in shares of width and height."""
    scale = MAP_SIDE / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    reach = REACH * float(np.hypot(height, width))
    densities = [_density(places, (height, width), reach) for places in (moving, room)]
    region = ((densities[0] > densities[1]) & (densities[0] > FEWEST_FEATURES)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region)
    large = [n for n in range(1, count) if stats[n, cv2.CC_STAT_AREA] >= SMALLEST_REGION * region.size]
    contours, _ = cv2.findContours(np.isin(labels, large).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros((height, width), np.uint8), contours, -1, 1, cv2.FILLED)
    return np.asarray(cv2.resize(filled, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _density(places: Array, shape: tuple[int, int], reach: float) -> Array:
    """Number of ``places`` (n, 2) near each pixel, weighted by distance."""
    height, width = shape
    image = np.zeros(shape, np.float32)
    columns, rows = np.minimum((places * [width, height]).astype(np.int64), [width - 1, height - 1]).T
    np.add.at(image, (rows, columns), 1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), reach) * 2 * np.pi * reach**2)
