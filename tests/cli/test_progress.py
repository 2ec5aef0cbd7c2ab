"""What the progress bar shows of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.progress import ProgressBar
from recon.core.events import ChunkReconstructed, FrameRead, FrameSkipped, Notice, Progress
from recon.core.machine import Machine
from recon.core.quantities import duration
from recon.core.similarity import Sim3
from recon.core.types import SkippedFrame, Submap
from recon.plan import Plan, Probe, make_plan
from recon.settings import RunSettings
from recon.sources import SourceDescription
from tests.support import chunk_geometry, frame_of

DESCRIPTION = SourceDescription("folder", 60, ((640, 480),), 0.0)


def plan_of(description: SourceDescription) -> Plan:
    return make_plan(description, RunSettings(), Path("out"), Machine(10**11, 10**12, 2), Probe(0.2, 0.05, 0.1))


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("cli.progress.time.monotonic", lambda: self.now)


def test_frames_chunks_and_speed_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bar = ProgressBar(plan_of(DESCRIPTION))
    for index in range(12):
        bar(FrameRead(frame_of(index)))
    bar(ChunkReconstructed(Submap(0, chunk_geometry(range(12), Sim3.identity()), Sim3.identity(), 0.0), ()))
    clock.now += 4
    assert bar.figures().startswith("12/60 frames, 1/1 chunks, 3.0 frames/s, ")


def test_a_video_of_unknown_length_has_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    bar = ProgressBar(plan_of(SourceDescription("video", 0, ((640, 480),), 25.0)))
    bar(FrameRead(frame_of(0)))
    clock.now += 2
    assert bar.figures() == "1 keyframes, 0 chunks, 0.5 keyframes/s"


def test_time_left_follows_the_pace_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plan = Clock(monkeypatch), plan_of(DESCRIPTION)
    chunk_seconds = plan.seconds - plan.joint_seconds
    bar = ProgressBar(plan)
    assert bar.figures().endswith(f"{duration(plan.seconds)} left")
    clock.now += chunk_seconds  # half of the frames took as long as planned for all
    bar(Progress("frames", 30, 60))
    assert bar.figures().endswith(f"{duration(2 * plan.seconds - chunk_seconds)} left")


def test_time_left_is_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plan = Clock(monkeypatch), plan_of(DESCRIPTION)
    bar = ProgressBar(plan)
    clock.now += 10 * plan.seconds
    assert bar.figures().endswith(", 0 s left")


def test_without_a_terminal_only_notices_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(plan_of(DESCRIPTION)) as bar:
        bar(Progress("frames", 30, 60))
        bar(FrameSkipped(SkippedFrame(1, "a.jpg", "the file is empty")))
        bar(Notice("[bold]Two[/bold] pieces."))
    assert capfd.readouterr() == ("", "note: [bold]Two[/bold] pieces.\n")
