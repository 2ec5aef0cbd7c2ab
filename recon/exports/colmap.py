"""The map as a COLMAP model, with the calibrated distortion or with undistorted images."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera, colmap_rigs
from recon.core.errors import OutputError
from recon.core.rigs import rig_scale
from recon.core.similarity import Array
from recon.core.types import Camera, Mount, PlacedFrame
from recon.exports.folders import new_folder, require_images, share_images
from recon.store.journal import read_journal
from recon.store.ledger import Ledger
from recon.store.map import ReconstructedMap

RIGID = 1e-6  # how far frames of a shot may be from where the rig has them, in its unit and as rotations


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
    """The map as a Reconstruction: rigid poses, and sparse points with tracks, colours and errors in pixels.

    Frames that were taken together, and lie as their rig says, are one frame of COLMAP's rig.
    """
    model = pycolmap.Reconstruction()
    mounts = _mounts(reconstruction)
    sensors = {frame.index: _sensor(frame, mounts) for frame in reconstruction.frames}
    camera_ids = {sensor: number for number, sensor in enumerate(dict.fromkeys(sensors.values()), start=1)}
    for (camera, _), camera_id in camera_ids.items():
        model.add_camera(colmap_camera(camera, camera_id))
    unit = rig_scale(_centres(reconstruction), mounts) or 1.0
    rigs = colmap_rigs({camera_ids[sensor]: mounts.get(index) for index, sensor in sensors.items()}, unit)
    for rig in {rig.rig_id: rig for rig in rigs.values()}.values():
        model.add_rig(rig)
    rows, none = reconstruction.points.rows_by_frame(), np.zeros(0, dtype=np.int64)
    # A row's position among its frame's rows is the index of its 2D point in the COLMAP image.
    observations = {frame.index: rows.get(frame.index, none) for frame in reconstruction.frames}
    shots: dict[int, list[PlacedFrame]] = {}
    for frame in reconstruction.frames:
        mount = mounts.get(frame.index)
        shots.setdefault(mount.shot_of(frame.index) if mount else frame.index, []).append(frame)
    for shot in shots.values():
        images = [
            pycolmap.Image(
                name=frame.name,
                keypoints=reconstruction.points.pixels[observations[frame.index]],
                camera_id=camera_ids[sensors[frame.index]],
                image_id=frame.index + 1,
            )
            for frame in shot
        ]
        _add_shot(model, rigs[images[0].camera_id], images, shot[0])
    _add_points(model, reconstruction, observations)
    model.update_point_3d_errors()
    return model


def _mounts(reconstruction: ReconstructedMap) -> dict[int, Mount]:
    """The cameras of rigs by frame, without the shots that do not lie as their rig says, such as after a loop that no
    joint adjustment has closed.
    """
    if not Ledger(reconstruction.folder).has("chunks"):
        return {}
    mounts = {index: frame.mount for index, frame in read_journal(reconstruction.folder).frames.items() if frame.mount}
    placed = {frame.index: frame for frame in reconstruction.frames if frame.index in mounts}
    unit = rig_scale(_centres(reconstruction), mounts) or 1.0
    first: dict[int, int] = {}
    for index in sorted(placed):
        first.setdefault(mounts[index].shot_of(index), index)
    wrong = set()
    for index, frame in placed.items():
        shot = mounts[index].shot_of(index)
        reference = first[shot]
        expected = mounts[index].cam_from(mounts[reference])
        found = frame.cam_from_world @ np.linalg.inv(placed[reference].cam_from_world)
        found[:3, 3] *= unit
        if not np.allclose(found, expected, atol=RIGID):
            wrong.add(shot)
    return {index: mounts[index] for index in placed if mounts[index].shot_of(index) not in wrong}


def _centres(reconstruction: ReconstructedMap) -> dict[int, Array]:
    return {frame.index: frame.world_from_cam.translation for frame in reconstruction.frames}


def _sensor(frame: PlacedFrame, mounts: Mapping[int, Mount]) -> tuple[Camera, tuple[str, int] | None]:
    """What tells cameras apart: equal lenses are one, but for those of a rig."""
    mount = mounts.get(frame.index)
    return frame.camera, (mount.rig, mount.number) if mount else None


def _add_shot(
    model: pycolmap.Reconstruction, rig: pycolmap.Rig, images: Sequence[pycolmap.Image], first: PlacedFrame
) -> None:
    """Add the images of a shot, of which ``first`` is the first."""
    shot = pycolmap.Frame(frame_id=images[0].image_id, rig_id=rig.rig_id)
    for image in images:
        shot.add_data_id(image.data_id)
    model.add_frame(shot)
    for image in images:
        image.frame_id = shot.frame_id
        model.add_image(image)
    model.frame(shot.frame_id).set_cam_from_world(images[0].camera_id, pycolmap.Rigid3d(first.cam_from_world[:3]))
    model.register_frame(shot.frame_id)


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
