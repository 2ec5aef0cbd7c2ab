"""Frames of the sample's room with exact depth, in a chunk's own frame and unit."""

from __future__ import annotations

import numpy as np
import torch

from recon.core.similarity import Sim3
from recon.core.types import Camera, FrameGeometry, Image
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render
from recon.lab.synthetic.sample import furnished_room, sample_intrinsics, walk
from recon.lab.synthetic.scenes import Scene

WIDTH, HEIGHT = 320, 240


def intrinsics() -> np.ndarray:
    """Of the rendered frames, with the sample's field of view."""
    stored = sample_intrinsics().double().numpy()
    factors = np.array([[WIDTH / (2 * stored[0, 2])], [HEIGHT / (2 * stored[1, 2])], [1.0]])
    return stored * factors


def photograph(
    indices: list[int], chunk_from_world: Sim3, scene: Scene | None = None, first_index: int = 0
) -> list[FrameGeometry]:
    """Frames of the sample's walk (60 positions) rendered with depth in the unit of the chunk."""
    poses = walk()[indices]
    matrix = torch.as_tensor(intrinsics(), dtype=torch.float32)
    rendering = render(
        scene or furnished_room(), inverse_rigid(poses).float()[None], matrix, HEIGHT, WIDTH, supersampling=1
    )
    images = (255 * rendering.colour[0]).round().to(torch.uint8).numpy()
    depths = rendering.depth[0].numpy() * np.float32(chunk_from_world.scale)
    return [
        as_geometry(first_index + index, pose, image, depth, chunk_from_world)
        for index, pose, image, depth in zip(indices, poses.numpy(), images, depths, strict=True)
    ]


def as_geometry(
    index: int, world_from_cam: np.ndarray, image: Image, depth: np.ndarray, chunk_from_world: Sim3
) -> FrameGeometry:
    """A frame in a chunk whose unit is ``chunk_from_world.scale`` world units."""
    rotation = chunk_from_world.rotation @ world_from_cam[:3, :3]
    chunk_from_cam = Sim3(1.0, rotation, chunk_from_world.apply(world_from_cam[:3, 3]))
    matrix = intrinsics()
    camera = Camera("PINHOLE", WIDTH, HEIGHT, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    confidence = (depth > 0).astype(np.float32)
    return FrameGeometry(index, chunk_from_cam.inverse().matrix(), camera, matrix, depth, confidence, image)
