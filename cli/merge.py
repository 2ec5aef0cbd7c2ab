"""``recon merge``: maps of one place as one map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import making_a_map
from cli.options import Out
from cli.run import write_page
from recon.core.quantities import counted

if TYPE_CHECKING:
    from retrieval.merge import Merged

APART = 1


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="MAP...", help="Folders of finished maps.")],
    *,
    out: Out,
    adjust: Annotated[
        bool, typer.Option("--adjust/--no-adjust", help="Adjust all poses jointly, from the images.")
    ] = True,
) -> None:
    """Merge maps of one place into one map.

    Frames of different maps that look alike are verified by geometry. Three or more that agree join two maps. Maps that
    do not meet the others are left out and named; the exit code is then 1.
    """
    with making_a_map(out) as workers:
        found: Merged = workers.call("geometry", "retrieval.merge:merge", folders, out, workers.tell, adjust=adjust)
    if found.joined:
        write_page(out)
    _print(found, out)
    if found.apart or found.unwritten:
        raise typer.Exit(APART)


def _print(found: Merged, out: Path) -> None:
    from itertools import combinations

    for first, second in combinations(range(len(found.folders)), 2):
        own = [one for one in found.meetings if one.members == (first, second)]
        verified = sum(one.bridge is not None for one in own)
        typer.echo(
            f"{found.folders[first]} and {found.folders[second]}: {verified} of {len(own)} pairs of frames verified"
        )
    for sentence in found.contradictions:
        typer.echo(sentence)
    for folder in found.apart:
        typer.echo(f"{folder} does not meet the others." if found.joined else f"{folder} meets no other map.")
    if found.joined:
        how = "all poses adjusted jointly" if found.adjusted else "poses of the maps as they were"
        typer.echo(f"Merged {counted(len(found.joined), 'map')} into {out}, {how}.")
    else:
        typer.echo("Nothing is merged: no two maps meet in three pairs of frames that agree.")
