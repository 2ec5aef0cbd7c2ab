"""Short fingerprints, which reveal damaged data and data made with other weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LENGTH = 12
BLOCK = 2**16
BLOCKS = 64


def digest_of_arrays(*arrays: NDArray[np.generic]) -> str:
    """Digest of the bytes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:LENGTH]


def digest_of_file(path: Path) -> str:
    """Digest of a file's length and of up to 64 blocks of 64 KiB spread over it: all of a small file, samples of a
    large one.

    Reading gigabytes to open a memory-mapped file would defeat the purpose of the mapping.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            start = number * BLOCK if size <= BLOCK * BLOCKS else (size - BLOCK) * number // (BLOCKS - 1)
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()[:LENGTH]
