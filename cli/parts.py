"""``recon crop`` and ``recon split``: parts of a map as maps of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import UNWRITTEN, ended_with
from cli.options import Out
from cli.run import write_page
from recon.core.quantities import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.progress import StageBar
    from recon.parts import Part

Map = Annotated[Path, typer.Argument(metavar="MAP", help="Folder of a finished map.")]


def crop(
    folder: Map,
    *,
    out: Out,
    box: Annotated[
        str | None, typer.Option(metavar="TEXT", help='Keep what lies in a box, given by two corners "X,Y,Z X,Y,Z".')
    ] = None,
    keep_every: Annotated[int, typer.Option(metavar="N", help="Keep the depth of every N-th frame only.")] = 1,
) -> None:
    """Cut a box, or fewer frames, out of a map.

    The part is a map of its own. The world and the unit stay as they are. Frames that see almost nothing of the box are
    left out.
    """
    from recon.core.box import Box
    from recon.parts import crop as crop_map

    with _writing(out) as tell:
        part = crop_map(folder, out, Box.of(box) if box else None, keep_every, tell)
    _conclude([part])


def split(
    folder: Map,
    *,
    out: Out,
    at: Annotated[
        list[float] | None,
        typer.Option(metavar="TIME", help="Cut at this time, as in poses.txt; repeatable.  [default: between pieces]"),
    ] = None,
) -> None:
    """Cut a map into parts.

    Each is a map of its own, in DIR/part_1 and so on. Without --at, parts that share too few points to hang together
    are separated.
    """
    from recon.parts import split as split_map

    with _writing(out, parts=True) as tell:
        parts = split_map(folder, out, at or (), tell)
    _conclude(parts)


@contextmanager
def _writing(out: Path, *, parts: bool = False) -> Iterator[StageBar]:
    """Show progress; say what is left of ``out``, or of the parts in it, after Ctrl-C."""
    from cli.progress import StageBar
    from recon.core.files import leaving_no_empty_folder
    from recon.folder import discard_unfinished, require_empty

    def ended() -> str:
        if not parts:
            return discard_unfinished(out)
        for folder in out.glob("part_*"):
            discard_unfinished(folder)
            with suppress(OSError):
                folder.rmdir()  # if nothing is in it
        complete = len(list(out.glob("part_*")))
        if not complete:
            return "Interrupted: nothing is changed, and no part is written."
        return f"Interrupted. In {out}: {counted(complete, 'part')}; write missing outputs with recon check --repair."

    require_empty(out)  # before an interruption could discard what is in it
    with leaving_no_empty_folder(out), ended_with(ended), StageBar() as bar:
        yield bar


def _conclude(parts: Sequence[Part]) -> None:
    for part in parts:
        write_page(part.folder)
        typer.echo(f"Wrote {part.folder}: {counted(part.frames, 'frame')} with depth.")
    unwritten = [sentence for part in parts for sentence in part.unwritten]
    if unwritten:
        raise typer.Exit(UNWRITTEN)
