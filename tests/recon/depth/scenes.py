"""A small rendered scene with exact depth, for tests of the sweep and of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.depth.sweep import Geometry
from recon.lab.synthetic.paths import inverse_rigid, look_at
from recon.lab.synthetic.render import render_depth, render_single
from recon.lab.synthetic.scenes import random_room

HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True, eq=False)
class Views:
    """colour: (views, h, w, 3) in 0..1. depth: (views, h, w). cam_from_world: (views, 4, 4). intrinsics: (3, 3)."""

    colour: Tensor
    depth: Tensor
    cam_from_world: Tensor
    intrinsics: Tensor

    def geometry(self, reference: int = 0, scale: float = 1.0) -> Geometry:
        """From one view to all others, in a world enlarged by ``scale``."""
        others = [view for view in range(len(self.depth)) if view != reference]
        source_from_reference = self.cam_from_world[others] @ torch.linalg.inv(self.cam_from_world[reference])
        source_from_reference[:, :3, 3] *= scale
        extent = torch.tensor([[[WIDTH, HEIGHT]] * len(others)])
        matrices = self.intrinsics[None]
        return Geometry.between(matrices, matrices.expand(1, len(others), 3, 3), source_from_reference[None], extent)


def room_views(count: int = 3, zoom: int = 1, *, coloured: bool = True) -> Views:
    """Views of a furnished room, 12 cm apart, ``zoom`` times as large as HEIGHT and WIDTH; else without colour."""
    scene = random_room(torch.Generator().manual_seed(3), 1)
    sideways = torch.arange(count)[:, None] * torch.tensor([0.12, 0.03, 0.02])
    eyes = torch.tensor([-1.0, -0.5, 1.4]) + sideways
    targets = torch.tensor([2.5, 1.5, 0.8]) + 0.8 * sideways
    cam_from_world = inverse_rigid(look_at(eyes, targets))
    intrinsics = torch.diag(torch.tensor([zoom, zoom, 1.0])) @ torch.tensor(
        [[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]]
    )
    camera = (cam_from_world[None], intrinsics, zoom * HEIGHT, zoom * WIDTH)
    if not coloured:
        depth = render_depth(scene, *camera)[0]
        return Views(torch.zeros(*depth.shape, 3), depth, cam_from_world, intrinsics)
    rendering = render_single(scene, *camera)
    return Views(rendering.colour[0], rendering.depth[0], cam_from_world, intrinsics)
