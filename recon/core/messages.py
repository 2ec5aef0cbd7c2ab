"""Messages between processes: a pickle in anonymous shared memory, whose descriptor is sent through a socket.

The receiver maps large arrays instead of copying them, senders never wait for receivers, and nothing is left behind
when a process dies.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Callable
from typing import IO, Any

ENDS = struct.Struct("=QQQ")  # of the arrays, their table and the pickle
PLACE = struct.Struct("=QQ")  # start and length of an array
ALIGNED = 64  # bytes
SMALL = 1 << 14  # bytes; arrays up to this size stay in the pickle


def send(channel: socket.socket, message: Any) -> None:
    """Send any object that can be pickled. Raises ConnectionError if the other process has ended."""
    large: list[memoryview] = []
    content = pickle.dumps(message, 5, buffer_callback=_sorting(large))
    with _shared_file() as file:
        places = [_append(file, array) for array in large]
        ends = [file.tell()]
        for part in (b"".join(PLACE.pack(*place) for place in places), content):
            file.write(part)
            ends.append(file.tell())
        file.flush()
        socket.send_fds(channel, [ENDS.pack(*ends)], [file.fileno()])


def receive(channel: socket.socket) -> Any:
    """Wait for the next message, whose arrays the receiver may change. Raises ConnectionError like ``send``."""
    header, descriptors, *_ = socket.recv_fds(channel, ENDS.size, 1)
    if not header:
        raise ConnectionResetError
    arrays, table, end = ENDS.unpack(header)
    with open(descriptors[0], "rb") as file:  # noqa: PTH123  a descriptor
        content = memoryview(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY))
    places = PLACE.iter_unpack(content[arrays:table])
    buffers = [content[start : start + length] for start, length in places]
    return pickle.loads(content[table:end], buffers=buffers)  # noqa: S301  from a process of the same run


def _sorting(large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """A buffer callback that keeps small arrays in the pickle and appends the others to ``large``."""

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        content = buffer.raw()
        if content.nbytes > SMALL:
            large.append(content)
        return content.nbytes <= SMALL

    return is_small


def _append(file: IO[bytes], array: memoryview) -> tuple[int, int]:
    start = file.seek(-(-file.tell() // ALIGNED) * ALIGNED)
    file.write(array)
    return start, array.nbytes


def _shared_file() -> IO[bytes]:
    """An unnamed file in memory, or on disk if the system has no such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("recon"), "wb")  # noqa: PTH123  a descriptor
    return tempfile.TemporaryFile()
