"""Standard streams that are closed, full or without a reader end no command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.streams import Unbroken
from tests.cli.conftest import SAMPLE

RECON = f"{sys.executable} -m cli"
PLAN = f"{RECON} plan {SAMPLE / 'images'} --max-frames 3 --size 160"


def _shell(command: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_else(closed: str) -> None:
    code, out, err = _shell(f"{PLAN} {closed}")
    assert (code, err) == (0, "")
    assert (out == "") == (closed not in ("<&-", "2>&-"))


def test_an_error_is_never_written_into_a_file_of_the_program(tmp_path: Path) -> None:
    """The first files that a program opens get the numbers of its closed streams."""
    code, _, _ = _shell(f"cd {tmp_path}; {RECON} plan missing.mp4 <&- >&- 2>&-")
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_error() -> None:
    code, out, err = _shell(f"{PLAN} | head -1")
    assert (code, out, err) == (0, "Plan\n", "")


def test_a_full_disk_is_one_sentence() -> None:
    code, _, err = _shell(f"{PLAN} > /dev/full")
    assert (code, err) == (1, "recon: The output could not be written: No space left on device.\n")


def test_an_error_of_the_command_keeps_its_code(tmp_path: Path) -> None:
    assert _shell(f"{RECON} plan {tmp_path / 'missing.mp4'} 2> /dev/full")[0] == 2


def test_text_after_the_reader_has_left_is_dropped() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        unbroken = Unbroken(stream)
        assert unbroken.write("seen\n") == 5
        unbroken.flush()
        assert os.read(reader, 10) == b"seen\n"
        os.close(reader)
        unbroken.write("lost\n")
        unbroken.flush()
        assert unbroken.error is None
        assert unbroken.write("also lost\n") == 10
        unbroken.flush()
