"""3D Gaussians and their projection into a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from recon.core.similarity import Array

FIRST_OPACITY = 0.1
NEIGHBOURS = 3  # whose mean distance is the first size of a Gaussian
BLUR = 0.3  # px^2 added to the covariance in the image, so that none falls between two pixels
NEAR = 0.01  # least depth
AROUND = 1.3  # of the field of view: the projection is linearised at most so far off the axis
Parameters = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera and its picture. cam_from_world: (4, 4). lens: fx, fy, cx, cy, the image's corner is (0, 0).

    picture: (height, width, 3) in 0..1. seen: (height, width), the pixels that the photograph covers.
    """

    name: str
    cam_from_world: Tensor
    lens: tuple[float, float, float, float]
    picture: Tensor
    seen: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.picture.shape[1], self.picture.shape[0]


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians in an image, the nearest first. rows: (n,) of the Gaussians. centres: (n, 2) in pixels.

    precisions: (n, 3), xx, xy and yy of the inverse covariance. spread: (n, 2), the variance in x and y.
    opacities: (n,). colours: (n, 3).
    """

    rows: Tensor
    centres: Tensor
    precisions: Tensor
    spread: Tensor
    opacities: Tensor
    colours: Tensor


def first_gaussians(positions: Array, colours: NDArray[np.uint8]) -> Parameters:
    """Gaussians at points (n, 3) with RGB colours (n, 3): round, as large as the distance to the nearest ones."""
    distances = np.asarray(KDTree(positions).query(positions, NEIGHBOURS + 1)[0])
    sizes = np.maximum(distances[:, 1:].mean(axis=1), 1e-7)
    count = len(positions)
    return {
        "means": torch.tensor(positions, dtype=torch.float32),
        "sizes": torch.tensor(np.log(sizes), dtype=torch.float32)[:, None].repeat(1, 3),
        "turns": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "opacities": torch.full((count,), FIRST_OPACITY).logit(),
        "colours": torch.tensor(colours / 255, dtype=torch.float32).logit(eps=1e-2),
    }


def project(gaussians: Parameters, view: View) -> Splats:
    """The Gaussians in front of a camera, to first order around their centres (Zwicker et al., EWA splatting, 2001)."""
    rotation, translation = view.cam_from_world[:3, :3], view.cam_from_world[:3, 3]
    centres = gaussians["means"] @ rotation.T + translation
    with torch.no_grad():
        rows = torch.nonzero(centres[:, 2] > NEAR)[:, 0]
        rows = rows[torch.argsort(centres[rows, 2], stable=True)]
    x, y, z = centres[rows].unbind(1)
    fx, fy, cx, cy = view.lens
    spans = turned(gaussians["turns"][rows]) * gaussians["sizes"][rows].exp()[:, None, :]
    seen = _slopes(x, y, z, view) @ rotation @ spans
    xx, xy, yy = (seen[:, 0] ** 2).sum(1) + BLUR, (seen[:, 0] * seen[:, 1]).sum(1), (seen[:, 1] ** 2).sum(1) + BLUR
    determinant = xx * yy - xy**2
    return Splats(
        rows,
        torch.stack([fx * x / z + cx, fy * y / z + cy], dim=1),
        torch.stack([yy, -xy, xx], dim=1) / determinant[:, None],
        torch.stack([xx, yy], dim=1),
        gaussians["opacities"][rows].sigmoid(),
        gaussians["colours"][rows].sigmoid(),
    )


def _slopes(x: Tensor, y: Tensor, z: Tensor, view: View) -> Tensor:
    """How pixels move with points of the camera, (n, 2, 3)."""
    (fx, fy, cx, cy), (width, height) = view.lens, view.size
    right, down = (AROUND * max(c, side - c) / f for f, c, side in ((fx, cx, width), (fy, cy, height)))
    across, along = (x / z).clamp(-right, right), (y / z).clamp(-down, down)
    none = torch.zeros_like(z)
    rows = [torch.stack([fx / z, none, -fx * across / z], dim=1), torch.stack([none, fy / z, -fy * along / z], dim=1)]
    return torch.stack(rows, dim=1)


def turned(quaternions: Tensor) -> Tensor:
    """Rotation matrices (n, 3, 3) of quaternions (n, 4), w x y z, of any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
