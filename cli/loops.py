"""``recon loops``: the loop candidates of a run with their verdicts, and doubtful submaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recon.core.places import LoopRecord


def loops(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")]) -> None:
    """List loop candidates and doubtful parts of a run.

    Shows the evidence and the verdict of every candidate.
    """
    from recon.store.report import read

    report = read(folder / "report.json")
    for suspicion in report.suspicions:
        typer.echo(f"The map is doubtful: {suspicion}.")
    _print_ledger(report.loops)
    for chunk in report.chunks:
        for warning in chunk.warnings:
            typer.echo(f"Submap {chunk.index} is doubtful (frames {chunk.first} to {chunk.last}): {warning}.")


def _print_ledger(ledger: Sequence[LoopRecord]) -> None:
    if not ledger:
        typer.echo("No loop candidates, or the run used --no-loops.")
        return
    typer.echo("verdict    frame  earlier  similarity  inliers  residual  before  after   reason")
    for line in ledger:
        typer.echo(_row(line))
    counts = {
        verdict: sum(line.verdict == verdict for line in ledger) for verdict in ("accepted", "rejected", "retracted")
    }
    typer.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + ".")
    typer.echo(
        "Residual: share of the image width. Before, after: standard deviations before and after the correction."
    )


def _row(line: LoopRecord) -> str:
    numbers = f"{line.frame:>5}  {line.earlier:>7}  {line.similarity:>10.3f}  {line.inliers:>7}  {line.residual:>8.2%}"
    return f"{line.verdict:<9}  {numbers}  {line.before:>6.1f}  {line.after:>5.1f}   {line.reason}".rstrip()
