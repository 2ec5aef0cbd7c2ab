"""The similarity from a map to metres that agrees best with known lengths and positions, and with how many of them.

Wrong observations among right ones are left out: lengths that differ from what most of them say, and positions far from
the similarity of least median distance (Rousseeuw 1984), which is refined by all that agree with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SettingsError
from recon.core.similarity import Array, Sim3
from recon.mapping.alignment import fit_robustly, fit_similarity
from recon.metric.observations import Length, Position

ONE_LENGTH = 0.01  # relative error to expect of a length that no other checks
LEAST_ERROR = 1e-3  # relative, of any result, so that rounding does not decide
TRIALS, SEED = 200, 0
TO_DEVIATION = 1.4826  # of a normal distribution, from its median distance
FAR = 3.0  # standard deviations
MOST_SCALE_ERROR = 0.05  # standard deviation of the scale
MOST_TURN = 0.1  # standard deviation of the rotation about the line of the positions [rad]
CONTRADICTION = 4.0  # standard deviations between lengths and positions


@dataclass(frozen=True)
class Judged:
    """An observation and what remains of it. given, found: a length [m] as known and as in the scaled map; None for a
    position. error: [m]. used: whether it agrees with most others.
    """

    name: str
    given: float | None
    found: float | None
    error: float
    used: bool


@dataclass(frozen=True, eq=False)
class MetricFit:
    """metric_from_world: of scale metres per map unit. error: RMS of the observations used [m]; None if there is only
    one.
    """

    metric_from_world: Sim3
    observations: tuple[Judged, ...]
    error: float | None

    @property
    def used(self) -> int:
        return sum(one.used for one in self.observations)


@dataclass(frozen=True, eq=False)
class _Estimate:
    """deviation: standard deviation of the scale, relative. used: (n,)."""

    metric_from_world: Sim3
    deviation: float
    used: NDArray[np.bool_]


def fit_metric(lengths: Sequence[Length], positions: Sequence[Position]) -> MetricFit:
    """The similarity for at least one length or three positions; lengths alone change nothing but the unit.

    Raises SettingsError if the observations contradict each other or do not determine the scale and, of positions, the
    rotation.
    """
    by_lengths = _from_lengths(lengths) if lengths else None
    by_positions = _from_positions(positions) if positions else None
    if by_lengths and by_positions:
        found = _combined(by_lengths, by_positions, positions)
    else:
        found = (by_lengths or by_positions or _nothing()).metric_from_world
    judged = []
    for length, used in zip(lengths, by_lengths.used if by_lengths else (), strict=True):
        metres = found.scale * length.in_map
        judged.append(Judged(length.name, length.metres, metres, metres - length.metres, bool(used)))
    for position, used in zip(positions, by_positions.used if by_positions else (), strict=True):
        error = float(np.linalg.norm(found.apply(position.point) - position.metres))
        judged.append(Judged(position.name, None, None, error, bool(used)))
    errors = np.array([one.error for one in judged if one.used])
    return MetricFit(found, tuple(judged), float(np.sqrt((errors**2).mean())) if len(errors) > 1 else None)


def _nothing() -> _Estimate:
    raise SettingsError(
        "No length or position of the map is known in metres. Give --length, --tag-size, --camera-height, --positions, "
        "--gps or --track; or --level to turn z up."
    )


def _from_lengths(lengths: Sequence[Length]) -> _Estimate:
    """The scale on which most lengths agree, each weighted by its square: errors do not grow with the length."""
    in_map, metres, varies = np.array([(length.in_map, length.metres, length.varies) for length in lengths]).T
    ratios = np.log(metres / in_map)
    agree = np.abs(ratios[:, None] - ratios) < np.maximum(varies[:, None], varies)
    used = agree[int(agree.sum(axis=1).argmax())]
    if 2 * used.sum() <= len(lengths):
        low, high = np.exp([ratios.min(), ratios.max()])
        raise SettingsError(
            f"The {len(lengths)} known lengths contradict each other: they make a map unit {low:.4g} to {high:.4g} m. "
            "Check the points and the metres."
        )
    weights = used / varies**2
    scale = float((weights * in_map * metres).sum() / (weights * in_map**2).sum())
    spread = float(np.std(ratios[used])) / np.sqrt(used.sum()) if used.sum() > 1 else ONE_LENGTH
    return _Estimate(Sim3(scale, np.eye(3), np.zeros(3)), max(float(spread), LEAST_ERROR), used)


def _from_positions(positions: Sequence[Position]) -> _Estimate:
    if len(positions) < 3:
        raise SettingsError(f"{len(positions)} known positions do not determine a map: at least 3 frames need one.")
    points, metres = (np.array([getattr(one, name) for one in positions]) for name in ("point", "metres"))
    everywhere = np.ones(len(points))
    try:
        fitted = fit_robustly(points, metres, everywhere, _of_least_median(points, metres)).b_from_a
        distance = np.linalg.norm(metres - fitted.apply(points), axis=1)
        deviation = max(TO_DEVIATION * float(np.median(distance)), LEAST_ERROR * float(np.ptp(metres, axis=0).max()))
        used = distance <= FAR * deviation
        found = fit_similarity(points, metres, used.astype(np.float64))
    except ValueError as error:
        raise SettingsError("The known positions coincide, so they do not determine the scale of the map.") from error
    distance = np.linalg.norm(metres - found.apply(points), axis=1)[used]
    return _Estimate(found, _certain(metres[used], float(np.sqrt((distance**2).mean()))), used)


def _of_least_median(points: Array, metres: Array) -> Sim3:
    """The similarity from three positions with the least median distance to all. Raises ValueError if there is none."""
    count = len(points)
    if count * (count - 1) * (count - 2) // 6 <= TRIALS:
        samples = [list(rows) for rows in islice(combinations(range(count), 3), TRIALS)]
    else:
        rng = np.random.default_rng(SEED)
        samples = [rng.choice(count, 3, replace=False).tolist() for _ in range(TRIALS)]
    best, least = None, np.inf
    for rows in samples:
        try:
            trial = fit_similarity(points[rows], metres[rows], np.ones(3))
        except ValueError:  # the three coincide, or are mirrored
            continue
        median = float(np.median(np.linalg.norm(metres - trial.apply(points), axis=1)))
        if median < least:
            best, least = trial, median
    if best is None:
        raise ValueError("no three positions determine a similarity")
    return best


def _certain(metres: Array, error: float) -> float:
    """Standard deviation of the scale, relative. Raises SettingsError if positions (n, 3) with this RMS error [m] do
    not determine scale and rotation.
    """
    spread = np.linalg.svd(metres - metres.mean(axis=0), compute_uv=False)  # sqrt(n) times the spread along each axis
    deviation = error / float(np.linalg.norm(spread))
    if deviation > MOST_SCALE_ERROR or error > np.linalg.norm(spread) / (2 * np.sqrt(len(metres))):
        raise SettingsError(
            f"The known positions contradict the map or lie too close together: they differ from it by {error:.3g} m "
            f"(RMS), and spread over {np.ptp(metres, axis=0).max():.3g} m."
        )
    if spread[1] <= LEAST_ERROR * spread[0] or error / spread[1] > MOST_TURN:
        raise SettingsError(
            "The known positions lie on a line, so the rotation about it is unknown. Add positions off the line, or "
            "give a known --length instead."
        )
    return max(deviation, LEAST_ERROR)


def _combined(by_lengths: _Estimate, by_positions: _Estimate, positions: Sequence[Position]) -> Sim3:
    """The similarity of the positions, with the mean of both scales, weighted by their variances."""
    scales = np.log([one.metric_from_world.scale for one in (by_lengths, by_positions)])
    deviations = np.array([by_lengths.deviation, by_positions.deviation])
    if abs(scales[0] - scales[1]) > CONTRADICTION * np.linalg.norm(deviations):
        raise SettingsError(
            "Known lengths and positions contradict each other: they make a map unit {:.4g} and {:.4g} m. Check "
            "them.".format(*np.exp(scales))
        )
    scale = float(np.exp(np.average(scales, weights=1 / deviations**2)))
    rotation = by_positions.metric_from_world.rotation
    rows = [one for one, used in zip(positions, by_positions.used, strict=True) if used]
    points, metres = (np.array([getattr(one, name) for one in rows]) for name in ("point", "metres"))
    return Sim3(scale, rotation, metres.mean(axis=0) - scale * rotation @ points.mean(axis=0))
