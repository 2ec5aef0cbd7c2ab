"""``recon verify-reference``: compares the networks with the public code."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recon.lab.reference.comparison import Comparison

DIFFERS = 1


def verify_reference(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of reference suites.")],
    every: Annotated[bool, typer.Option("--all", help="Print every output, not just the worst of each case.")] = False,
) -> None:
    """Compare the networks with the public code.

    Reads suites of stored outputs. Exits with 1 if any differ.
    """
    from recon.lab.reference.suites import verify
    from retrieval.lab.reference import compare_image

    by_case: defaultdict[str, list[Comparison]] = defaultdict(list)
    for comparison in verify(folder, {"image": compare_image}):
        by_case[comparison.case].append(comparison)
        if every:
            typer.echo(_line(comparison))
    worst = [max(comparisons, key=_share) for comparisons in by_case.values()]
    if not every:
        for comparison in worst:
            typer.echo(_line(comparison))
    failed = sum(not comparison.ok for comparisons in by_case.values() for comparison in comparisons)
    total = sum(map(len, by_case.values()))
    typer.echo(f"{total - failed} of {total} outputs in {len(by_case)} cases agree.")
    if failed:
        raise typer.Exit(DIFFERS)


def _share(comparison: Comparison) -> float:
    """The error in units of the bound."""
    if comparison.bound:
        return comparison.error / comparison.bound
    return float("inf") if comparison.error else 0.0


def _line(comparison: Comparison) -> str:
    verdict = "ok    " if comparison.ok else "FAILED"
    reason = f"  {comparison.reason}" if comparison.reason else ""
    share = f"{_share(comparison):.0%} of {comparison.bound:.1e}"
    return f"{verdict}  {comparison.case}  {comparison.output}  error {comparison.error:.1e}, {share}{reason}"
