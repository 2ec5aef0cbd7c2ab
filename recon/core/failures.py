"""What remains of a run after an unexpected error: its map, a sentence, and ``DIR/error.txt``."""

from __future__ import annotations

import faulthandler
import os
import shlex
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recon.core.errors import ReconError, ResourceError, UnexpectedError

ERROR_FILE = "error.txt"
ENDED_FROM_OUTSIDE = (
    "This file records the error that ends a run. If none follows and no run is in progress, the last run was ended "
    "from outside: by a kill, a lack of memory or a power cut.\n"
)


def short(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def note_traceback(error: Exception, folder: Path) -> None:
    """Append the traceback to the file in ``folder``, if the disk has room."""
    with suppress(OSError), (folder / ERROR_FILE).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(traceback.format_exception(error))


class WorkerDied(Exception):  # noqa: N818  an event, which ``explained`` turns into an error
    """Another process of the run has ended while it was needed. role: what it does. signal: that ended it, or 0."""

    def __init__(self, role: str, number: int) -> None:
        self.role, self.signal = role, number
        super().__init__(f"the {role} process {self._end}")

    @property
    def _end(self) -> str:
        if not self.signal:
            return "ended by itself"
        if self.signal == signal.SIGKILL:
            return "was killed (signal 9), probably because memory ran out"
        return f"crashed ({signal.Signals(self.signal).name})"


@contextmanager
def explained(folder: Path, has_map: Callable[[], bool], *, resumable: bool) -> Iterator[None]:
    """Turn any unforeseen exception into an UnexpectedError; a library that crashes leaves its stack in the same file.

    has_map: whether there is one in ``folder``. resumable: whether the run there can be resumed.
    """
    with _crash_noted(folder / ERROR_FILE):
        try:
            yield
        except ReconError:
            raise
        except WorkerDied as end:
            raise _of_worker(end, folder, _kept(folder, has_map=has_map(), resumable=resumable)) from end
        except Exception as error:
            note_traceback(error, folder)
            sentence = f"Unexpected error ({short(error)}), see {folder / ERROR_FILE}."
            raise UnexpectedError(f"{sentence} {_kept(folder, has_map=has_map(), resumable=resumable)}") from error


@contextmanager
def _crash_noted(path: Path) -> Iterator[None]:
    """Write the stack on SIGSEGV, SIGABRT and the like to ``path``, which is deleted afterwards if it has no error."""
    try:
        path.write_text(ENDED_FROM_OUTSIDE, encoding="utf-8")
        file = path.open("a", encoding="utf-8")
    except OSError:  # the run itself will report it
        with suppress(OSError):
            path.unlink()
        yield
        return
    own = not faulthandler.is_enabled()  # else a debugger or a test suite uses it
    if own:
        faulthandler.enable(file)
    try:
        yield
    finally:
        if own:
            faulthandler.disable()
        file.close()
        with suppress(OSError):
            if path.stat().st_size <= len(ENDED_FROM_OUTSIDE):
                path.unlink()


def _of_worker(end: WorkerDied, folder: Path, kept: str) -> ReconError:
    if end.signal == signal.SIGKILL:
        return ResourceError(f"T{str(end)[1:]}. {kept}")
    return UnexpectedError(f"T{str(end)[1:]}, see {folder / ERROR_FILE}. {kept}")


def _kept(folder: Path, *, has_map: bool, resumable: bool) -> str:
    quoted = shlex.quote(str(folder))
    ways = [f"continue with recon run SOURCE --out {quoted} --resume"] if resumable else []
    if has_map:
        ways.append(f"write what is finished with recon export {quoted} --to ply")
    way = ", or ".join(ways) or "rebuild the map with --overwrite"
    return f"Nothing that was finished is lost: {way}."


def reason_of(error: OSError) -> str:
    """What the system says of an error; some modules of Python add words of their own to it."""
    number = error.errno or 0
    return os.strerror(number) if number > 0 else error.strerror or str(error)  # names that do not resolve have others
