"""``DIR/report.json``: what happened in a run. docs/formats.md describes every field."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil

from recon.core.errors import MapError, OutputError
from recon.core.events import Listener, Notice, StreamStatus
from recon.core.files import write_atomically
from recon.core.places import LoopRecord
from recon.core.typed_json import read_object, typed
from recon.core.types import Chunk, ChunkGeometry, SkippedFrame
from recon.settings import RunSettings
from recon.store.map import AGAIN, with_kinds

REPORT_VERSION = 1
MAIN_PACKAGES = ("recon", "av", "numpy", "open3d", "opencv-python-headless", "pycolmap", "rerun-sdk", "scipy", "torch")


@dataclass(frozen=True)
class ChunkReport:
    """One chunk: index of its first and last frame in the source, how many it held and placed, and its seconds.

    residual: ``Submap.residual``, RMS distance of the overlap alignment as a share of scene depth. lag: of a live
    source, the age of the newest frame when it had its place [s]. warnings: why this part of the map may be wrong, see
    ``recon.mapping.doubts``.
    """

    index: int
    first: int
    last: int
    frames: int
    placed: int
    residual: float
    seconds: float
    lag: float = 0.0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, chunk: Chunk, geometry: ChunkGeometry, *, residual: float, seconds: float, lag: float) -> ChunkReport:
        """The report about a chunk that was just placed."""
        first, last = chunk.frames[0].index, chunk.frames[-1].index
        return cls(chunk.index, first, last, len(chunk.frames), len(geometry.frames), residual, seconds, lag)


@dataclass(frozen=True)
class StageTime:
    """Wall time that all visits to one stage took together."""

    name: str
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What went in, what came out, and what it took.

    versions: of Python and the main packages. frames_placed of frames_read have a pose; the others, and files that
    could not be read, are in ``skipped``. seconds: wall time. notices: sentences shown to the user. interrupted: the
    user ended the run early, and what was finished was kept. loops: every place that was thought to be seen again.
    unwritten: a sentence for each file that could not be written.
    passed_over: frames that showed next to nothing new, of which passed_over_placed got a pose afterwards.
    stream: what became of a live source's pictures. suspicions: why the whole map may be
    wrong, see ``recon.mapping.sanity``.
    """

    source: str
    settings: RunSettings
    versions: dict[str, str]
    frames_read: int
    frames_placed: int
    skipped: tuple[SkippedFrame, ...]
    chunks: tuple[ChunkReport, ...]
    stages: tuple[StageTime, ...]
    seconds: float
    peak_memory_bytes: int
    notices: tuple[str, ...]
    interrupted: bool
    loops: tuple[LoopRecord, ...] = ()
    passed_over: int = 0
    passed_over_placed: int = 0
    stream: StreamStatus | None = None
    unwritten: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()


class Stopwatch:
    """Adds up wall time by stage, in the order in which the stages first came."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to ``stage``, also when it ends with an exception."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Wall time since the stopwatch was made."""
        return time.perf_counter() - self._start

    @property
    def stages(self) -> tuple[StageTime, ...]:
        return tuple(StageTime(name, seconds) for name, seconds in self._seconds.items())


def peak_memory(process: int | None = None) -> int:
    """The most resident memory in bytes that a running process, by default this one, has held so far.

    Where the system does not keep it for other processes, theirs is what they hold now. 0 for one that has ended.
    """
    # Linux hands the peak of ``getrusage`` down from the parent, so a small program would seem as large as its caller.
    status = Path(f"/proc/{process or os.getpid()}/status")
    if status.is_file():
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(rows.get("VmHWM", "0 kB").split()[0]) * 1024
    if process is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main_versions() -> dict[str, str]:
    """Versions of Python and of those main packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in MAIN_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write(report: RunReport, path: Path) -> None:
    """Write ``path`` as a whole. Raises OutputError when it cannot be written."""
    text = json.dumps({"version": REPORT_VERSION} | asdict(report), indent=1, ensure_ascii=False, default=os.fspath)
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))  # of paths: still JSON


def write_or_tell(report: RunReport, path: Path, tell: Listener) -> RunReport:
    """Write ``path`` as a whole; returns the report, which says so where that was not possible."""
    try:
        write(report, path)
    except OutputError as error:
        tell(Notice(str(error)))
        return replace(report, unwritten=(*report.unwritten, str(error)))
    return report


def read(path: Path) -> RunReport:
    """Read a report back. Raises MapError when it is missing, damaged or of another version."""
    try:
        content = read_object(path, REPORT_VERSION, AGAIN)
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. Create one with: recon run SOURCE --out DIR") from error
    return typed(with_kinds(content), RunReport, path, AGAIN)
