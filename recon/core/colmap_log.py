"""COLMAP's log on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL = "GLOG_minloglevel"
INFO, FATAL = 0, 3


@contextmanager
def quiet() -> Iterator[None]:
    """Silence COLMAP, unless GLOG_minloglevel is set; also a decorator."""
    if LEVEL in os.environ:
        yield
        return
    # A process that does not need COLMAP never imports it; whoever does later reads the variable.
    before = sys.modules["pycolmap"].logging.minloglevel if "pycolmap" in sys.modules else INFO
    _set(FATAL)
    os.environ[LEVEL] = str(FATAL)
    try:
        yield
    finally:
        del os.environ[LEVEL]
        _set(before)


def _set(level: int) -> None:
    if "pycolmap" in sys.modules:
        sys.modules["pycolmap"].logging.minloglevel = level
