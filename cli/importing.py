"""``recon import``: a model of another program as a map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import UNWRITTEN, making_a_map
from cli.options import DenseDepth, Out
from cli.run import print_summary, write_page

if TYPE_CHECKING:
    from recon.store.report import RunReport


def import_map(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="Folder of a COLMAP model, of Polycam or Record3D, or a transforms.json."
        ),
    ],
    *,
    out: Out,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images of a COLMAP model that are not beside it.")
    ] = None,
    depth: DenseDepth = "filled",
) -> None:
    """Make a map from another program's poses and images.

    Poses and lenses stay as they are; dense depth is computed with them. A COLMAP model may be binary or text, with its
    images beside it, as in a folder with images and sparse/0. Then recon locate, view, check and export work as with a
    map of recon run.
    """
    with making_a_map(out) as workers:
        report: RunReport = workers.call(
            "geometry", "recon.imports.build:import_model", source, out, workers.tell, images=images, depth=depth
        )
    write_page(out)
    print_summary(report, out)
    if report.unwritten:
        raise typer.Exit(UNWRITTEN)
