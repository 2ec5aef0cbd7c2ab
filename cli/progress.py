"""Progress of a run on the terminal: a bar on stderr, and notices."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from recon.core.events import ChunkReconstructed, Event, FrameRead, FrameTracked, Notice, StreamStatus
from recon.core.events import Progress as StageProgress
from recon.core.quantities import counted, duration
from recon.core.tracked import TrackingCounts, TrackingReport
from recon.plan import Plan

CHUNKS_STAGE = "frames"


class StageBar:
    """A listener that shows the stage at work and how much of it is done; without a terminal, only notices."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (sys.stdout.isatty() and console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("reading", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event, /) -> None:
        match event:
            case StageProgress():
                self._show_stage(event)
            case Notice():
                self.say(event.text)

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(f"note: {sentence}", markup=False, highlight=False, soft_wrap=True)

    def _show_stage(self, progress: StageProgress) -> None:
        total = progress.total if progress.done > 0 and progress.total > 0 else None  # pulses
        self._bar.update(self._task, description=progress.stage, completed=progress.done, total=total)


class ProgressBar(StageBar):
    """A listener that shows frames read, chunks, frames/s and the time left; without a terminal, only notices.

    The time left is the plan's, scaled by the time that the chunks have taken so far. Without a plan, for a live
    source, the bar shows how many images were skipped and how far the map lags behind.
    """

    def __init__(self, plan: Plan | None) -> None:
        self._plan = plan
        self._start = time.monotonic()
        self._read = 0
        self._chunks = 0
        self._expected = plan.seconds if plan else 0.0
        self._status: StreamStatus | None = None
        self._tracked = TrackingCounts()
        super().__init__()

    def __call__(self, event: Event, /) -> None:
        match event:
            case FrameRead():
                self._read += 1
            case FrameTracked():
                self._tracked.add(event)
            case ChunkReconstructed():
                self._chunks += 1
            case StreamStatus():
                self._status = event
            case _:
                super().__call__(event)
        self._bar.update(self._task, figures=self.figures())

    def figures(self) -> str:
        """The text beside the bar."""
        elapsed = time.monotonic() - self._start
        if self._plan is None:
            return self._live_figures(elapsed)
        what = "keyframes" if self._plan.settings.source.keyframes == "select" else "frames"
        counts = f"{self._read} {what}, {counted(self._chunks, 'chunk')}"
        if self._plan.frames and what == "frames":  # the number of keyframes is unknown, and a file may state none
            counts = f"{self._read}/{self._plan.frames} frames, {self._chunks}/{self._plan.chunks} chunks"
        left = f", {duration(max(0.0, self._expected - elapsed))} left" if self._plan.frames else ""
        return f"{counts}, {self._read / max(elapsed, 1e-9):.1f} {what}/s{left}"

    def _live_figures(self, elapsed: float) -> str:
        read = f"{counted(self._read, 'frame')}, {counted(self._chunks, 'chunk')}"
        frames = f"{read}, {self._read / max(elapsed, 1e-9):.1f} frames/s"
        tracked = self._tracked.report()
        parts = [frames, stream_figures(self._status) if self._status else "", tracking_figures(tracked)]
        return ", ".join(filter(None, parts))

    def _show_stage(self, progress: StageProgress) -> None:
        started = progress.done > 0 and progress.total > 0
        if self._plan and progress.stage == CHUNKS_STAGE and started:
            planned = (self._plan.seconds - self._plan.joint_seconds) * progress.done / progress.total
            self._expected = self._plan.seconds * (time.monotonic() - self._start) / planned
        super()._show_stage(progress)


def stream_figures(status: StreamStatus) -> str:
    """Counts of a stream's images, and how far the map lags behind."""
    return f"{stream_counts(status)}, {status.lag:.0f} s behind"


def stream_counts(status: StreamStatus) -> str:
    """Counts of a stream's images."""
    counts = [(status.skipped, "skipped"), (status.passed_over, "passed over"), (status.damaged, "damaged")]
    return ", ".join([f"{status.captured} captured", *(f"{count} {what}" for count, what in counts if count)])


def tracking_figures(report: TrackingReport) -> str:
    """The share of frames with a pose since there is a map, and how soon they had it; empty before that."""
    if report.frames == report.waiting:
        return ""
    figures = f"{report.share:.0%} tracked, {report.p50:.0f} ms (95%: {report.p95:.0f})"
    if not report.keyframes:
        return figures
    figures = f"{figures}; keyframes in the local map after {report.map_p50:.0f} ms (95%: {report.map_p95:.0f})"
    if not report.dense:
        return figures
    return f"{figures}, dense after {report.dense_p50:.0f} ms (95%: {report.dense_p95:.0f})"
