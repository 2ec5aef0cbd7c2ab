"""The standard streams of the program, which may be closed, full or without a reader."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their descriptors


class Unbroken:
    """A text stream that drops what it cannot write, so that lost output never ends a run.

    error: why the first text was lost. A reader that left, such as ``head``, is no error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        if self.error is None and not isinstance(error, BrokenPipeError):
            self.error = error
        with suppress(OSError), Path(os.devnull).open("wb") as null:  # for what is buffered, and all that follows
            os.dup2(null.fileno(), self._stream.fileno())


def use_standard_streams() -> None:
    """Replace closed standard streams by the null device, and let lost output and unprintable names end nothing."""
    _open_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot show
            setattr(sys, name, Unbroken(stream))


def lost_output() -> OSError | None:
    """Why output on stdout was lost, None if none was."""
    if not isinstance(sys.stdout, Unbroken):
        return None
    sys.stdout.flush()
    return sys.stdout.error


def _open_closed() -> None:
    """Occupy closed descriptors; otherwise the next file that is opened would receive the program's output."""
    for descriptor, (name, mode) in enumerate(MODES.items()):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))
