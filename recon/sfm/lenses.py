"""Focal lengths from the epipolar geometry of pairs, with the fewest lenses that explain it.

With the right focal lengths, a fundamental matrix becomes an essential one, whose two singular values are equal
(Hartley and Zisserman 2004, section 9.6). The search starts from a lens per frame and merges those that the pairs
do not distinguish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array

Rows = NDArray[np.int64]

GRID = np.geomspace(0.25, 4.0, 94)  # focal lengths [longest sides], 3% apart
STEPS = np.exp(np.unique(np.r_[np.linspace(-0.5, 0.5, 41), np.linspace(-0.02, 0.02, 9)]))
NOISE = 0.005  # relative difference of the singular values with the right focal lengths
PENALTY = 20.0  # per lens, in units of the misfit
CLEAR_SHARE = 0.6  # largest misfit of several lenses relative to one; wrong matches alone stay above
LEAST_RATIO = 1.05  # of two focal lengths; smaller ratios are noise or harmless
ROUNDS = 6
APART_SHARE = 0.75  # largest misfit of a lens per frame relative to one; about 0.9 if lenses do not differ
SUSPICIOUS = 1.5  # mean misfit; pairs of one lens stay below
ZOOM_WEIGHT = 10.0  # misfit added for a focal length e times the guessed one


@dataclass(frozen=True, eq=False)
class PairTerms:
    """Constraints of pairs of frames on focal lengths.

    frames: (pairs, 2), rows of the frames. squares, minors: (pairs, 4), coefficients of the squared norms of the
    essential matrix and of its minors, as functions of the two focal lengths.
    """

    frames: Rows
    squares: Array
    minors: Array

    @classmethod
    def of(cls, frames: Rows, fundamentals: Array) -> PairTerms:
        """fundamentals: (pairs, 3, 3) from the first to the second frame, in coordinates relative to the centre of each
        image, in longest sides."""
        cofactors = np.cross(np.roll(fundamentals, -1, axis=1), np.roll(fundamentals, -2, axis=1))
        return cls(frames, _block_norms(fundamentals), _block_norms(cofactors))

    def misfit(self, rows: Rows, first: Array, second: Array) -> Array:
        """Misfit of focal lengths to pairs, 0 for a perfect fit; broadcasts against (rows, 1)."""
        a, b = np.square(first), np.square(second)
        squares, minors = self.squares[rows][:, :, None], self.minors[rows][:, :, None]
        total = a * b * squares[:, 0] + b * squares[:, 1] + a * squares[:, 2] + squares[:, 3]
        product = a * b * (minors[:, 0] + a * minors[:, 1] + b * minors[:, 2] + a * b * minors[:, 3])
        twice = 2 * np.sqrt(product)
        unequal = np.maximum(total - twice, 0) / np.maximum(total + twice, 1e-300)
        return np.asarray(np.log1p(unequal / NOISE**2))


@dataclass(frozen=True, eq=False)
class Lenses:
    """The lens of every frame. of_frame: (frames,), row of the lens. focals: (lenses,), in longest sides. kinds:
    (lenses,); only lenses of one kind may merge. kept: (lenses,), True for earlier lenses, of which no two may merge.
    """

    of_frame: Rows
    focals: Array
    kinds: Rows
    kept: NDArray[np.bool_]

    def of(self, frames: Rows) -> Array:
        """Focal lengths (..., 1) of frames."""
        return np.asarray(self.focals[self.of_frame[frames]])[..., None]


def misfit(terms: PairTerms, lenses: Lenses) -> float:
    """The misfit of all pairs."""
    return float(_misfit(terms, lenses, np.arange(len(terms.frames))))


def find_lenses(terms: PairTerms, start: Lenses, free: NDArray[np.bool_], zooms: Callable[[], Array]) -> Lenses:
    """The fewest lenses that fit the pairs; those of ``start``, refined, if they are good enough.

    free: (frames,), True if the lens may differ from ``start``. zooms: guesses the ratios (frames,) of the focal
    lengths; called only if a lens per frame fits better or the pairs look suspicious.
    """
    shared = fit(terms, _best_of_grid(terms, start))
    best, least = shared, misfit(terms, shared) + PENALTY * len(shared.focals)
    if not free.any() or not len(terms.frames):
        return shared
    alike = np.ones(len(free))
    apart = fit(terms, _apart(shared, free))
    suspicious = misfit(terms, shared) > SUSPICIOUS * len(terms.frames)
    if misfit(terms, shared) - misfit(terms, apart) < PENALTY and not suspicious:
        return shared
    guess = zooms()
    zoomed = fit(terms, _best_scale(terms, _apart(shared, free), guess, free))
    for begun, ratios in ((apart, alike), (zoomed, guess)):
        merged = _merged(terms, _rounded(begun))
        found = _merged(terms, _reassigned(terms, merged, free, ratios))
        if (bound := misfit(terms, found) + PENALTY * len(found.focals)) < least:
            best, least = found, bound
    return best if misfit(terms, best) < CLEAR_SHARE * misfit(terms, shared) else shared


def may_differ(terms: PairTerms, lenses: Lenses, free: NDArray[np.bool_]) -> bool:
    """Whether pairs that fit ``lenses`` badly fit a lens per free frame better, as in a slow zoom."""
    left = misfit(terms, lenses)
    if left <= SUSPICIOUS * len(terms.frames):
        return False
    return misfit(terms, fit(terms, _apart(lenses, free))) < APART_SHARE * left


def fit(terms: PairTerms, lenses: Lenses) -> Lenses:
    """Optimise the focal length of each lens in turn."""
    focals = lenses.focals.copy()
    for _ in range(ROUNDS):
        before = focals.copy()
        for lens in range(len(focals)):
            candidates = np.clip(focals[lens] * STEPS, GRID[0], GRID[-1])
            focals[lens] = candidates[
                _candidate_misfits(terms, replace(lenses, focals=focals), lens, candidates).argmin()
            ]
        if np.allclose(before, focals, rtol=1e-3):
            break
    return replace(lenses, focals=focals)


def _misfit(terms: PairTerms, lenses: Lenses, rows: Rows) -> float:
    return float(terms.misfit(rows, *(lenses.of(terms.frames[rows, side]) for side in (0, 1))).sum())


def _candidate_misfits(terms: PairTerms, lenses: Lenses, lens: int, candidates: Array) -> Array:
    """Misfit (candidates,) of the pairs of one lens for candidate focal lengths."""
    own = lenses.of_frame[terms.frames] == lens
    rows = np.flatnonzero(own.any(axis=1))
    sides = (np.where(own[rows, side, None], candidates, lenses.of(terms.frames[rows, side])) for side in (0, 1))
    return np.asarray(terms.misfit(rows, *sides).sum(axis=0))


def _best_of_grid(terms: PairTerms, lenses: Lenses) -> Lenses:
    """Fit a common scale, with all focal lengths equal or in their present ratios."""
    ratios = lenses.focals / np.median(lenses.focals)
    shapes = (np.ones(len(ratios)), ratios)
    tried = [replace(lenses, focals=np.clip(focal * shape, GRID[0], GRID[-1])) for shape in shapes for focal in GRID]
    return min(tried, key=lambda lenses: misfit(terms, lenses))


def _best_scale(terms: PairTerms, lenses: Lenses, zooms: Array, free: NDArray[np.bool_]) -> Lenses:
    """Fit a common scale to the guessed ratios of the free frames; other lenses stay unchanged."""
    own = np.isin(np.arange(len(lenses.focals)), lenses.of_frame[free])
    ratios = np.ones(len(own))
    ratios[lenses.of_frame[free]] = zooms[free]
    tried = [
        replace(lenses, focals=np.where(own, np.clip(focal * ratios, GRID[0], GRID[-1]), lenses.focals))
        for focal in GRID
    ]
    return min(tried, key=lambda lenses: misfit(terms, lenses))


def _apart(lenses: Lenses, free: NDArray[np.bool_]) -> Lenses:
    """One lens per free frame, listed after the lenses of the other frames."""
    kept, kept_rows = np.unique(lenses.of_frame[~free], return_inverse=True)
    of_frame = np.empty(len(free), dtype=np.int64)
    of_frame[~free], of_frame[free] = kept_rows, len(kept) + np.arange(free.sum())
    own = lenses.of_frame[free]
    return Lenses(
        of_frame,
        np.r_[lenses.focals[kept], lenses.focals[own]],
        np.r_[lenses.kinds[kept], lenses.kinds[own]],
        np.r_[lenses.kept[kept], np.zeros(len(own), dtype=np.bool_)],
    )


def _rounded(lenses: Lenses) -> Lenses:
    """Lenses sorted by kind and focal length; almost equal ones are combined to speed up merging."""
    cells = np.searchsorted(GRID, lenses.focals * 1.015)
    keys = np.stack([lenses.kinds, cells, np.where(lenses.kept, np.arange(len(cells)) + 1, 0)], axis=1)
    _, first, rows = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.lexsort((lenses.focals[first], lenses.kinds[first]))
    places = np.argsort(order)
    chosen = first[order]
    return Lenses(
        places[rows.ravel()[lenses.of_frame]], lenses.focals[chosen], lenses.kinds[chosen], lenses.kept[chosen]
    )


def _merged(terms: PairTerms, lenses: Lenses) -> Lenses:
    """Merge neighbouring lenses, the cheapest merge first, while a merge costs less than a lens.

    Lenses of almost the same focal length are merged at any cost.
    """
    while True:
        tried = [
            _with_merged(terms, lenses, row)
            for row in range(len(lenses.focals) - 1)
            if lenses.kinds[row] == lenses.kinds[row + 1] and not lenses.kept[row : row + 2].all()
        ]
        if not tried:
            return lenses
        loss, merged = min(tried, key=lambda trial: trial[0])
        if loss > PENALTY:
            return lenses
        lenses = fit(terms, merged) if len(merged.focals) <= 6 else merged


def _with_merged(terms: PairTerms, lenses: Lenses, row: int) -> tuple[float, Lenses]:
    """The increase in misfit, -inf if the two are close, and the lenses with ``row`` and the next merged."""
    both = np.isin(lenses.of_frame, (row, row + 1))
    rows = np.flatnonzero(both[terms.frames].any(axis=1))
    before = _misfit(terms, lenses, rows)
    keep = np.delete(np.arange(len(lenses.focals)), row + 1)
    of_frame = lenses.of_frame - (lenses.of_frame > row)
    merged = Lenses(of_frame, lenses.focals[keep], lenses.kinds[keep], lenses.kept[keep])
    candidates = np.geomspace(lenses.focals[row], lenses.focals[row + 1], 9)
    merged.kept[row] = lenses.kept[row : row + 2].any()
    misfits = _candidate_misfits(terms, merged, row, candidates)
    merged.focals[row] = candidates[misfits.argmin()]
    near = lenses.focals[row + 1] < LEAST_RATIO * lenses.focals[row]
    return -np.inf if near else float(misfits.min()) - before, merged


def _reassigned(terms: PairTerms, lenses: Lenses, free: NDArray[np.bool_], zooms: Array) -> Lenses:
    """Assign to each free frame in turn the lens that fits its pairs and its guessed ratio best."""
    for _ in range(ROUNDS):
        of_frame = lenses.of_frame.copy()
        unit = np.median(lenses.of(np.flatnonzero(free))[:, 0] / zooms[free])
        for frame in np.flatnonzero(free):
            rows = np.flatnonzero((terms.frames == frame).any(axis=1))
            choices = np.flatnonzero(lenses.kinds == lenses.kinds[of_frame[frame]])
            misfits = []
            for lens in choices:
                of_frame[frame] = lens
                misfits.append(_misfit(terms, replace(lenses, of_frame=of_frame), rows))
            far = np.abs(np.log(lenses.focals[choices] / (unit * zooms[frame])))
            of_frame[frame] = choices[(misfits + ZOOM_WEIGHT * far).argmin()]
        if (of_frame == lenses.of_frame).all():
            break
        lenses = fit(terms, replace(lenses, of_frame=of_frame))
    return lenses


def _block_norms(matrices: Array) -> Array:
    """Squared norms (n, 4) of the upper left 2x2, upper right, lower left and lower right parts of (n, 3, 3)."""
    s = np.square(matrices)
    return np.stack([s[:, :2, :2].sum((1, 2)), s[:, :2, 2].sum(1), s[:, 2, :2].sum(1), s[:, 2, 2]], axis=1)
