"""``recon merge``: maps of one place as one map."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.options import Out
from cli.run import write_page

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
    from cli.progress import StageBar
    from recon.core.files import leaving_no_empty_folder
    from recon.core.workers import workers_of_environment
    from recon.folder import discard_unfinished, require_empty

    require_empty(out)  # before an interruption could discard what is in it

    def ended() -> str:
        workers.close()
        return discard_unfinished(out)

    with ExitStack() as stack:
        stack.enter_context(leaving_no_empty_folder(out))
        workers = stack.enter_context(workers_of_environment())
        # In this process, Ctrl-C would wait for COLMAP, which holds the interpreter lock.
        stack.enter_context(ended_with(ended, elsewhere=workers.separate))
        workers.listener = stack.enter_context(StageBar())
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
    for folder in found.apart:
        typer.echo(f"{folder} does not meet the others." if found.joined else f"{folder} meets no other map.")
    if found.joined:
        how = "all poses adjusted jointly" if found.adjusted else "poses of the maps as they were"
        typer.echo(f"Merged {len(found.joined)} maps into {out}, {how}.")
    else:
        typer.echo("Nothing is merged: no two maps meet in three pairs of frames that agree.")
