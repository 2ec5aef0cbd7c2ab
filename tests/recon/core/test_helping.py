"""A helper's fault is reported, and the map is the same as without that helper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.events import ChunkReconstructed, Event, Finished, Notice
from recon.core.helping import STRICT, Helpers
from recon.core.places import LoopCandidate
from recon.mapping.doubts import Doubts
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store.map import open_map
from tests.recon.test_pipeline import FRAMES, centres_after_alignment, front_end, photos

__all__ = ["front_end", "photos"]
SETTINGS = RunSettings(chunk=5, overlap=2)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STRICT, raising=False)


def divide() -> float:
    return 1 / len([])


@pytest.mark.usefixtures("lenient")
def test_a_failing_helper_is_reported_once_and_turned_off(tmp_path: Path) -> None:
    said: list[Notice] = []
    helpers = Helpers(tmp_path, said.append)
    assert helpers.attempt("sums", lambda: 3) == 3
    assert helpers.attempt("sums", divide) is None
    assert helpers.attempt("sums", lambda: 3) is None
    assert helpers.attempt("others", lambda: 4) == 4
    assert helpers.attempt("sums", lambda: 5, key=1) == 5
    assert [notice.text for notice in said] == [
        "The run continues without sums, which failed (ZeroDivisionError: division by zero), see "
        f"{tmp_path / 'error.txt'}."
    ]
    assert "in divide" in (tmp_path / "error.txt").read_text()


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("ending", [KeyboardInterrupt, MemoryError, SystemExit])
def test_exceptions_that_end_a_run_propagate(tmp_path: Path, ending: type[BaseException]) -> None:
    def end() -> None:
        raise ending

    with pytest.raises(ending):
        Helpers(tmp_path, lambda _: None).attempt("sums", end)


def test_faults_are_raised_in_tests(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Helpers(tmp_path, lambda _: None).attempt("sums", divide)


class Breaks:
    """A listener that fails at the second chunk."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.seen.append(event)
        if isinstance(event, ChunkReconstructed) and event.submap.index == 1:
            raise OSError("the window is gone")


class Forgets:
    """A recogniser that cannot read the map at the second chunk."""

    name = "none"

    def __init__(self) -> None:
        self.looks = 0

    def look(self, *_: object) -> list[LoopCandidate]:
        self.looks += 1
        if self.looks == 2:
            raise MapError("submap_0000.npz is missing")
        return []


def fails(*_: object) -> Doubts:
    raise IndexError


@pytest.mark.usefixtures("lenient")
def test_a_run_outlives_its_listeners_loops_and_doubts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.mapping.growing.find_doubts", fails)
    monkeypatch.setattr("recon.sources.overlay.OverlayFinder.leave_out", fails)
    out, broken, recogniser, events = tmp_path / "out", Breaks(), Forgets(), list[Event]()
    found = reconstruct(str(photos), out, SETTINGS, [broken, events.append], recogniser)
    assert (found.frames_placed, found.interrupted) == (FRAMES, False)
    np.testing.assert_allclose(*centres_after_alignment(out), atol=2e-3)
    assert len(found.notices) == 4
    reasons = ("the search for overlays, which failed (IndexError", "doubts, which failed (IndexError)",
               "the listener Breaks, which failed (OSError: the window is gone)",
               "loops, which failed (MapError: submap_0000.npz is missing)")  # fmt: skip
    assert all(reason in notice for reason, notice in zip(reasons, found.notices, strict=True))
    assert [event.text for event in events if isinstance(event, Notice)] == list(found.notices)
    assert isinstance(events[-1], Finished)
    assert isinstance(broken.seen[-1], ChunkReconstructed)
    assert recogniser.looks == 2
    assert (out / "error.txt").read_text().count("Traceback") == 4
    assert len(open_map(out).frames) == FRAMES
