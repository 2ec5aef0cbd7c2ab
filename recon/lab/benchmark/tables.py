"""The results of a benchmark as JSON, with all that is needed to compare them later, and as a table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from recon.core.files import write_atomically
from recon.core.machine import processors
from recon.lab.benchmark.commit import current_commit
from recon.lab.benchmark.measure import Findings, RunResult, SetResult
from recon.store.report import main_versions

RESULTS_VERSION = 2
HEADER = (
    "input",
    "processor seconds",
    "frames posed",
    "ATE RMSE (Sim(3))",
    "of extent",
    "of path",
    "depth error, kept",
    "cloud to surface",
    "seconds",
    "peak memory",
    "shows what it must",
)


@dataclass(frozen=True)
class Circumstances:
    """Where results come from. commit: of the program, with ``+`` if files were changed. load: average number of busy
    processes in the minute before the start, if the system reports it; other work makes both programs slower.
    """

    date: str
    commit: str
    device: str
    processors: int
    load: float | None
    versions: dict[str, str]


@dataclass(frozen=True)
class BenchmarkResult:
    """All sets that were measured together, each ``repeat`` times."""

    circumstances: Circumstances
    repeat: int
    sets: tuple[SetResult, ...]


def circumstances() -> Circumstances:
    """The present circumstances."""
    return Circumstances(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=current_commit(),
        device=_device(),
        processors=processors(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        versions=main_versions(),
    )


def write_results(result: BenchmarkResult, folder: Path) -> None:
    """Write ``results.json`` and ``results.md``. Raises OutputError if the folder cannot be written."""
    text = json.dumps({"version": RESULTS_VERSION} | asdict(result), indent=1, default=lambda matrix: matrix.tolist())
    write_atomically(folder / "results.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "results.md", lambda file: file.write(to_markdown(result).encode()))


def to_markdown(result: BenchmarkResult) -> str:
    """The table, two rows per set, and below it the circumstances."""
    rows = [HEADER, ("---",) * len(HEADER)]
    for member in result.sets:
        rows += _set_rows(member)
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    where = result.circumstances
    runs = "one run" if result.repeat == 1 else f"medians of {result.repeat} runs, lowest to highest in brackets"
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    load = "" if where.load is None else f", load {where.load:g} at the start"
    return (
        f"{table}\n{runs.capitalize()}, both programs in turn, on {where.device} with {where.processors} processors"
        f"{load}. Commit {where.commit}, {where.date}. {versions}.\n"
    )


def _set_rows(member: SetResult) -> list[tuple[str, ...]]:
    verdict = "no: " + "; ".join(member.shortfalls) if member.shortfalls else "yes"
    every = {1: "", 2: ", every 2nd frame", 3: ", every 3rd frame"}.get(member.every, f", every {member.every}th frame")
    return [
        (member.name + every, *_figures(member.pipeline, member.frames), verdict),
        ("plain COLMAP", *_figures(member.colmap, member.frames), ""),
    ]


def _figures(runs: Sequence[RunResult], frames: int) -> tuple[str, ...]:
    """The cells between a row's name and its verdict."""
    failed = [run.failure for run in runs if run.failure]
    posed = f"failed: {failed[0]}" if failed else _posed(runs, frames)
    return (
        _range([run.processor_seconds for run in runs], "{:.0f}"),
        posed.replace("|", "/"),
        _spread(runs, lambda found: found.path.ate if found.path else None, "{:.3g}"),
        _spread(runs, lambda found: found.path.of_extent if found.path else None, "{:.2%}"),
        _spread(runs, lambda found: found.path.of_path if found.path else None, "{:.3%}"),
        _depth(runs),
        _spread(runs, lambda found: found.cloud.share if found.cloud else None, "{:.2%}"),
        _range([run.seconds for run in runs], "{:.0f}"),
        _range([run.peak_bytes / 1e9 for run in runs], "{:.1f} GB"),
    )


def _posed(runs: Sequence[RunResult], frames: int) -> str:
    worst = min((run.findings for run in runs if run.findings), key=lambda found: found.posed)
    sentence = f"{worst.posed} of {frames}"
    if len(worst.models) > 1:
        sentence += f", in pieces of {', '.join(str(size) for size in worst.models)}"
    if worst.ring:
        sentence += (
            f"; turns by {worst.ring.total_deg:.0f} degrees in all and by at most {worst.ring.largest_deg:.0f} from one"
            " image to the next"
        )
    return sentence


def _depth(runs: Sequence[RunResult]) -> str:
    error = _spread(runs, lambda found: found.depth.median_error if found.depth else None, "{:.2%}")
    kept = _spread(runs, lambda found: found.depth.kept if found.depth else None, "{:.0%}")
    return f"{error}, {kept}" if error else ""


def _spread(runs: Sequence[RunResult], value: Callable[[Findings], float | None], form: str) -> str:
    values = [value(run.findings) for run in runs if run.findings]
    return _range([number for number in values if number is not None], form)


def _range(values: Sequence[float], form: str) -> str:
    """The median, with the lowest and highest of several values; empty for no value."""
    if not values:
        return ""
    middle = form.format(median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def _device() -> str:
    """The processor's name, as exactly as the system reports it."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    names = [row.split(":", 1)[1].strip() for row in rows if row.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
