"""One writer per folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from recon.core.errors import OutputError
from recon.store.lock import LOCK, Owner, sole_writer

HOLD = """
import sys
from pathlib import Path
from recon.store.lock import sole_writer
with sole_writer(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as on some networks."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)


def test_a_second_writer_learns_who_writes(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "new" / "out", "run"):
        words = rf"out is in use by another run \(process {os.getpid()} on {socket.gethostname()} since 20\d\d-"
        with pytest.raises(OutputError, match=words), sole_writer(tmp_path / "new" / "out", "export"):
            pass
        assert (tmp_path / "new" / "out" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []  # an empty folder does not stay, unless it was there
    (tmp_path / "new" / "out").mkdir(parents=True)
    with sole_writer(tmp_path / "new" / "out", "run"):
        pass
    assert list((tmp_path / "new" / "out").iterdir()) == []
    with sole_writer(tmp_path / "new" / "out", "export"):
        assert json.loads((tmp_path / "new" / "out" / LOCK).read_text())["what"] == "export"


def test_a_writer_that_fails_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path, "run"):
        raise ZeroDivisionError
    with sole_writer(tmp_path, "run"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"process {process.pid}"), sole_writer(tmp_path, "run"):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).is_file()
    with sole_writer(tmp_path, "run"):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_without_locks_the_owner_decides(tmp_path: Path, without_locks: None) -> None:
    this = Owner.this("run")
    for owner, taken in (
        (this, True),
        (replace(this, process=2**22 - 1), False),  # no such process
        (replace(this, started=this.started - 100), False),  # its number was reused
        (replace(this, host="elsewhere", process=2**22 - 1), True),
    ):
        (tmp_path / LOCK).write_text(json.dumps(asdict(owner)))
        if taken:
            with pytest.raises(OutputError, match="is in use by another run"), sole_writer(tmp_path, "run"):
                pass
            assert json.loads((tmp_path / LOCK).read_text()) == asdict(owner)
        else:
            with sole_writer(tmp_path, "run"):
                assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_advice_about_an_owner_on_another_host(tmp_path: Path, without_locks: None) -> None:
    (tmp_path / LOCK).write_text(json.dumps(asdict(replace(Owner.this("run"), host="elsewhere"))))
    with pytest.raises(OutputError, match=rf"if it has ended, delete .*{LOCK}"), sole_writer(tmp_path, "run"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}'])
def test_a_damaged_owner_is_replaced(tmp_path: Path, content: str, without_locks: None) -> None:
    (tmp_path / LOCK).write_text(content)
    with sole_writer(tmp_path, "run"):
        pass


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write to .*file"), sole_writer(tmp_path / "file", "run"):
        pass
    with pytest.raises(OutputError, match="not valid UTF-8"), sole_writer(tmp_path / "f\udcfcr", "run"):
        pass
