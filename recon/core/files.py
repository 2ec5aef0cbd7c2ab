"""Files that are either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from recon.core.errors import OutputError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Fill ``path`` through ``write(file)`` so that it is either the old file, the whole new one, or absent.

    A library that opens files itself may write to ``file.name`` instead.
    Raises OutputError naming the file when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise OutputError(f"Cannot write {path}: there is no folder {path.parent}. Create it first.") from error
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write {path}: {reason}. Free some space, or make the folder writable.") from error
    finally:
        with suppress(OSError):  # a read-only folder refuses this as well
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on disk, so that a power cut undoes no renaming. Some file systems cannot."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Delete ``folder`` and those above it at the end, if they were missing before and are empty."""
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()  # which no system does to a folder with content


def make_folder(folder: Path) -> None:
    """Create ``folder`` if it is missing. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot create {folder}: {error.strerror}. Choose another folder.") from error
