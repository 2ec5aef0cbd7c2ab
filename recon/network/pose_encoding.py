"""The nine numbers of a pose, the matrices that they encode, and points from depth (VGGT, section 3.3).

An encoding is: translation of cam_from_world (3), its rotation as a quaternion x y z w that need not have length 1 (4),
vertical and horizontal field of view [rad] (2). In this package a pixel (u, v) is its integer index and the principal
point is (width / 2, height / 2) in these coordinates, as in the network's training; ``frontend`` converts them to ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MIN_FIELD_OF_VIEW = 1e-3
MIN_DEPTH = 1e-8


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotations (..., 3, 3) from quaternions x y z w (..., 4) of any length but zero."""
    x, y, z, w = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(dim=-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternions x y z w (..., 4), w >= 0, from rotations (..., 3, 3).

    Any of the four components can be computed first and the others divided by it; starting with the largest makes the
    division safe (Shepperd 1978).
    """
    m = rotation.flatten(-2).unbind(-1)
    xx, yy, zz = m[0], m[4], m[8]
    # Four times the component squared, for w, x, y, z.
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], dim=-1)
    doubled = squares.clamp(min=0).sqrt()
    candidates = torch.stack(
        [
            torch.stack([doubled[..., 0] ** 2, m[7] - m[5], m[2] - m[6], m[3] - m[1]], dim=-1),
            torch.stack([m[7] - m[5], doubled[..., 1] ** 2, m[3] + m[1], m[2] + m[6]], dim=-1),
            torch.stack([m[2] - m[6], m[3] + m[1], doubled[..., 2] ** 2, m[5] + m[7]], dim=-1),
            torch.stack([m[3] - m[1], m[6] + m[2], m[7] + m[5], doubled[..., 3] ** 2], dim=-1),
        ],
        dim=-2,
    ) / (2 * doubled[..., None].clamp(min=0.1))
    best = squares.argmax(dim=-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    w_first = candidates.gather(-2, best).squeeze(-2)
    quaternion = w_first.roll(-1, dims=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def matrices_from_encoding(encoding: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """cam_from_world (..., 3, 4) and intrinsics (..., 3, 3) in pixels of an image of ``image_size`` (height, width).

    The head can return a field of view of 0; it is replaced by a very small one, so that the focal length is finite.
    """
    rotation = rotation_from_quaternion(encoding[..., 3:7])
    cam_from_world = torch.cat([rotation, encoding[..., :3, None]], dim=-1)
    sides = encoding.new_tensor(image_size)
    focal = sides / 2 / (encoding[..., 7:].clamp(min=MIN_FIELD_OF_VIEW) / 2).tan()
    intrinsics = encoding.new_zeros(*encoding.shape[:-1], 3, 3)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = focal[..., 1], focal[..., 0]
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = sides[1] / 2, sides[0] / 2
    intrinsics[..., 2, 2] = 1
    return cam_from_world, intrinsics


def encoding_from_matrices(cam_from_world: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Encodings (..., 9) of ``matrices_from_encoding``'s results."""
    focal = torch.stack([intrinsics[..., 1, 1], intrinsics[..., 0, 0]], dim=-1)
    fields = 2 * (intrinsics.new_tensor(image_size) / 2 / focal).atan()
    quaternion = quaternion_from_rotation(cam_from_world[..., :3])
    return torch.cat([cam_from_world[..., 3], quaternion, fields.to(quaternion.dtype)], dim=-1)


def world_from_cam(cam_from_world: Tensor) -> Tensor:
    """The inverse (..., 4, 4) of rigid poses (..., 3, 4)."""
    rotation = cam_from_world[..., :3].transpose(-2, -1)
    inverse = torch.cat([rotation, -rotation @ cam_from_world[..., 3:]], dim=-1)
    last_row = functional.pad(inverse.new_ones(*inverse.shape[:-2], 1, 1), (3, 0))
    return torch.cat([inverse, last_row], dim=-2)


@dataclass(frozen=True, eq=False)
class Unprojected:
    """Points (..., height, width, 3) in the cameras and in the world. valid: (..., height, width), where depth is."""

    points_cam: Tensor
    points_world: Tensor
    valid: Tensor


def unproject(depth: Tensor, cam_from_world: Tensor, intrinsics: Tensor) -> Unprojected:
    """Points of depth maps (..., height, width), which are along z, under poses (..., 3, 4)."""
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype, device=depth.device),
        torch.arange(width, dtype=depth.dtype, device=depth.device),
        indexing="ij",
    )

    def per_frame(entry: Tensor) -> Tensor:
        return entry[..., None, None]

    x = (u - per_frame(intrinsics[..., 0, 2])) / per_frame(intrinsics[..., 0, 0]) * depth
    y = (v - per_frame(intrinsics[..., 1, 2])) / per_frame(intrinsics[..., 1, 1]) * depth
    points_cam = torch.stack([x, y, depth.expand_as(x)], dim=-1)
    pose = world_from_cam(cam_from_world).to(depth.dtype)[..., None, :3, :]
    points_world = points_cam @ pose[..., :3].transpose(-2, -1) + pose[..., 3][..., None, :]
    return Unprojected(points_cam, points_world, depth > MIN_DEPTH)
