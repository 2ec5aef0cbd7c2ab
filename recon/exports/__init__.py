"""What comes out of a map: files in other programs' formats, each in that format's own convention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from recon.errors import SettingsError
from recon.exports.colmap import write_colmap, write_undistorted
from recon.exports.nerfstudio import write_nerfstudio
from recon.exports.ply import write_ply
from recon.exports.trajectory import Trajectory, read_tum, write_kitti, write_tum
from recon.store import ReconstructedMap, make_folder

Target = Literal["ply", "colmap", "tum", "kitti", "nerfstudio"]

WRITERS: dict[Target, Callable[[ReconstructedMap, Path], object]] = {
    "ply": write_ply,
    "colmap": write_colmap,
    "tum": write_tum,
    "kitti": write_kitti,
    "nerfstudio": write_nerfstudio,
}

__all__ = [
    "WRITERS",
    "Target",
    "Trajectory",
    "export",
    "read_tum",
    "write_colmap",
    "write_kitti",
    "write_nerfstudio",
    "write_ply",
    "write_tum",
    "write_undistorted",
]


def export(reconstruction: ReconstructedMap, target: Target, out: Path, undistort: bool = False) -> Path:
    """Write the map as ``target`` to ``out``: a file for ply, tum and kitti, a folder for colmap and nerfstudio.

    undistort: pinhole copies of the images, for colmap only. A file is replaced, a folder must be new or empty, except
    that the model beside the run's own images is written again. Returns ``out``.
    Raises SettingsError for ``undistort`` with another target, OutputError when ``out`` cannot be written, and
    MapError when the map's files are damaged.
    """
    if undistort and target != "colmap":
        raise SettingsError(f"Undistorted images are made for colmap only, not for {target}. Use --to colmap.")
    make_folder(out.parent)
    write = write_undistorted if undistort else WRITERS[target]
    write(reconstruction, out)
    return out
