"""``recon import``: a model of another program as a map."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.options import DenseDepth, Out
from cli.run import UNWRITTEN, print_summary, write_page

if TYPE_CHECKING:
    from recon.store.report import RunReport


def import_map(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of a COLMAP model, or transforms.json of nerfstudio.")
    ],
    *,
    out: Out,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images of a COLMAP model that are not beside it.")
    ] = None,
    depth: DenseDepth = "filled",
) -> None:
    """Make a map of the poses and images of another program.

    Poses and lenses stay as they are; dense depth is computed with them. A COLMAP model may be binary or text, with its
    images beside it, as in a folder with images and sparse/0. Then recon locate, view, check and export work as with a
    map of recon run.
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
        report: RunReport = workers.call(
            "geometry", "recon.imports.build:import_model", source, out, workers.tell, images=images, depth=depth
        )
    write_page(out)
    print_summary(report, out)
    if report.unwritten:
        raise typer.Exit(UNWRITTEN)
