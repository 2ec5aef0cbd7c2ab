"""What COLMAP logs on stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pycolmap


@contextmanager
def quiet() -> Iterator[None]:
    """Without COLMAP's lines, unless GLOG_minloglevel asks for them; also a decorator."""
    before = pycolmap.logging.minloglevel
    if "GLOG_minloglevel" not in os.environ:
        pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
