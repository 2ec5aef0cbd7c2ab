"""Where a run spent its time: a table and a plot of its stages, from its report."""

from __future__ import annotations

import io
from pathlib import Path

from recon.core.files import write_atomically
from recon.core.stopwatch import StageTime
from recon.lab.benchmark.programs import run_measured
from recon.store.report import RunReport, read

MEGABYTE = 1e6
BAR = 0.3  # inches


def measure(source: str, out: Path) -> RunReport:
    """Run ``recon run`` on a source in a separate process, or read the report of the run in ``source``. Raises MapError
    if there is no report in the end.
    """
    finished = Path(source) / "report.json"
    if finished.is_file():
        return read(finished)
    run = out / "run"
    run_measured(("-m", "cli", "run", source, "--out", str(run), "--viewer", "none", "--overwrite"), run)
    return read(run / "report.json")


def table(report: RunReport) -> str:
    """Markdown: a row per stage, the longest first, and the sum; a stage's time excludes that of inner stages."""
    whole = StageTime("whole run", report.seconds, report.processor_seconds, 0, report.peak_memory_bytes)
    rows = [_row(stage, report) for stage in (*by_cost(report), whole)]
    head = ("stage", "processor s", "share", "a frame [ms]", "wall s", "calls", "peak memory so far [MB]")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def by_cost(report: RunReport) -> list[StageTime]:
    """The stages of a run, those with the most processor time first."""
    return sorted(report.stages, key=lambda stage: (-stage.processor_seconds, -stage.seconds))


def write_results(report: RunReport, out: Path) -> None:
    """Write ``stages.md`` and ``stages.png``. Raises OutputError."""
    write_atomically(out / "stages.md", lambda file: file.write(table(report).encode()))
    write_atomically(out / "stages.png", lambda file: file.write(plot(report)))


def plot(report: RunReport) -> bytes:
    """PNG: processor and wall time of every stage as bars."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    stages = by_cost(report)[::-1]
    figure = Figure(figsize=(8, 1 + BAR * len(stages)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(stages))
    axes.barh(rows, [stage.processor_seconds for stage in stages], height=0.8, color="#9ec5e8", label="processor")
    axes.barh(rows, [stage.seconds for stage in stages], height=0.35, color="#1f4e79", label="wall")
    axes.set_yticks(rows, [stage.name for stage in stages])
    axes.set_xlabel("seconds")
    keyframes = f", {report.frames_read} of them keyframes" if report.passed_over else ""
    axes.set_title(f"{_frames(report)} frames{keyframes}, {report.processor_seconds:.0f} processor seconds", loc="left")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _frames(report: RunReport) -> int:
    """All frames of the source, mapped or between keyframes."""
    return report.frames_read + report.passed_over


def _row(stage: StageTime, report: RunReport) -> tuple[str, ...]:
    share = stage.processor_seconds / report.processor_seconds if report.processor_seconds else 0.0
    return (
        stage.name,
        f"{stage.processor_seconds:.1f}",
        f"{share:.0%}",
        f"{1000 * stage.processor_seconds / max(_frames(report), 1):.0f}",
        f"{stage.seconds:.1f}",
        str(stage.calls or ""),
        f"{stage.peak_memory_bytes / MEGABYTE:.0f}",
    )
