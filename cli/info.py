"""``recon info``: what a map holds, at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.text import print_rows
from recon.core.quantities import counted, size

if TYPE_CHECKING:
    from cli.text import Row
    from recon.store.summary import Lens, MapSummary


def info(
    folder: Annotated[Path, typer.Argument(metavar="MAP", help="Folder of a map.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a map holds.

    Frames, extent, lenses, scale, loops, doubts, and size on disk.
    """
    import json
    from dataclasses import asdict

    from recon.store.summary import summarise

    summary = summarise(folder)
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=1))
    else:
        print_rows(str(folder), _rows(summary))


def _rows(summary: MapSummary) -> list[Row]:
    unit = "m" if summary.metric else "map units"
    unplaced = ", ".join(f"{count} {kind}" for kind, count in summary.unplaced.items())
    sides = " x ".join(f"{side:.3g}" for side in summary.extent)
    accepted, candidates = summary.loops
    lenses = [("lens", _lens(lens, frames)) for lens, frames in summary.lenses]
    return [
        ("state", "finished" if summary.complete else "unfinished: recon run --resume finishes it"),
        *[("source", source) for source in summary.sources],
        ("made by", summary.made_by or "unknown"),
        ("frames", f"{summary.mapped} mapped, {summary.between} more with a pose"),
        *([("left out", unplaced)] if unplaced else []),
        ("extent", f"{sides} {unit}, of the camera centres"),
        *lenses[:3],
        *([("", f"and {len(lenses) - 3} more lenses")] if len(lenses) > 3 else []),
        ("scale", str(summary.metric or "the map's own unit; recon scale gives it metres")),
        ("loops", f"{accepted} of {candidates} candidates"),
        *[("doubt", doubt) for doubt in summary.doubts or ("none",)],
        ("size", f"{size(summary.bytes_all)}, {size(summary.bytes_map)} of it the map itself"),
    ]


def _lens(lens: Lens, frames: int) -> str:
    return f"{lens.model} {lens.width}x{lens.height}, focal length {lens.params[0]:.0f} px, {counted(frames, 'frame')}"
