"""The suite ``geometry``: pose encodings, matrices, quaternions and unprojection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from recon.lab.reference.comparison import Comparison, compare, read_json, read_tensors
from recon.network.pose_encoding import (
    encoding_from_matrices,
    matrices_from_encoding,
    quaternion_from_rotation,
    unproject,
    world_from_cam,
)

RELATIVE = 1e-6  # the public code rounds some of these to float32
RELATIVE_POINTS = 1e-5  # of the scene's size


def compare_geometry(folder: Path) -> Iterator[Comparison]:
    """All conversions in float64, from the stored encodings and depth."""
    stored = read_tensors(folder / "cases.safetensors")
    height, width = read_json(folder / "config.json")["image_size_hw"]
    for output, ours in _compute(stored, (height, width)).items():
        expected = stored[output].double()
        share = RELATIVE_POINTS if output.endswith("points") else RELATIVE
        yield compare("geometry", output, ours, expected, share * float(expected.abs().max()))


def _compute(stored: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    cam_from_world, intrinsics = matrices_from_encoding(stored["pose_enc"], size)
    first, first_intrinsics = cam_from_world[0], intrinsics[0]
    depth = stored["depth"].squeeze(-1)
    points = unproject(depth, first, first_intrinsics)
    return {
        "extrinsics": cam_from_world,
        "intrinsics": intrinsics,
        "pose_enc_back": encoding_from_matrices(cam_from_world, intrinsics, size),
        "quat_xyzw_of_rotation": quaternion_from_rotation(cam_from_world[..., :3]),
        "extrinsics_inverse": world_from_cam(first),
        "cam_points": points.points_cam,
        "world_points": points.points_world,
        "valid": points.valid,
    }
