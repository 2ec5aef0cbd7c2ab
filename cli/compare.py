"""``recon compare``: what has changed between two maps of one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.options import Out

if TYPE_CHECKING:
    from recon.evaluate.changes import Comparison

APART = 1


def compare(
    first: Annotated[Path, typer.Argument(metavar="BEFORE", help="Folder of the earlier map.")],
    second: Annotated[Path, typer.Argument(metavar="AFTER", help="Folder of the later map.")],
    *,
    out: Out,
) -> None:
    """Find what has changed between two maps of one place.

    A surface has gone if the later map has looked at its place and seen past it; one has appeared if the earlier map
    has. Writes changes.ply and, if there are changes, changes.png: gone in red, appeared in green. Exits with 1 if the
    maps do not meet.
    """
    from cli.progress import StageBar
    from retrieval.compare import CLOUD, PICTURE, compare_maps

    with ended_with(lambda: "Interrupted: the maps are as they were."), StageBar() as bar:
        found = compare_maps(first, second, out, bar)
    verified, tried = found.pairs
    if found.comparison is None:
        typer.echo(f"{first} and {second} do not meet: {verified} of {tried} pairs of frames verified.")
        raise typer.Exit(APART)
    _print(found.comparison)
    written = [CLOUD, PICTURE] if found.comparison.changes else [CLOUD]
    typer.echo(f"Wrote {' and '.join(str(out / name) for name in written)}.")


def _print(comparison: Comparison) -> None:
    if comparison.changes:
        typer.secho(f"{'change':<9}  {'centre':^26}  {'size':^23}", bold=True)
    for change in comparison.changes:
        centre = " ".join(f"{value:8.3f}" for value in change.centre)
        size = " x ".join(f"{value:5.2f}" for value in change.extent)
        typer.echo(f"{'appeared' if change.appeared else 'gone':<9}  {centre:<26}  {size}")
    if not comparison.changes:
        typer.echo("No change is found.")
    first, second = comparison.seen
    typer.echo(
        f"The later map has looked at {first:.0%} of the surface of the earlier one, the earlier at {second:.0%} of "
        "that of the later; nothing is known of the rest. Things that stand out from what is behind them by less than "
        f"{comparison.step:.1%} of their distance are not found. Lengths are in the unit of the earlier map."
    )
