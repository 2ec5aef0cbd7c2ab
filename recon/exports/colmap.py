"""The map as a COLMAP model, with the calibrated distortion or with undistorted images."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera
from recon.core.errors import OutputError
from recon.core.types import Camera
from recon.exports.folders import new_folder, require_images, share_images
from recon.store.map import ReconstructedMap


def write_colmap(reconstruction: ReconstructedMap, folder: Path) -> None:
    """Write ``folder/images`` and the model ``folder/sparse/0`` in COLMAP's binary format.

    Every placed frame is an image with id ``index + 1`` at its original resolution; equal cameras are one camera.
    In the run's own folder, the images stay and the model is replaced; any other folder must be new or empty and gets
    hard links or copies.
    Raises MapError if an original is missing and OutputError if ``folder`` is in use or cannot be written.
    """
    if folder.resolve() == reconstruction.images.parent.resolve():
        require_images(reconstruction)
        with new_folder(folder / "sparse", replace=True) as sparse:
            _write_model(reconstruction, sparse / "0")
    else:
        with new_folder(folder) as output:
            share_images(reconstruction, output / "images")
            _write_model(reconstruction, output / "sparse" / "0")


def write_undistorted(reconstruction: ReconstructedMap, folder: Path) -> None:
    """Like ``write_colmap`` to a new ``folder``, with undistorted images and PINHOLE cameras for splatting trainers.

    Raises MapError if an original is missing and OutputError if ``folder`` is in use or cannot be written, or an image
    has a format that COLMAP does not read.
    """
    require_images(reconstruction)
    with new_folder(folder) as output:
        _write_model(reconstruction, output / "distorted")
        pycolmap.undistort_images(output, output / "distorted", reconstruction.images)
        unread = [frame.name for frame in reconstruction.frames if not (output / "images" / frame.name).is_file()]
        if unread:
            raise OutputError(
                f"COLMAP could not undistort {len(unread)} of {len(reconstruction.frames)} images, first {unread[0]}. "
                "Export without --undistort, or convert the images to JPEG or PNG and run again."
            )
        _keep_model_and_images(output)


def colmap_model(reconstruction: ReconstructedMap) -> pycolmap.Reconstruction:
    """The map as a Reconstruction: rigid poses, and sparse points with tracks, colours and errors in pixels."""
    model = pycolmap.Reconstruction()
    camera_ids = {camera: number for number, camera in enumerate(_cameras(reconstruction), start=1)}
    for camera, camera_id in camera_ids.items():
        model.add_camera_with_trivial_rig(colmap_camera(camera, camera_id))
    rows, none = reconstruction.points.rows_by_frame(), np.zeros(0, dtype=np.int64)
    # A row's position among its frame's rows is the index of its 2D point in the COLMAP image.
    observations = {frame.index: rows.get(frame.index, none) for frame in reconstruction.frames}
    for frame in reconstruction.frames:
        image = pycolmap.Image(
            name=frame.name,
            keypoints=reconstruction.points.pixels[observations[frame.index]],
            camera_id=camera_ids[frame.camera],
            image_id=frame.index + 1,
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(frame.cam_from_world[:3]))
    _add_points(model, reconstruction, observations)
    model.update_point_3d_errors()
    return model


def model_is_whole(folder: Path) -> bool:
    """Whether ``images.bin`` and ``points3D.bin`` have the length their counts imply; COLMAP may hang on short ones."""
    try:
        images, points = (folder / "images.bin").read_bytes(), (folder / "points3D.bin").read_bytes()
        return _images_end(images) == len(images) and _points_end(points) == len(points)
    except (OSError, struct.error, ValueError):
        return False


def _images_end(content: bytes) -> int:
    (count,), offset = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        offset = content.index(b"\0", offset + 64) + 1  # id, pose and camera id, then the name
        (keypoints,) = struct.unpack_from("<Q", content, offset)
        offset += 8 + 24 * keypoints
    return offset


def _points_end(content: bytes) -> int:
    (count,), offset = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        (track_length,) = struct.unpack_from("<Q", content, offset + 43)  # after id, position, colour and error
        offset += 51 + 8 * track_length
    return offset


def _cameras(reconstruction: ReconstructedMap) -> list[Camera]:
    return list(dict.fromkeys(frame.camera for frame in reconstruction.frames))


def _add_points(
    model: pycolmap.Reconstruction, reconstruction: ReconstructedMap, observations: dict[int, NDArray[np.int64]]
) -> None:
    points = reconstruction.points
    tracks = [pycolmap.Track() for _ in points.positions]
    for index, rows in observations.items():
        for keypoint, point_id in enumerate(points.point_ids[rows].tolist()):
            tracks[point_id].add_element(index + 1, keypoint)
    for position, track, colour in zip(points.positions, tracks, points.colours, strict=True):
        model.add_point3D(position, track, colour)


def _write_model(reconstruction: ReconstructedMap, folder: Path) -> None:
    folder.mkdir(parents=True)
    colmap_model(reconstruction).write(folder)
    if not model_is_whole(folder):  # COLMAP reports no error when the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _keep_model_and_images(output: Path) -> None:
    """Rearrange COLMAP's output as ``images`` and ``sparse/0``, and drop the folders and scripts for its own stereo."""
    (output / "sparse").rename(output / "model")
    (output / "sparse").mkdir()
    (output / "model").rename(output / "sparse" / "0")
    for path in output.iterdir():
        if path.is_dir() and path.name not in ("images", "sparse"):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
