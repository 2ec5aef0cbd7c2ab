"""How much of a live source was tracked, and how fast."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recon.core.events import FrameTracked


@dataclass(frozen=True)
class TrackingReport:
    """frames: captured, so many of them waiting for a map, tracking, weak and lost. p50, p95: milliseconds from the
    arrival of a frame to its pose. processor: milliseconds of processor time for each frame.
    """

    frames: int
    waiting: int
    tracking: int
    weak: int
    lost: int
    p50: float
    p95: float
    processor: float = 0.0

    @property
    def share(self) -> float:
        """The share of frames with a pose, of those that came since there is a map."""
        return (self.tracking + self.weak) / max(self.frames - self.waiting, 1)


class TrackingCounts:
    """Counts frames in bounded memory. processor_seconds: of the tracker, for all of them."""

    def __init__(self) -> None:
        self._states: Counter[str] = Counter()
        self._milliseconds: Counter[int] = Counter()
        self.processor_seconds = 0.0

    def add(self, event: FrameTracked) -> None:
        """Count a frame."""
        self._states[event.state] += 1
        self._milliseconds[round(event.milliseconds)] += 1

    def report(self) -> TrackingReport:
        """The figures so far."""
        frames, states = self._states.total(), self._states
        counts = states["waiting"], states["tracking"], states["weak"], states["lost"]
        processor = round(1000 * self.processor_seconds / max(frames, 1), 1)
        return TrackingReport(frames, *counts, self._quantile(0.5), self._quantile(0.95), processor)

    def _quantile(self, share: float) -> float:
        left = share * self._milliseconds.total()
        for milliseconds in sorted(self._milliseconds):
            left -= self._milliseconds[milliseconds]
            if left <= 0:
                return float(milliseconds)
        return 0.0
