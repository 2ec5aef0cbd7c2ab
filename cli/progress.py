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

FRAMES = "frames"


class ProgressBar:
    """A listener that shows frames read, chunks, frames/s and the time left; without a terminal only notices.

    Time left starts from the plan and then follows the speed of the chunks that are done.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._start = time.monotonic()
        self._read = 0
        self._chunks = 0
        self._done = 0.0
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (sys.stdout.isatty() and console.is_terminal),
            transient=True,
        )
        self._stage = ""
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
        self._bar.update(self._task, figures=self._figures())

    def say(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(f"note: {sentence}", markup=False, highlight=False, soft_wrap=True)

    def _show_stage(self, progress: StageProgress) -> None:
        if progress.stage == FRAMES and progress.total:
            self._done = progress.done / progress.total
        self._stage = progress.stage
        self._bar.update(self._task, description=progress.stage, completed=progress.done, total=progress.total or None)

    def _figures(self) -> str:
        elapsed = time.monotonic() - self._start
        expected = elapsed / self._done if self._done else self._plan.seconds
        of_frames = f"/{self._plan.frames}" if self._plan.frames else ""
        return (
            f"{self._read}{of_frames} frames read, {self._chunks}/{self._plan.chunks} chunks, "
            f"{self._read / max(elapsed, 1e-9):.1f} frames/s, {duration(max(0.0, expected - elapsed))} left"
        )
