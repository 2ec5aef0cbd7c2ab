"""Cameras as pycolmap's objects, for its projections and model files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pycolmap

from recon.core.similarity import Array
from recon.core.types import Camera, Mount


def colmap_camera(camera: Camera, camera_id: int = 1) -> pycolmap.Camera:
    """The camera for pycolmap's projection functions and model files."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params), camera_id=camera_id
    )


def colmap_rigs(mounts: Mapping[int, Mount | None], unit: float = 1.0) -> dict[int, pycolmap.Rig]:
    """COLMAP's rig of every camera, by the camera's id; that of one without a mount has only this camera.

    A rig has the id of its first camera, the reference. unit: length of the rig file over the same one in the model.
    """
    rigs: dict[str | int, pycolmap.Rig] = {}
    references: dict[str, Mount] = {}
    found = {}
    for camera_id, mount in sorted(mounts.items()):
        name = mount.rig if mount else camera_id
        sensor = pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera_id)
        if mount and name in rigs:
            pose = mount.cam_from(references[mount.rig])
            pose[:3, 3] /= unit
            rigs[name].add_sensor(sensor, pycolmap.Rigid3d(pose[:3]))
        else:
            rigs[name] = pycolmap.Rig(rig_id=camera_id)
            rigs[name].add_ref_sensor(sensor)
            if mount:
                references[mount.rig] = mount
        found[camera_id] = rigs[name]
    return found


def rigid_matrix(pose: pycolmap.Rigid3d) -> Array:
    """The (4, 4) matrix of a rigid pose."""
    return np.vstack([pose.matrix(), [0, 0, 0, 1]])


def points_at_depth_one(camera: pycolmap.Camera, pixels: Array) -> Array:
    """The points (n, 2) of the plane z = 1 that the camera sees at pixels (n, 2)."""
    return np.asarray(camera.cam_from_img(np.asarray(pixels, dtype=np.float64)), dtype=np.float64)


def reprojection_errors(model: pycolmap.Reconstruction) -> Array:
    """Distance in pixels of every observation (n,) from the projection of its point."""
    places = {number: point.xyz for number, point in model.points3D.items()}
    errors = [_errors_in(model, image, places) for image in model.images.values() if image.num_points3D]
    return np.concatenate(errors) if errors else np.zeros(0)


def _errors_in(model: pycolmap.Reconstruction, image: pycolmap.Image, places: Mapping[int, Array]) -> Array:
    """places: position (3,) of each point by its id."""
    observed = image.get_observation_points2D()
    points_cam = image.cam_from_world() * np.array([places[point.point3D_id] for point in observed])
    pixels = np.asarray(model.cameras[image.camera_id].img_from_cam(points_cam), dtype=np.float64)
    errors: Array = np.linalg.norm(pixels - np.array([point.xy for point in observed]), axis=1)
    return errors
