"""What comes out of a map: files in other programs' formats, each in that format's own convention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from recon.core.colmap_log import quiet
from recon.core.errors import SettingsError
from recon.exports.colmap import write_colmap, write_undistorted
from recon.exports.mesh import write_mesh
from recon.exports.nerfstudio import write_nerfstudio
from recon.exports.ply import write_ply
from recon.exports.trajectory import Trajectory, read_tum, write_kitti, write_tum
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap, make_folder

Target = Literal["ply", "mesh", "colmap", "tum", "kitti", "nerfstudio"]

SURFACES: dict[Target, Callable[[ReconstructedMap, Path, CloudSettings], object]] = {
    "ply": write_ply,
    "mesh": write_mesh,
}
WRITERS: dict[Target, Callable[[ReconstructedMap, Path], object]] = {
    "colmap": write_colmap,
    "tum": write_tum,
    "kitti": write_kitti,
    "nerfstudio": write_nerfstudio,
}

__all__ = [
    "SURFACES",
    "WRITERS",
    "Target",
    "Trajectory",
    "export",
    "read_tum",
    "write_colmap",
    "write_kitti",
    "write_mesh",
    "write_nerfstudio",
    "write_ply",
    "write_tum",
    "write_undistorted",
]


@quiet()
def export(
    reconstruction: ReconstructedMap,
    target: Target,
    out: Path,
    undistort: bool = False,
    cloud: CloudSettings | None = None,
) -> Path:
    """Write the map as ``target`` to ``out``: a folder for colmap and nerfstudio, else a file.

    undistort: pinhole copies of the images, for colmap only. cloud: for ply and mesh only. A file is replaced, a folder
    must be new or empty, except that the model beside the run's own images is written again. Returns ``out``.
    Raises SettingsError for an option that is not of the target, OutputError when ``out`` cannot be written, and
    MapError when the map's files are damaged.
    """
    if undistort and target != "colmap":
        raise SettingsError(f"Undistorted images are made for colmap only, not for {target}. Use --to colmap.")
    if cloud not in (None, CloudSettings()) and target not in SURFACES:
        raise SettingsError(f"A {target} has no surface to clean or to thin. Use --to ply or --to mesh.")
    make_folder(out.parent)
    if target in SURFACES:
        SURFACES[target](reconstruction, out, cloud or CloudSettings())
    else:
        write = write_undistorted if undistort else WRITERS[target]
        write(reconstruction, out)
    return out
