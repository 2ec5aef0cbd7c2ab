"""Folders that appear only when they are complete, and images that are shared instead of copied where possible."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.core.errors import MapError, OutputError
from recon.store.map import ReconstructedMap


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder or file beside ``path``; once filled, it takes the place of ``path``.

    Raises OutputError naming ``path`` if it cannot be written, or is in use and must not be replaced.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        if not replace and path.exists() and (path.is_file() or any(path.iterdir())):
            raise OutputError(f"{path} exists and is not empty. Delete it or choose another --out.")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"Cannot write {path}: {reason}. Free some space or choose another --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def share_images(reconstruction: ReconstructedMap, folder: Path) -> None:
    """Put the originals of all placed frames into a new ``folder``: hard links, or copies on another disk.

    Raises MapError if an original is missing and OSError if ``folder`` cannot be written.
    """
    require_images(reconstruction)
    folder.mkdir()
    for frame in reconstruction.frames:
        try:
            os.link(reconstruction.images / frame.name, folder / frame.name)
        except OSError:
            shutil.copyfile(reconstruction.images / frame.name, folder / frame.name)


def require_images(reconstruction: ReconstructedMap) -> None:
    """Raise MapError if the original of a placed frame is missing."""
    missing = [frame.name for frame in reconstruction.frames if not (reconstruction.images / frame.name).is_file()]
    if missing:
        raise MapError(
            f"{reconstruction.images} lacks {len(missing)} of {len(reconstruction.frames)} images, first "
            f"{missing[0]}. Restore them or run the reconstruction again."
        )
