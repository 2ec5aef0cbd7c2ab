"""Opens exported files with the programs they are for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycolmap

from recon.core.errors import ReconError
from recon.core.similarity import Array
from recon.exports.colmap import model_is_whole

if TYPE_CHECKING:
    import laspy
    import open3d

MAX_PLY_HEADER = 4096
PLY_BYTES = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8}


class CheckError(ReconError):
    """A file is missing, incomplete, or has the wrong content."""


def read_cloud(path: Path) -> open3d.geometry.PointCloud:
    """The cloud as Open3D's PointCloud. Raises CheckError for a file that is truncated."""
    import open3d  # noqa: PLC0415 - takes two seconds, needed for clouds only

    if _ply_points(existing(path)) == 0:
        raise CheckError(f"{path} has no points: the map has no depth that is sure.")
    if not _ply_is_whole(existing(path)):  # Open3D would fill the rest with whatever is in memory
        raise CheckError(f"{path} is truncated or not a binary PLY file: not all of its points can be read.")
    return open3d.io.read_point_cloud(path, remove_nan_points=False)


def read_las(path: Path) -> laspy.LasData:
    """The cloud as laspy's LasData. Raises CheckError for a file without all of its points."""
    import laspy  # noqa: PLC0415 - optional

    with laspy.open(existing(path)) as file:
        found = file.read()
    if not 0 < len(found.points) == found.header.point_count:
        raise CheckError(f"{path} is truncated or empty: not all of its points can be read.")
    return found


def read_usd(path: Path) -> Any:
    """The scene as a stage of usd-core, or as text where that is not installed. Raises CheckError for half a file."""
    text = existing(path).read_text()
    if not (text.startswith("#usda 1.0") and text.endswith("}\n")):
        raise CheckError(f"{path} is truncated, or not USD in plain text.")
    if find_spec("pxr") is None:
        return text
    from pxr import Usd  # noqa: PLC0415 - optional

    return Usd.Stage.Open(str(path))


def read_mesh(path: Path) -> open3d.geometry.TriangleMesh:
    """The mesh as Open3D's TriangleMesh. Raises CheckError for one without triangles."""
    import open3d  # noqa: PLC0415

    mesh = open3d.io.read_triangle_mesh(existing(path))
    if not len(mesh.triangles) or not np.isfinite(np.asarray(mesh.vertices)).all():
        raise CheckError(f"Open3D reads {len(mesh.triangles)} triangles from {path}, expected some, all finite.")
    return mesh


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """The model in ``folder``/sparse/0. Raises CheckError for one that is missing or truncated."""
    path = existing(folder / "sparse" / "0")
    if not model_is_whole(path):
        raise CheckError(f"images.bin or points3D.bin in {path} is missing or truncated.")
    return pycolmap.Reconstruction(path)


def read_trajectory(path: Path) -> Array:
    """The rows (n, 8) of a TUM file: time, place, and quaternion. Raises CheckError for other rows."""
    return _rows(path, 8)


def read_kitti(path: Path) -> Array:
    """world_from_cam (n, 4, 4) of a KITTI file. Raises CheckError for rows of another length than 12."""
    upper = _rows(path, 12).reshape(-1, 3, 4)
    return np.concatenate([upper, np.tile(np.eye(4)[3:], (len(upper), 1, 1))], axis=1)


def read_euroc(path: Path) -> Array:
    """The rows (n, 8) of an ASL file: time [ns], centre, quaternion w x y z. Raises CheckError for other rows."""
    return _rows(path, 8, ",")


def read_rosbag2(folder: Path) -> dict[str, list[Any]]:
    """The messages of a recording by topic. Raises CheckError if it cannot be read, or lacks some of them."""
    from rosbags.highlevel import AnyReader  # noqa: PLC0415 - optional

    found: dict[str, list[Any]] = {}
    try:
        with AnyReader([existing(folder)]) as bag:
            for connection, _, content in bag.messages():
                found.setdefault(connection.topic, []).append(bag.deserialize(content, connection.msgtype))
            stated = bag.message_count
    except Exception as error:  # rosbags raises almost any type on damaged files
        raise CheckError(f"{folder} is damaged: {error}.") from error
    if sum(map(len, found.values())) != stated:
        raise CheckError(f"{folder} is truncated: not all of its {stated} messages can be read.")
    return found


def _rows(path: Path, columns: int, between: str | None = None) -> Array:
    lines = existing(path).read_text().splitlines()
    try:
        rows = np.array([line.split(between) for line in lines if not line.startswith("#")], dtype=np.float64)
    except ValueError:  # not numbers, or not as many in each row
        rows = np.zeros(0)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise CheckError(f"{path} has other rows than of {columns} numbers, or none.")
    return rows


def read_nerfstudio(folder: Path) -> dict[str, Any]:
    """The content of transforms.json. Raises CheckError if one of its images is missing."""
    content: dict[str, Any] = json.loads(existing(folder / "transforms.json").read_text())
    for frame in content["frames"]:
        existing(folder / frame["file_path"])
    return content


def read_geojson(path: Path) -> dict[str, Any]:
    """The content of a GeoJSON file. Raises CheckError for one without a line."""
    content: dict[str, Any] = json.loads(existing(path).read_text())
    if [feature["geometry"]["type"] for feature in content["features"]] != ["LineString"]:
        raise CheckError(f"{path} holds no line.")
    return content


def existing(path: Path) -> Path:
    """The path. Raises CheckError if it does not exist."""
    if not path.exists():
        raise CheckError(f"{path} is missing.")
    return path


def _ply_is_whole(path: Path) -> bool:
    """Whether a binary PLY of points has the number of bytes that its header implies."""
    header = _ply_header(path)
    width = sum(PLY_BYTES[row[1]] for row in map(str.split, header.splitlines()) if row[:1] == ["property"])
    points = _ply_points(path) or 0
    return points > 0 and path.stat().st_size == len(header) + len("end_header\n") + points * width


def _ply_points(path: Path) -> int | None:
    """How many points the header of a PLY file states, None if it states no number."""
    rows = [line.split() for line in _ply_header(path).splitlines()]
    return next((int(row[2]) for row in rows if row[:2] == ["element", "vertex"]), None)


def _ply_header(path: Path) -> str:
    """The header of a PLY file, without its last line."""
    with path.open("rb") as file:
        return file.read(MAX_PLY_HEADER).partition(b"end_header\n")[0].decode("ascii", errors="replace")
