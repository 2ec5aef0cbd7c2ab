"""Commands for an existing run: ``recon view``, ``export`` and ``check``."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.options import Clean, Folder, MaxPoints, Sky, Voxel
from cli.text import print_rows
from recon.core.errors import SettingsError
from recon.exports import EXPORTS

if TYPE_CHECKING:
    from recon.store.map import ReconstructedMap

CHECK_FAILED = 1
FORMATS = "Format. " + "; ".join(f"{name}: {export.about}" for name, export in EXPORTS.items()) + "."


def view(
    folder: Folder,
    web: Annotated[bool, typer.Option("--web", help="Open it in a browser on this machine.")] = False,
) -> None:
    """Explore a run in Rerun's viewer."""
    import viewer

    viewer.show(folder, web=web)


def report(
    folder: Folder,
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="Another run, to compare with.")] = None,
    *,
    out: Annotated[Path | None, typer.Option(metavar="HTML", help="Page for the comparison.")] = None,
) -> None:
    """Write the report of a run again, or compare two runs.

    The page report.html shows warnings, cloud, path, depth and times, and needs no network. With OTHER, settings
    that differ, results and times are printed side by side, and how far the cameras lie apart; only --out is written.
    """
    if other:
        _compare(folder, other, out)
        return
    if out:
        raise SettingsError("--out is for the comparison of two runs: recon report DIR OTHER --out PAGE.html")
    from recon.store.lock import sole_writer
    from recon.store.map import open_map
    from viewer.report import write_report

    open_map(folder)  # before the lock, which would create the folder
    with sole_writer(folder, "report"):
        typer.echo(f"Wrote {write_report(folder)}")


def _compare(first: Path, second: Path, out: Path | None) -> None:
    from recon.evaluate.runs import compare_runs
    from viewer.report.comparison import write_comparison

    if out and (out.suffix.lower() != ".html" or out.name == "report.html"):
        raise SettingsError(f"--out is a new page that ends in .html, got {out}. Use --out comparison.html, say.")
    rows, sentence = compare_runs(first, second)
    columns = [max(map(len, column)) for column in zip(("", str(first), str(second)), *rows, strict=True)]
    for row in (("", str(first), str(second)), *rows):
        typer.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, columns, strict=True)).rstrip())
    typer.echo(sentence)
    if out:
        write_comparison(first, second, rows, sentence, out)
        typer.echo(f"Wrote {out}")


def export(
    folder: Folder,
    *,
    to: Annotated[str, typer.Option(metavar="|".join(EXPORTS), help=FORMATS)],
    out: Annotated[Path | None, typer.Option(help="File or folder to write.  [default: in DIR]")] = None,
    undistort: Annotated[
        bool, typer.Option("--undistort", help="Write undistorted pinhole images (colmap only).")
    ] = False,
    voxel: Voxel = None,
    max_points: MaxPoints = 10_000_000,
    clean: Clean = True,
    sky: Sky = True,
    check: Annotated[
        bool, typer.Option("--check", help="Read the export back and compare what it shows with the images.")
    ] = False,
) -> None:
    """Export a run to another format.

    With --check, reads the files back as their format documents them, and compares what they show with the images.
    Readings that are wrong on purpose must fit clearly worse; otherwise the exit code is 1.
    """
    from recon import exports
    from recon.settings import CloudSettings
    from recon.store.lock import sole_writer
    from recon.store.map import open_map

    if check:
        _require_check_of(to)
    cloud = CloudSettings(voxel, max_points, clean, sky)
    target = out or folder / exports.default_path(to, undistort=undistort)
    if target.is_dir() and not EXPORTS.known(to).is_folder:
        named = target / exports.default_path(to)
        raise SettingsError(f"{target} is a folder, but --to {to} writes a file: --out {named}, say.")
    reconstruction = open_map(folder)
    # A run writes the same files into this folder; other folders may receive even a growing map.
    inside = target.resolve().is_relative_to(folder.resolve())
    with sole_writer(folder, "export") if inside else nullcontext():
        written = exports.export(reconstruction, to, target, undistort, cloud)
    typer.echo(f"Wrote {written}")
    if check:
        _prove(reconstruction, to, written)


def _require_check_of(to: str) -> None:
    """Raise SettingsError for a format that nothing here can check."""
    from recon.evaluate.exported import READERS

    EXPORTS.known(to)
    READERS.known(to)


def _prove(reconstruction: ReconstructedMap, to: str, written: Path) -> None:
    """Print what the check of an export found. Raises typer.Exit if it failed."""
    from recon.evaluate.proof import prove
    from recon.exports.readers import CheckError

    try:
        found = prove(reconstruction, to, written)
        typer.echo(f"{'Checked' if found.ok else 'FAILED'}: {found}")
    except CheckError as error:
        typer.echo(f"FAILED: {error}")
        raise typer.Exit(CHECK_FAILED) from error
    if not found.ok:
        raise typer.Exit(CHECK_FAILED)


def check(
    folder: Folder,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild what the map can rebuild, then check again.")
    ] = False,
) -> None:
    """Check that the map and the outputs of a run are sound.

    Reads the whole map, opens every file as its consumer would, and compares them. Exits with 1 if a check fails.
    """
    from recon.evaluate.check import check_folder, repair_folder
    from recon.store.map import open_map
    from recon.store.missing import about_replaced

    complete = open_map(folder).complete  # reports a missing run in one line
    with ended_with(lambda: "Interrupted: the check is incomplete."):
        report = check_folder(folder)
        if repair and not report.ok:
            for sentence in repair_folder(report):
                typer.echo(f"note: {sentence}", err=True)
            report = check_folder(folder)
    print_rows(
        str(folder), [(item.name, f"{'ok    ' if item.ok else 'FAILED'}  {item.sentence}") for item in report.items]
    )
    if not complete:
        typer.echo(_how_to_finish(folder))
    if about := about_replaced(folder).strip():
        typer.echo(about)
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


def _how_to_finish(folder: Path) -> str:
    """How to finish an incomplete run, in one line."""
    from recon.store.lock import writer_in

    if writer_in(folder):
        return "The run is still writing; only what it has finished is checked."
    return f"The run has not finished. Resume it with: recon run SOURCE --out {shlex.quote(str(folder))} --resume"
