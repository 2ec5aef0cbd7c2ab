"""One writer per folder: a lock in a file that names its owner; the kernel releases it however a process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from recon.core.errors import OutputError
from recon.core.files import leaving_no_empty_folder

LOCK = ".lock"
SAME_START = 1.0  # seconds, tolerance between two readings of a process's start time


@dataclass(frozen=True)
class Owner:
    """Who writes to a folder. what: a run or an export. started: of the process, since pids are reused [s].

    since: date and time for people.
    """

    what: str
    process: int
    started: float
    host: str
    since: str

    @classmethod
    def this(cls, what: str) -> Owner:
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(what, os.getpid(), psutil.Process().create_time(), socket.gethostname(), now)

    @property
    def may_live(self) -> bool:
        """Whether the process still runs; True if unknown because it is on another host."""
        if self.host != socket.gethostname():
            return True
        try:
            return bool(abs(psutil.Process(self.process).create_time() - self.started) < SAME_START)
        except psutil.Error:
            return False


def writer_in(folder: Path) -> Owner | None:
    """Who writes to ``folder`` now; None if nobody does."""
    owner = _owner(folder / LOCK)
    return owner if owner and owner.may_live else None


@contextmanager
def sole_writer(folder: Path, what: str) -> Iterator[None]:
    """Hold the write lock of ``folder``, which is created if it is missing, and deleted if it stays empty.

    On a file system without locks, the owner's file alone decides. Raises OutputError, before anything is changed, if
    another process writes there or ``folder`` cannot be written.
    """
    with leaving_no_empty_folder(folder), _locked(folder, what):
        yield


@contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    try:
        os.fsencode(folder).decode()
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take(folder / LOCK)
    except UnicodeDecodeError as error:
        raise OutputError(f"{folder} is not valid UTF-8, which some outputs require. Use another folder.") from error
    except OSError as error:
        raise OutputError(
            f"Cannot write to {folder}: {error.strerror}. Make it writable, or use another folder."
        ) from error
    try:
        with suppress(OSError):  # a full disk: the lock works without the owner's name
            os.truncate(lock, 0)
            os.write(lock, json.dumps(asdict(Owner.this(what))).encode())
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(lock)


def _take(path: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(lock, path)
        except BaseException:
            os.close(lock)
            raise
        if _is_same(lock, path):
            return lock
        os.close(lock)  # its owner has deleted it in the meantime


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(path, _owner(path)) from error
    except OSError as error:  # a file system without locks
        owner = _owner(path)
        if owner is not None and owner.may_live:
            raise _in_use(path, owner) from error


def _is_same(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _in_use(path: Path, owner: Owner | None) -> OutputError:
    who = (
        f"another {owner.what} (process {owner.process} on {owner.host} since {owner.since})"
        if owner
        else "another run"
    )
    remedy = "Wait for it, or use another folder"
    if owner and owner.host != socket.gethostname():
        remedy += f"; if it has ended, delete {path}"
    return OutputError(f"{path.parent} is in use by {who}. {remedy}.")
