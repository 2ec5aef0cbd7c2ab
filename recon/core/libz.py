"""Keeps the zlib that Python, Pillow, OpenCV and Matplotlib share apart from the one inside pycolmap.

Where pycolmap is the first to load the system's ``libz.so.1``, that binds some of its own calls to the other version
that pycolmap exports, and compressing corrupts memory.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def keep_apart() -> None:
    """Let every package that is imported from here on use a zlib that is whole, in whatever order they come.

    Before pycolmap, loading zlib is enough. After it, a second copy of the library is loaded, to which those bind that
    come later; what has bound before stays as it is. Needs Linux, where alone the fault occurs.
    """
    if "pycolmap._core" in sys.modules and sys.platform == "linux":
        with suppress(OSError):  # a system that forbids it: the map itself needs no zlib
            _load_copy()
    import zlib  # noqa: F401, PLC0415  loads the library


def _load_copy() -> None:
    import ctypes  # noqa: PLC0415  only needed here

    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    loaded = [line.split(maxsplit=5)[-1] for line in maps if "/libz.so.1" in line]
    if not loaded:
        return
    copy = os.memfd_create("libz")  # the loader would take the file itself for the one that it has
    with open(copy, "wb") as file:  # noqa: PTH123  a descriptor
        file.write(Path(loaded[0]).read_bytes())
        file.flush()
        ctypes.CDLL(f"/proc/self/fd/{copy}", mode=os.RTLD_NOW | os.RTLD_GLOBAL | os.RTLD_DEEPBIND)
