"""The recording of a run that ends, or is refused, beside that of the run before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.recording import Recording
from recon.core.errors import ReconError
from recon.core.events import Notice


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
