"""Images by two cameras fixed to each other, in the room of ``tests.panoramas``, and the file that describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.core.types import Image
from tests.panoramas import Pose, room_walls, seen

SIZE = 480, 360
LENSES = (300.0, 300.0, 240.0, 180.0), (320.0, 310.0, 236.0, 183.0)  # fx, fy, cx, cy; a pixel's centre is at .5
CAMERAS = "left", "right"


def cam_from_rig() -> tuple[Array, Array]:
    """The poses (4, 4) of the cameras: the second is 0.25 m to the right and turned by 12 degrees."""
    second = np.eye(4)
    second[:3, :3] = Rotation.from_euler("y", 12, degrees=True).as_matrix()
    second[:3, 3] = -0.25, 0.01, 0.02
    return np.eye(4), second


def rig_image(pose: Pose, number: int) -> Image:
    """What a camera of the rig sees; pose: of the rig in the room."""
    fx, fy, cx, cy = LENSES[number]
    x, y = np.meshgrid((np.arange(SIZE[0]) + 0.5 - cx) / fx, (np.arange(SIZE[1]) + 0.5 - cy) / fy)
    rig_from_cam = np.linalg.inv(cam_from_rig()[number])
    rotation, centre = pose[0] @ rig_from_cam[:3, :3], pose[1] + pose[0] @ rig_from_cam[:3, 3]
    return seen(room_walls(), centre, np.stack([x, y, np.ones_like(x)], axis=-1) @ rotation.T)


def write_rig(folder: Path, poses: Iterable[Pose]) -> Path:
    """Write ``left/0.png``, ``right/0.png`` and so on; returns the folder."""
    for number, name in enumerate(CAMERAS):
        (folder / name).mkdir(parents=True)
        for shot, pose in enumerate(poses):
            PillowImage.fromarray(rig_image(pose, number)).save(folder / name / f"{shot}.png")
    return folder


def colmap_config() -> list[dict[str, object]]:
    """The content of COLMAP's rig_config.json."""
    second = cam_from_rig()[1]
    x, y, z, w = Rotation.from_matrix(second[:3, :3]).as_quat().tolist()
    cameras = [
        {"image_prefix": f"{name}/", "camera_model_name": "PINHOLE", "camera_params": list(lens)}
        for name, lens in zip(CAMERAS, LENSES, strict=True)
    ]
    pose = {"cam_from_rig_rotation": [w, x, y, z], "cam_from_rig_translation": second[:3, 3].tolist()}
    return [{"cameras": [cameras[0] | {"ref_sensor": True}, cameras[1] | pose]}]


def write_colmap_config(path: Path) -> Path:
    """Write the rig as COLMAP does."""
    path.write_text(json.dumps(colmap_config()))
    return path


def write_kalibr(path: Path) -> Path:
    """Write the rig as Kalibr does, with cameras cam0 and cam1 and pixels whose first centre is (0, 0)."""
    cameras = {
        f"cam{number}": {
            "camera_model": "pinhole",
            "intrinsics": [fx, fy, cx - 0.5, cy - 0.5],
            "distortion_model": "none",
            "distortion_coeffs": [],
            "resolution": list(SIZE),
        }
        for number, (fx, fy, cx, cy) in enumerate(LENSES)
    }
    cameras["cam1"]["T_cn_cnm1"] = cam_from_rig()[1].tolist()
    path.write_text(yaml.safe_dump(cameras))
    return path
