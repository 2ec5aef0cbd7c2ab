"""``DIR/report.json``: what happened in a run. docs/formats.md describes every field."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from recon import __version__
from recon.core.errors import MapError, OutputError
from recon.core.events import Listener, Notice, StreamStatus
from recon.core.files import write_atomically
from recon.core.places import LoopRecord
from recon.core.stopwatch import StageTime
from recon.core.tracked import TrackingReport
from recon.core.typed_json import read_object, typed
from recon.core.types import Chunk, ChunkGeometry, SkippedFrame
from recon.settings import RunSettings
from recon.store.legacy import AGAIN, with_kinds
from recon.store.missing import why_no_report

REPORT_VERSION = 1
NOTABLE_LOSS = 0.1  # of the frames read
MAIN_PACKAGES = ("av", "numpy", "open3d", "opencv-python-headless", "pycolmap", "rerun-sdk", "scipy", "torch")


@dataclass(frozen=True)
class ChunkReport:
    """One chunk: index of its first and last frame in the source, numbers of frames held and placed, and seconds since
    the chunk before was finished.

    residual: ``Submap.residual``, RMS distance of the overlap alignment as a share of scene depth. lag: for a live
    source, the age of the newest frame when it was placed [s]. warnings: why this part of the map may be wrong, see
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

    @property
    def doubt(self) -> str:
        """The warnings, and of which frames."""
        return f"frames {self.first} to {self.last}: {'; '.join(self.warnings)}"

    @classmethod
    def of(cls, chunk: Chunk, geometry: ChunkGeometry, *, residual: float, seconds: float, lag: float) -> ChunkReport:
        """The report of a chunk that was just placed."""
        first, last = chunk.frames[0].index, chunk.frames[-1].index
        return cls(chunk.index, first, last, len(chunk.frames), len(geometry.frames), residual, seconds, lag)


@dataclass(frozen=True)
class RunReport:
    """Input, results and cost of a run.

    versions: of Python and the main packages. frames_placed of frames_read have a pose; the others, and unreadable
    files, are in ``skipped``. seconds: wall time; processor_seconds: see ``StageTime``. notices: sentences shown to the
    user. interrupted: the user ended the run early, and finished work was kept. loops: every loop candidate. unwritten:
    a sentence for each file that could not be written. passed_over: frames that showed almost nothing new;
    passed_over_placed of them got a pose afterwards. stream: status of a live source. tracking: what became of its
    frames at capture. suspicions: why the whole map may be wrong, see ``recon.mapping.sanity``.
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
    processor_seconds: float = 0.0
    tracking: TrackingReport | None = None

    @property
    def losses(self) -> tuple[tuple[SkippedFrame, ...], ...]:
        """Frames without a place, grouped by the reason: the groups that are a notable part of all, largest first."""
        groups: dict[str, list[SkippedFrame]] = {}
        for frame in self.skipped:
            if frame.kind == "unplaced":
                groups.setdefault(frame.reason, []).append(frame)
        large = [tuple(group) for group in groups.values() if len(group) >= max(2, NOTABLE_LOSS * self.frames_read)]
        return tuple(sorted(large, key=len, reverse=True))


def main_versions() -> dict[str, str]:
    """Versions of Python and of the installed main packages."""
    versions = {"python": platform.python_version(), "recon": __version__}
    for package in MAIN_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def write(report: RunReport, path: Path) -> None:
    """Write ``path`` as a whole. Raises OutputError if it cannot be written."""
    text = json.dumps({"version": REPORT_VERSION} | asdict(report), indent=1, ensure_ascii=False, default=os.fspath)
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))  # of paths: still JSON


def write_or_tell(report: RunReport, path: Path, tell: Listener) -> RunReport:
    """Write ``path`` as a whole; if that fails, notify the user. Returns the report, which then says so."""
    try:
        write(report, path)
    except OutputError as error:
        tell(Notice(str(error)))
        return replace(report, unwritten=(*report.unwritten, str(error)))
    return report


def read(path: Path) -> RunReport:
    """Read a report. Raises MapError if it is missing, damaged or of another version."""
    try:
        content = read_object(path, REPORT_VERSION, AGAIN)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MapError(why_no_report(path.parent)) from error
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. {AGAIN}") from error
    return typed(with_kinds(content), RunReport, path, AGAIN)
