"""Arrays in one file: a NumPy archive (zip of ``.npy``) whose members are compressed with Zstandard.

``numpy.load`` reads it in Python 3.14. Archives of ``numpy.savez_compressed`` can be read too.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from recon.core.errors import MapError

if sys.version_info >= (3, 14):
    import zipfile
else:
    from backports.zstd import zipfile

LEVEL = 3


def save_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> None:
    """Write arrays by name into an open file; of pairs, only one array is in memory at a time. Raises OSError."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_ZSTANDARD, compresslevel=LEVEL) as archive:
        for name, array in arrays.items() if isinstance(arrays, Mapping) else arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def load_arrays(path: Path, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file by name. only: the names to read; None for all.

    Raises MapError, naming the file, if it is missing or damaged or lacks one of ``only``.
    """
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        if only is None:
            only = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        return _read(archive, only)


class OpenArrays:
    """A file of many arrays that stays open: its directory, of which every ``load_arrays`` reads all, is read once."""

    def __init__(self, path: Path) -> None:
        """Raises MapError, naming the file, if it is missing or damaged."""
        self._path = path
        with _damage_named(path):
            self._archive = zipfile.ZipFile(path)

    def read(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Arrays by name. Raises MapError, naming the file, if it is damaged or lacks one."""
        with _damage_named(self._path):
            return _read(self._archive, names)


def _read(archive: zipfile.ZipFile, names: Collection[str]) -> dict[str, np.ndarray]:
    return {name: _array(archive.read(f"{name}.npy")) for name in names}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
        return
    except OSError as error:
        reason = error.strerror or "it is incomplete"
    except Exception:
        reason = "it is not a complete archive of plain arrays"
    raise MapError(f"{path} is missing or damaged: {reason}. Run the reconstruction again.")


def _array(content: bytes) -> np.ndarray:
    return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))
