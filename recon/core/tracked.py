"""How much of a live source was tracked, and how fast."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recon.core.events import FrameTracked, LocalDepth


@dataclass(frozen=True)
class TrackingReport:
    """frames: captured, so many of them waiting for a map, tracking, weak and lost. p50, p95: milliseconds from the
    arrival of a frame to its pose. processor: milliseconds of processor time for each frame. keyframes: of the local
    map; map_p50, map_p95: milliseconds from the arrival of one until it was there. dense: keyframes with depth during
    the capture; dense_p50, dense_p95: milliseconds from the arrival of one until then. first_pose: seconds from the
    start.
    """

    frames: int
    waiting: int
    tracking: int
    weak: int
    lost: int
    p50: float
    p95: float
    processor: float = 0.0
    keyframes: int = 0
    map_p50: float = 0.0
    map_p95: float = 0.0
    dense: int = 0
    dense_p50: float = 0.0
    dense_p95: float = 0.0
    first_pose: float = 0.0

    @property
    def share(self) -> float:
        """The share of frames with a pose, of those that came since there is a map."""
        return (self.tracking + self.weak) / max(self.frames - self.waiting, 1)


class TrackingCounts:
    """Counts frames in bounded memory. processor_seconds: of the tracker, for all of them."""

    def __init__(self) -> None:
        self._states: Counter[str] = Counter()
        self._milliseconds: Counter[int] = Counter()
        self._map_milliseconds: Counter[int] = Counter()
        self._dense_milliseconds: Counter[int] = Counter()
        self._start: float | None = None
        self._first_pose: float | None = None
        self.processor_seconds = 0.0

    def add(self, event: FrameTracked, shown: float | None = None) -> None:
        """Count a frame. shown: milliseconds until it was a keyframe of the local map, None if it is none."""
        self._states[event.state] += 1
        self._milliseconds[round(event.milliseconds)] += 1
        if shown is not None:
            self._map_milliseconds[round(shown)] += 1
        self._start = event.timestamp if self._start is None else self._start
        if self._first_pose is None and event.state in ("tracking", "weak"):
            self._first_pose = event.timestamp - self._start

    def add_depth(self, event: LocalDepth) -> None:
        """Count a keyframe with dense depth."""
        self._dense_milliseconds[round(event.milliseconds)] += 1

    def report(self) -> TrackingReport:
        """The figures so far."""
        frames, states = self._states.total(), self._states
        return TrackingReport(
            frames,
            states["waiting"],
            states["tracking"],
            states["weak"],
            states["lost"],
            p50=_quantile(self._milliseconds, 0.5),
            p95=_quantile(self._milliseconds, 0.95),
            processor=round(1000 * self.processor_seconds / max(frames, 1), 1),
            keyframes=self._map_milliseconds.total(),
            map_p50=_quantile(self._map_milliseconds, 0.5),
            map_p95=_quantile(self._map_milliseconds, 0.95),
            dense=self._dense_milliseconds.total(),
            dense_p50=_quantile(self._dense_milliseconds, 0.5),
            dense_p95=_quantile(self._dense_milliseconds, 0.95),
            first_pose=round(self._first_pose or 0.0, 2),
        )


def _quantile(counts: Counter[int], share: float) -> float:
    left = share * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return float(value)
    return 0.0
