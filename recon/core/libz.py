"""Keeps the zlib that Python, Pillow, OpenCV and Matplotlib share apart from the one inside pycolmap.

If pycolmap is the first to load the system's ``libz.so.1``, that library binds some of its own calls to the other
version that pycolmap exports, and compression corrupts memory.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def keep_apart() -> None:
    """Make every package imported from now on use a consistent zlib, in any order of import.

    Before pycolmap is loaded, it is enough to load zlib. After that, this loads a second copy of the library, and later
    imports bind to the copy; earlier bindings stay. Works on Linux, the only system with the fault.
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
    copy = os.memfd_create("libz")  # the loader would recognise the file itself as already loaded
    with open(copy, "wb") as file:  # noqa: PTH123  a descriptor
        file.write(Path(loaded[0]).read_bytes())
        file.flush()
        ctypes.CDLL(f"/proc/self/fd/{copy}", mode=os.RTLD_NOW | os.RTLD_GLOBAL | os.RTLD_DEEPBIND)
