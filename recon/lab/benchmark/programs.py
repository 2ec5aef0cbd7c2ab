"""The pipeline and plain COLMAP as separate processes, whose time and memory are measured from outside."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from recon.core.stopwatch import Stopwatch, peak_memory
from recon.lab.benchmark.sets import BenchmarkSet

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Process:
    """A process that has ended: its wall time, the processor time of all its threads and child processes [s], its peak
    resident memory [bytes], and why it failed, None if it did not.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    failure: str | None


def run_pipeline(member: BenchmarkSet, data: Path, out: Path) -> Process:
    """``recon run`` into ``out`` with default settings and without a viewer."""
    options = ("--out", str(out), "--viewer", "none", "--every", str(member.every), "--overwrite")
    return run_measured(("-m", "cli", "run", str(data / member.folder / member.source), *options), out)


def run_plain_colmap(member: BenchmarkSet, data: Path, out: Path) -> Process:
    """Plain COLMAP with its default options into ``out``; see ``recon.lab.benchmark.plain_colmap``."""
    shutil.rmtree(out, ignore_errors=True)
    options = ("--out", str(out), "--matching", member.matching, "--every", str(member.every))
    source = str(data / member.folder / member.source)
    return run_measured(("-m", "cli", "lab", "plain-colmap", source, *options), out)


def run_measured(
    arguments: Sequence[str],
    out: Path,
    look: Callable[[int], object] = lambda process: None,
    every: float = POLL_SECONDS,
) -> Process:
    """Run this Python with ``arguments`` and wait; its output goes to a log file beside the folder ``out``.

    look: called with the number of the process. every: seconds from one look to the next, also at the memory.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    log, peak_bytes = out.with_name(out.name + ".log"), 0
    watch, own = Stopwatch(), time.process_time()
    with log.open("wb") as file, subprocess.Popen((sys.executable, *arguments), stdout=file, stderr=file) as process:
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _memory_with_workers(process.pid))
                look(process.pid)
                time.sleep(every)
        except BaseException:
            process.kill()
            raise
    failure = _failure(process.returncode, log)
    own = time.process_time() - own  # of measuring: a tenth of a processor
    return Process(watch.seconds, watch.processor_seconds - own, peak_bytes, failure)


def _memory_with_workers(process: int) -> int:
    """Peaks of a process and of those that it has started and that still run, added up [bytes]."""
    try:
        started = [child.pid for child in psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(peak_memory, (process, *started)))


def _failure(code: int, log: Path) -> str | None:
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'}"
