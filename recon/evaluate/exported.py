"""What an export says to somebody who knows only its format.

Each format is read by a program that it is for, or by the format's public documentation, and by nothing of the writers:
a mistake in one of them is not repeated here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from recon.core.cameras import colmap_camera, rigid_matrix
from recon.core.registry import Registry
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.exports.readers import (
    CheckError,
    read_cloud,
    read_euroc,
    read_kitti,
    read_las,
    read_mesh,
    read_model,
    read_rosbag2,
    read_trajectory,
    read_usd,
)
from recon.exports.trajectory import tum_poses
from recon.store.map import ReconstructedMap

Projection = Callable[[Array], Array]
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # x right, y up, z backward
OPENCV_AXES = np.array([1.0, -1.0, -1.0])  # from glTF's, y up
GEODETIC, EARTH_CENTRED = "EPSG:4979", "EPSG:4978"  # WGS 84 with heights, and as x, y, z [m]


@dataclass(frozen=True, eq=False)
class ExportedView:
    """The camera of a frame. cam_from_world: (4, 4), OpenCV axes.

    project: points (n, 3) of the camera to pixels (n, 2) of the image; its upper left corner is (0, 0).
    """

    frame: PlacedFrame
    image: Path
    cam_from_world: Array
    project: Projection


@dataclass(frozen=True, eq=False)
class ExportedPoints:
    """positions: (n, 3) in the world of the export's cameras, else of the map. colours: (n, 3) RGB in 0..255."""

    positions: Array
    colours: Array


@dataclass(frozen=True, eq=False)
class Exported:
    """program: what has read the export. points: None if the format has none.

    path: places (frames, 3) of the frames with a pose in the map's world, for formats with nothing else.
    """

    program: str
    views: tuple[ExportedView, ...] = ()
    points: ExportedPoints | None = None
    path: Array | None = None


def own_views(reconstruction: ReconstructedMap) -> tuple[ExportedView, ...]:
    """The cameras of the map itself."""
    poses = [frame.cam_from_world for frame in reconstruction.frames]
    return _views_with_lenses(reconstruction, reconstruction.frames, poses)


def _views_with_lenses(
    reconstruction: ReconstructedMap, frames: Sequence[PlacedFrame], cam_from_world: Sequence[Array]
) -> tuple[ExportedView, ...]:
    """Views with the lenses and images of the map, for formats that have none."""
    return tuple(
        ExportedView(frame, reconstruction.images / frame.name, pose, colmap_projection(colmap_camera(frame.camera)))
        for frame, pose in zip(frames, cam_from_world, strict=True)
    )


def colmap_projection(camera: pycolmap.Camera) -> Projection:
    """pycolmap's projection."""
    return lambda points: np.asarray(camera.img_from_cam(points))


def _colmap(reconstruction: ReconstructedMap, folder: Path) -> Exported:
    model = read_model(folder)
    images = {image.name: image for image in model.images.values()}
    views = tuple(
        ExportedView(
            frame,
            folder / "images" / frame.name,
            rigid_matrix(images[frame.name].cam_from_world()),
            colmap_projection(model.cameras[images[frame.name].camera_id]),
        )
        for frame in _require_all(reconstruction, images, folder)
    )
    points = list(model.points3D.values())
    if not points and len(reconstruction.points.positions):
        raise CheckError(f"{folder} has no points, the map {len(reconstruction.points.positions)}.")
    positions = np.array([point.xyz for point in points])
    colours = np.array([point.color for point in points], dtype=np.float64)
    return Exported(_program("pycolmap"), views, ExportedPoints(positions, colours) if points else None)


def _nerfstudio(reconstruction: ReconstructedMap, folder: Path) -> Exported:
    """transforms.json by https://docs.nerf.studio/quickstart/data_conventions.html."""
    content: dict[str, Any] = json.loads((folder / "transforms.json").read_text())
    rows = {Path(row["file_path"]).name: content | row for row in content["frames"]}
    views = tuple(
        ExportedView(
            frame,
            folder / rows[frame.name]["file_path"],
            OPENGL_FROM_OPENCV @ np.linalg.inv(np.array(rows[frame.name]["transform_matrix"], dtype=np.float64)),
            _nerfstudio_projection(rows[frame.name]),
        )
        for frame in _require_all(reconstruction, rows, folder)
    )
    points = _open3d_points(folder / content["ply_file_path"]) if len(reconstruction.points.positions) else None
    return Exported("OpenCV, by nerfstudio's documentation", views, points)


def _nerfstudio_projection(lens: dict[str, Any]) -> Projection:
    matrix = np.array([[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1]])
    fisheye, zero = lens["camera_model"] == "OPENCV_FISHEYE", np.zeros(3)
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
    distortion = np.array([float(lens.get(name, 0)) for name in names])

    def project(points: Array) -> Array:
        if fisheye:
            pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, matrix, distortion)
        else:
            pixels, _ = cv2.projectPoints(points, zero, zero, matrix, distortion)
        return np.asarray(pixels, dtype=np.float64).reshape(-1, 2)

    return project


def _tum(reconstruction: ReconstructedMap, path: Path) -> Exported:
    return _trajectory(reconstruction, tum_poses(read_trajectory(path)), path)


def _kitti(reconstruction: ReconstructedMap, path: Path) -> Exported:
    return _trajectory(reconstruction, read_kitti(path), path)


def _euroc(reconstruction: ReconstructedMap, path: Path) -> Exported:
    """https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets: position, then w x y z."""
    rows = read_euroc(path)
    return _trajectory(reconstruction, tum_poses(rows[:, [0, 1, 2, 3, 5, 6, 7, 4]]), path)


def _rosbag2(reconstruction: ReconstructedMap, folder: Path) -> Exported:
    """Poses and points by the definitions of geometry_msgs and sensor_msgs, and transforms that agree with the poses.

    Raises CheckError if they do not.
    """
    messages = read_rosbag2(folder)
    poses = [_row_of(one.header, one.pose.position, one.pose.orientation) for one in messages.get("/recon/pose", [])]
    moved = [one for message in messages.get("/tf", []) for one in message.transforms]
    turned = [_row_of(one.header, one.transform.translation, one.transform.rotation) for one in moved]
    if not poses or not np.array_equal(poses, turned):
        raise CheckError(f"The poses and the transforms in {folder} are not the same.")
    found = _trajectory(reconstruction, tum_poses(np.array(poses)), folder)
    clouds = [_ros_points(cloud) for cloud in messages.get("/recon/points", [])]
    return Exported(_program("rosbags"), found.views, clouds[0] if clouds else None)


def _row_of(header: Any, place: Any, turn: Any) -> list[float]:
    """Time, position and quaternion of a message, as in a TUM file."""
    time = header.stamp.sec + 1e-9 * header.stamp.nanosec
    return [time, place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w]


def _ros_points(cloud: Any) -> ExportedPoints:
    """sensor_msgs/PointCloud2 whose fields are floats; the bits of rgb are 0, red, green, blue."""
    rows = np.asarray(cloud.data).reshape(cloud.width * cloud.height, cloud.point_step)
    at = {field.name: rows[:, field.offset : field.offset + 4] for field in cloud.fields}
    positions = np.column_stack([np.ascontiguousarray(at[name]).view("<f4") for name in ("x", "y", "z")])
    return ExportedPoints(positions.astype(np.float64), at["rgb"][:, [2, 1, 0]].astype(np.float64))


def _trajectory(reconstruction: ReconstructedMap, world_from_cam: Array, path: Path) -> Exported:
    """Poses as NumPy reads them; row i belongs to the i-th frame with a pose."""
    posed, mapped = reconstruction.posed, {frame.index for frame in reconstruction.frames}
    if len(world_from_cam) != len(posed):
        raise CheckError(f"{path} has {len(world_from_cam)} poses, the map {len(posed)} frames with a pose.")
    rows = [row for row, frame in enumerate(posed) if frame.index in mapped]
    poses = [np.asarray(np.linalg.inv(world_from_cam[row]), dtype=np.float64) for row in rows]
    return Exported(_program("numpy"), _views_with_lenses(reconstruction, [posed[row] for row in rows], poses))


def _ply(_: ReconstructedMap, path: Path) -> Exported:
    read_cloud(path)  # complains about a truncated file
    return Exported(_program("open3d"), points=_open3d_points(path))


def _open3d_points(path: Path) -> ExportedPoints:
    import open3d  # noqa: PLC0415

    cloud = open3d.io.read_point_cloud(path)
    return ExportedPoints(np.asarray(cloud.points), np.asarray(cloud.colors) * 255)


def _mesh(_: ReconstructedMap, path: Path) -> Exported:
    mesh = read_mesh(path)
    positions, colours = np.asarray(mesh.vertices), np.asarray(mesh.vertex_colors)
    if path.suffix.lower() == ".glb":
        positions, colours = positions * OPENCV_AXES, _encoded(colours)
    return Exported(_program("open3d"), points=ExportedPoints(positions, colours * 255))


def _usd(reconstruction: ReconstructedMap, path: Path) -> Exported:
    """The camera's frusta and the points, both as usd-core places them on the stage. Where y is up, y and z of the map
    point the other way. USD has no distortion, so that of the lenses is the map's.
    """
    from pxr import Gf, Usd, UsdGeom  # noqa: PLC0415 - optional

    stage = read_usd(path)
    world = np.diag([*OPENCV_AXES, 1.0]) if UsdGeom.GetStageUpAxis(stage) == "Y" else np.eye(4)
    camera = UsdGeom.Camera(stage.GetPrimAtPath("/Map/Camera"))
    times = {str(camera.GetPrim().GetAttribute("recon:image").Get(time)): time for time in range(_last_time(stage) + 1)}
    views = []
    for frame in _require_all(reconstruction, times, path):
        seen = camera.GetCamera(Usd.TimeCode(times[frame.name])).frustum
        cam_from_stage = np.array(seen.ComputeViewMatrix()).T
        window = np.array([seen.window.min, seen.window.max]) / Gf.Frustum.GetReferencePlaneDepth()
        pose, project = OPENGL_FROM_OPENCV @ cam_from_stage @ world, _with_distortion(frame, _pinhole(window, frame))
        views.append(ExportedView(frame, reconstruction.images / frame.name, pose, project))
    cloud = UsdGeom.Points(stage.GetPrimAtPath("/Map/Cloud"))
    stage_from_map = np.array(UsdGeom.Xformable(cloud).ComputeLocalToWorldTransform(Usd.TimeCode.Default())).T
    points = np.array(cloud.GetPointsAttr().Get(), dtype=np.float64)
    positions = (np.column_stack([points, np.ones(len(points))]) @ (world.T @ stage_from_map).T)[:, :3]
    colours = 255 * _encoded(np.array(cloud.GetDisplayColorAttr().Get(), dtype=np.float64))
    return Exported(_program("usd-core"), tuple(views), ExportedPoints(positions, colours))


def _last_time(stage: Any) -> int:
    return round(float(stage.GetEndTimeCode()))


def _pinhole(window: Array, frame: PlacedFrame) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy [px] of a window (lower left, upper right) at distance 1, by an image of the frame's size."""
    (left, bottom), (right, top) = window
    fx, fy = frame.camera.width / (right - left), frame.camera.height / (top - bottom)
    return fx, fy, -left * fx, top * fy


def _with_distortion(frame: PlacedFrame, pinhole: tuple[float, float, float, float]) -> Projection:
    """The projection by a pinhole lens with the distortion of the map's."""
    lens = frame.camera
    own = lens.matrix()
    shown = colmap_projection(colmap_camera(lens))
    fx, fy, cx, cy = pinhole

    def project(points: Array) -> Array:
        plane = (shown(points) - own[:2, 2]) / own[[0, 1], [0, 1]]
        return np.asarray(plane * (fx, fy) + (cx, cy))

    return project


def _encoded(linear: Array) -> Array:
    """sRGB of linear colours, both in 0..1."""
    return np.where(linear > 0.0031308, 1.055 * np.power(linear, 1 / 2.4) - 0.055, 12.92 * linear)


def _las(reconstruction: ReconstructedMap, path: Path) -> Exported:
    from pyproj import Transformer  # noqa: PLC0415 - optional

    found = read_las(path)
    colours = np.column_stack([found.red, found.green, found.blue]) / 257.0
    positions, crs = np.asarray(found.xyz), found.header.parse_crs()
    if crs:
        geodetic = Transformer.from_crs(crs.to_3d(), GEODETIC).transform(*positions.T)
        positions = _local(reconstruction, np.column_stack(geodetic))
    return Exported(_program("laspy"), points=ExportedPoints(positions, colours))


def _geojson(reconstruction: ReconstructedMap, path: Path) -> Exported:
    """GeoJSON by RFC 7946: longitude, latitude, height."""
    line = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"]
    fixes = np.array(line, dtype=np.float64)[:, [1, 0, 2]]
    if len(fixes) != len(reconstruction.posed):
        raise CheckError(f"{path} has {len(fixes)} places, the map {len(reconstruction.posed)} frames with a pose.")
    return Exported(_program("pyproj"), path=_local(reconstruction, fixes))


def _local(reconstruction: ReconstructedMap, fixes: Array) -> Array:
    """Latitude, longitude and height (n, 3) in WGS 84 as places (n, 3) of the map's world, by PROJ.

    Raises CheckError for a map that does not lie in the world.
    """
    from pyproj import Transformer  # noqa: PLC0415 - optional

    if reconstruction.metric is None or reconstruction.metric.origin is None:
        raise CheckError(f"The export lies on the Earth, but nothing says where {reconstruction.folder} does.")
    latitude, longitude, height = reconstruction.metric.origin
    local = Transformer.from_pipeline(
        f"+proj=topocentric +ellps=WGS84 +lat_0={latitude!r} +lon_0={longitude!r} +h_0={height!r}"
    )
    earth = Transformer.from_crs(GEODETIC, EARTH_CENTRED).transform(*fixes.T)
    return np.column_stack(local.transform(*earth))


def _require_all(reconstruction: ReconstructedMap, exported: dict[str, Any], path: Path) -> tuple[PlacedFrame, ...]:
    """The frames of the map. Raises CheckError for an export that lacks one, or has another."""
    names = {frame.name for frame in reconstruction.frames}
    if different := names.symmetric_difference(exported):
        raise CheckError(f"{path} and the map do not have the same images, such as {min(different)}.")
    return reconstruction.frames


def _program(package: str) -> str:
    return f"{package} {version(package)}"


READERS: Registry[Callable[[ReconstructedMap, Path], Exported]] = Registry(
    "check of the format",
    {
        "tum": _tum,
        "colmap": _colmap,
        "ply": _ply,
        "las": _las,
        "mesh": _mesh,
        "usd": _usd,
        "kitti": _kitti,
        "euroc": _euroc,
        "rosbag2": _rosbag2,
        "nerfstudio": _nerfstudio,
        "geojson": _geojson,
    },
)
