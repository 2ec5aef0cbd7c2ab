"""COLMAP's log on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pycolmap


@contextmanager
def quiet() -> Iterator[None]:
    """Silence COLMAP, unless GLOG_minloglevel is set; also a decorator."""
    before = pycolmap.logging.minloglevel
    if "GLOG_minloglevel" not in os.environ:
        pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
