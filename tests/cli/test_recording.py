"""The recording of a run that ends, or is refused, beside that of the run before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.recording import Recording
from cli.run import delete_unfinished_recording
from recon.core.errors import ReconError
from recon.core.events import Notice
from recon.store.map import MapStore
from tests.support import make_map


@pytest.mark.parametrize("refused", [True, False])
def test_a_refused_run_keeps_the_recording_before_it(tmp_path: Path, refused: bool) -> None:
    path = tmp_path / "recording.rrd"
    path.write_bytes(b"before")
    try:
        with Recording(tmp_path, say=print) as recording:
            recording(Notice("Resuming."))
            if refused:
                raise ReconError("other weights")
    except ReconError:
        pass
    assert (path.read_bytes() == b"before") == refused
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_without_a_recording_deletes_that_of_a_killed_run(tmp_path: Path, complete: bool) -> None:
    made = make_map(tmp_path)
    if not complete:
        MapStore(tmp_path).write_places(made.frames, made.skipped, made.points, complete=False)
    (tmp_path / "recording.rrd").write_bytes(b"half")
    (tmp_path / "recording.rrd.earlier").write_bytes(b"before")
    delete_unfinished_recording(tmp_path)
    assert (tmp_path / "recording.rrd").read_bytes() == (b"half" if complete else b"before")
    if not complete:
        delete_unfinished_recording(tmp_path)
        assert not (tmp_path / "recording.rrd").exists()
    delete_unfinished_recording(tmp_path / "new")
