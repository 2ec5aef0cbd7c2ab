"""Exports of a map: files in other programs' formats, each with that format's conventions.

``EXPORTS`` lists them all: the command line, ``recon check`` and ``--overwrite`` use this table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.core.errors import OutputError, SettingsError
from recon.core.registry import Registry, loaded

if TYPE_CHECKING:  # the table is read for ``recon --help``
    from recon.settings import CloudSettings

UNDISTORTED = "_undistorted"


@dataclass(frozen=True)
class Export:
    """One format. Functions are callables, or "module:function" to be imported when needed.

    path: file or folder to write in the folder of a run. writer: called with the map and a path, and with CloudSettings
    if ``surface``. reader: opens the path with the program the file is for; raises if it is incomplete. about: one line
    of help. undistorted: like ``writer``, with pinhole copies of the images. stage: shown while a run writes this
    format; empty if only ``recon export`` writes it. stale: what to delete if writing fails, if not ``path``.
    """

    path: str
    writer: str | Callable[..., object]
    reader: str | Callable[[Path], Any]
    about: str
    surface: bool = False
    undistorted: str | Callable[..., object] | None = None
    stage: str = ""
    stale: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether ``path`` is a folder."""
        return not Path(self.path).suffix

    def write(self, reconstruction: Any, out: Path, cloud: CloudSettings, *, undistort: bool = False) -> None:
        """Write a map to ``out``."""
        write = loaded(self.undistorted if undistort and self.undistorted else self.writer)
        if self.surface:
            write(reconstruction, out, cloud)
        else:
            write(reconstruction, out)

    def read(self, path: Path) -> Any:
        """The content of ``path`` as its reader gives it."""
        return loaded(self.reader)(path)


EXPORTS: Registry[Export] = Registry(
    "format",
    {
        "tum": Export(
            "poses.txt",
            "recon.exports.trajectory:write_tum",
            "recon.exports.readers:read_trajectory",
            "camera-to-world poses, one line a frame",
            stage="trajectory",
        ),
        "colmap": Export(
            "colmap",
            "recon.exports.colmap:write_colmap",
            "recon.exports.readers:read_model",
            "COLMAP model with the images",
            undistorted="recon.exports.colmap:write_undistorted",
            stage="COLMAP model",
            stale="colmap/sparse",
        ),
        "ply": Export(
            "cloud.ply",
            "recon.exports.ply:write_ply",
            "recon.exports.readers:read_cloud",
            "dense cloud with colour and confidence",
            surface=True,
            stage="cloud",
        ),
        "las": Export(
            "cloud.las",
            "recon.exports.las:write_las",
            "recon.exports.readers:read_las",
            "the cloud as LAS, or LAZ with --out NAME.laz; in UTM after recon scale --gps or --track",
            surface=True,
        ),
        "mesh": Export(
            "mesh.ply",
            "recon.exports.mesh:write_mesh",
            "recon.exports.readers:read_mesh",
            "triangles with colour",
            surface=True,
        ),
        "usd": Export(
            "map.usda",
            "recon.exports.usd:write_usd",
            "recon.exports.readers:read_usd",
            "scene of OpenUSD: the cloud, and a camera that moves as the frames do",
            surface=True,
        ),
        "kitti": Export(
            "poses_kitti.txt",
            "recon.exports.trajectory:write_kitti",
            "recon.exports.readers:read_kitti",
            "camera-to-world matrices, one line a frame",
        ),
        "euroc": Export(
            "poses_euroc.csv",
            "recon.exports.trajectory:write_euroc",
            "recon.exports.readers:read_euroc",
            "camera-to-world poses with times in nanoseconds, as the ground truth of EuRoC",
        ),
        "rosbag2": Export(
            "rosbag2",
            "recon.exports.rosbag2:write_rosbag2",
            "recon.exports.readers:read_rosbag2",
            "recording of ROS 2 with poses, transforms and the cloud",
            surface=True,
        ),
        "nerfstudio": Export(
            "nerfstudio",
            "recon.exports.nerfstudio:write_nerfstudio",
            "recon.exports.readers:read_nerfstudio",
            "transforms.json with images and sparse points",
        ),
        "geojson": Export(
            "path.geojson",
            "recon.exports.geojson:write_geojson",
            "recon.exports.readers:read_geojson",
            "latitude and longitude of the path, after recon scale --gps or --track",
        ),
    },
)


def written_names(*, by_every_run: bool) -> tuple[str, ...]:
    """Names in the folder of a run: of the exports of every run, or of those that ``recon export`` may add."""
    chosen = [export for export in EXPORTS.values() if bool(export.stage) == by_every_run]
    if by_every_run:
        return tuple(export.path for export in chosen)
    undistorted = [export.path + UNDISTORTED for export in EXPORTS.values() if export.undistorted]
    return (*(export.path for export in chosen), *undistorted)


def default_path(target: str, *, undistort: bool = False) -> str:
    """Where ``recon export`` writes a format in the folder of a run. Raises SettingsError."""
    return EXPORTS.known(target).path + (UNDISTORTED if undistort else "")


def export(
    reconstruction: Any,
    target: str,
    out: Path,
    undistort: bool = False,
    cloud: CloudSettings | None = None,
) -> Path:
    """Write the map as ``target`` to ``out``: a folder for colmap, nerfstudio and rosbag2, else a file.

    undistort: pinhole copies of the images, for colmap only. cloud: for clouds and meshes only. A file is replaced; a
    folder must be new or empty, except that the model beside the run's own images is rewritten. Returns ``out``.
    Raises SettingsError for an option that the target does not have, OutputError if ``out`` cannot be written, and
    MapError if the map's files are damaged.
    """
    from recon.core.colmap_log import quiet  # noqa: PLC0415
    from recon.core.files import make_folder  # noqa: PLC0415
    from recon.settings import CloudSettings  # noqa: PLC0415

    chosen = EXPORTS.known(target)
    if undistort and not chosen.undistorted:
        able = _either([name for name, other in EXPORTS.items() if other.undistorted])
        raise SettingsError(f"--undistort applies to {able} only, not to {target}. Use --to {able}.")
    if cloud not in (None, CloudSettings()) and not chosen.surface:
        able = _either([f"--to {name}" for name, other in EXPORTS.items() if other.surface])
        raise SettingsError(f"Cleaning and thinning do not apply to {target}. Use {able}.")
    if out.resolve().is_relative_to((reconstruction.folder / "map").resolve()):
        raise OutputError(f"{out} is part of the map itself. Choose another --out.")
    if other := _format_at(out, reconstruction.folder, target):
        raise OutputError(f"{out} is where the run has its export to {other}. Choose another --out.")
    make_folder(out.parent)
    with quiet():
        chosen.write(reconstruction, out, cloud or CloudSettings(), undistort=undistort)
    return out


def _format_at(out: Path, folder: Path, target: str) -> str:
    """The format other than ``target`` that a run in ``folder`` has at ``out``; empty if there is none."""
    others = (name for name, other in EXPORTS.items() if out.resolve() == (folder / other.path).resolve())
    return next((name for name in others if name != target), "")


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
