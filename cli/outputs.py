"""Commands for the folder of a finished run: ``recon view``, ``export``, ``eval`` and ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.text import print_rows

CHECK_FAILED = 1
FILE_NAMES = {
    "ply": "cloud.ply",
    "colmap": "colmap",
    "tum": "poses.txt",
    "kitti": "poses_kitti.txt",
    "nerfstudio": "nerfstudio",
}

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]


def view(
    folder: Folder,
    web: Annotated[bool, typer.Option("--web", help="Serve it to a browser on this machine.")] = False,
) -> None:
    """Look at a run in Rerun's viewer."""
    import viewer

    viewer.show(folder, web=web)


def export(
    folder: Folder,
    to: Annotated[Literal["ply", "colmap", "tum", "kitti", "nerfstudio"], typer.Option(help="Format.")],
    out: Annotated[Path | None, typer.Option(help="File or folder to write; without it, one in DIR.")] = None,
    undistort: Annotated[bool, typer.Option("--undistort", help="Pinhole copies of the images (colmap).")] = False,
) -> None:
    """Write a run in another program's format."""
    from recon import exports
    from recon.store import open_map

    name = "colmap_undistorted" if undistort else FILE_NAMES[to]
    written = exports.export(open_map(folder), to, out or folder / name, undistort)
    typer.echo(f"Wrote {written}")


def evaluate(
    folder: Folder,
    reference: Annotated[Path, typer.Option(metavar="POSES", help="Reference poses in TUM format.")],
    align: Annotated[Literal["sim3", "se3"], typer.Option(help="Alignment: with scale (sim3) or without.")] = "sim3",
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Where to draw it; without it, in DIR.")] = None,
) -> None:
    """Compare a run's camera poses with reference poses."""
    from recon import evaluation

    result = evaluation.evaluate(folder / "poses.txt", reference, align)
    picture = plot or folder / "evaluation.png"
    evaluation.plot(result, picture)
    rows = [
        ("matched poses", f"{result.matched} of {result.reference_rows}"),
        ("ATE RMSE", f"{result.ate_rmse:.4g}"),
        ("ATE median", f"{result.ate_median:.4g}"),
        ("ATE max", f"{result.ate_max:.4g}"),
        ("RPE translation RMSE", f"{result.rpe_translation_rmse:.4g} per pose"),
        ("RPE rotation RMSE", f"{result.rpe_rotation_rmse_deg:.4g} degrees per pose"),
        ("scale", f"{result.scale:.6g}"),
        ("ATE / extent", f"{result.ate_rmse / result.extent:.3%} of {result.extent:.4g}"),
        ("ATE / path length", f"{result.ate_rmse / result.path_length:.3%} of {result.path_length:.4g}"),
        ("plot", str(picture)),
    ]
    print_rows(f"Errors after {align.upper()} alignment, lengths in the reference's unit", rows)


def check(folder: Folder) -> None:
    """Open every file of a run with the program it is for, and compare them. Exits with 1 when something is wrong."""
    from recon.check import check_folder
    from recon.store import open_map

    open_map(folder)  # says so in a sentence where there is no run at all
    report = check_folder(folder)
    print_rows(
        str(folder), [(item.name, f"{'ok    ' if item.ok else 'FAILED'}  {item.sentence}") for item in report.items]
    )
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)
