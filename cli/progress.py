"""A run on the terminal: a bar on stderr, and notices as they come."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from cli.text import duration
from recon.events import ChunkReconstructed, Event, FrameRead, Notice
from recon.events import Progress as StageProgress
from recon.plan import Plan

CHUNKS_STAGE = "frames"


class ProgressBar:
    """A listener that shows frames read, chunks, frames/s and the time left; without a terminal only notices.

    The time left is the plan's, corrected by how long the chunks so far took compared with the plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start = time.monotonic()
        self._read = 0
        self._chunks = 0
        self._expected = plan.seconds
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

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event, /) -> None:
        match event:
            case FrameRead():
                self._read += 1
            case ChunkReconstructed():
                self._chunks += 1
            case StageProgress():
                self._show_stage(event)
            case Notice():
                self.say(event.text)
        self._bar.update(self._task, figures=self.figures())

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(f"note: {sentence}", markup=False, highlight=False, soft_wrap=True)

    def figures(self) -> str:
        """What stands beside the bar."""
        elapsed = time.monotonic() - self._start
        frames = f"{self._read}/{self._plan.frames} frames, {self._chunks}/{self._plan.chunks} chunks"
        if not self._plan.frames:  # the file does not say how many
            frames = f"{self._read} frames, {self._chunks} chunks"
        left = f", {duration(max(0.0, self._expected - elapsed))} left" if self._plan.frames else ""
        return f"{frames}, {self._read / max(elapsed, 1e-9):.1f} frames/s{left}"

    def _show_stage(self, progress: StageProgress) -> None:
        started = progress.done > 0 and progress.total > 0
        if progress.stage == CHUNKS_STAGE and started:
            planned = (self._plan.seconds - self._plan.joint_seconds) * progress.done / progress.total
            self._expected = self._plan.seconds * (time.monotonic() - self._start) / planned
        total = progress.total if started else None  # pulses
        self._bar.update(self._task, description=progress.stage, completed=progress.done, total=total)
