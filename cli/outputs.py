"""Commands for an existing run: ``recon view``, ``export`` and ``check``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.options import Clean, Folder, MaxPoints, Sky, Voxel
from cli.text import print_rows

CHECK_FAILED = 1
FILE_NAMES = {
    "ply": "cloud.ply",
    "mesh": "mesh.ply",
    "colmap": "colmap",
    "tum": "poses.txt",
    "kitti": "poses_kitti.txt",
    "nerfstudio": "nerfstudio",
}


def view(
    folder: Folder,
    web: Annotated[bool, typer.Option("--web", help="Open it in a browser on this machine.")] = False,
) -> None:
    """Explore a run in Rerun's viewer."""
    import viewer

    viewer.show(folder, web=web)


def export(
    folder: Folder,
    *,
    to: Annotated[Literal["ply", "mesh", "colmap", "tum", "kitti", "nerfstudio"], typer.Option(help="Output format.")],
    out: Annotated[Path | None, typer.Option(help="File or folder to write.  [default: in DIR]")] = None,
    undistort: Annotated[
        bool, typer.Option("--undistort", help="Write undistorted pinhole images (colmap only).")
    ] = False,
    voxel: Voxel = None,
    max_points: MaxPoints = 10_000_000,
    clean: Clean = True,
    sky: Sky = True,
) -> None:
    """Export a run to another format."""
    from recon import exports
    from recon.settings import CloudSettings
    from recon.store.lock import sole_writer
    from recon.store.map import open_map

    cloud = CloudSettings(voxel, max_points, clean, sky)
    name = "colmap_undistorted" if undistort else FILE_NAMES[to]
    target = out or folder / name
    reconstruction = open_map(folder)
    # A run writes the same files into this folder; to other folders, even a growing map may be exported.
    inside = target.resolve().is_relative_to(folder.resolve())
    with sole_writer(folder, "export") if inside else nullcontext():
        written = exports.export(reconstruction, to, target, undistort, cloud)
    typer.echo(f"Wrote {written}")


def check(folder: Folder) -> None:
    """Check that the outputs of a run are complete.

    Opens every file as its consumer would and compares them. Exits with 1 if a check fails.
    """
    from recon.evaluate.check import check_folder
    from recon.store.map import open_map

    open_map(folder)  # reports a missing run in one line
    report = check_folder(folder)
    print_rows(
        str(folder), [(item.name, f"{'ok    ' if item.ok else 'FAILED'}  {item.sentence}") for item in report.items]
    )
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)
