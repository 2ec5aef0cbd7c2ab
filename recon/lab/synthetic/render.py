"""Ray casting of scenes: colour with supersampling, exact depth along z.

Internally vectors are stored component first, (batch, 3, views, rays), so that reductions over components are fast,
and rotated by sums of products, so that no reduced-precision matrix product can touch the geometry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.lab.synthetic.scenes import Scene, Shape
from recon.lab.synthetic.textures import SurfacePoints, albedo, mix

GAMMA = 2.2
LAMP_POWER = 1.1
NEAREST = 1e-3  # of a ray's direction vector: a closer intersection is with the surface on which the ray starts
NO_DIRECTION = 1e-12

Painter = Callable[[SurfacePoints], Tensor]  # sRGB (n, 3) in 0..1 of n surface points


@dataclass(frozen=True, eq=False)
class Rendering:
    """colour: (batch, views, height, width, 3) sRGB in 0..1. depth: (batch, views, height, width) along z, 0 = none.

    Depth is that of the ray through the pixel's centre, colour is the mean over the pixel.
    """

    colour: Tensor
    depth: Tensor


@dataclass(frozen=True, eq=False)
class _Rays:
    """origin: (batch, 3, views, 1 or rays). direction: (batch, 3, views, rays); a ray's length is in directions."""

    origin: Tensor
    direction: Tensor

    def at(self, length: Tensor) -> Tensor:
        return self.origin + length[:, None] * self.direction


@dataclass(frozen=True, eq=False)
class _Hits:
    """length: (batch, views, rays), infinite if nothing is hit. solid: the number of the solid, 0 if nothing is hit."""

    length: Tensor
    solid: Tensor


def render(
    scene: Scene,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    *,
    supersampling: int = 2,
    rays_per_block: int = 1 << 15,
) -> Rendering:
    """Render every view of every scene.

    cam_from_world: (batch, views, 4, 4), OpenCV axes. intrinsics: (3, 3), or one per view (batch, views, 3, 3); the
    centre of pixel (row v, column u) is (u + 0.5, v + 0.5). supersampling: rays per pixel along each axis. Rows are
    rendered in blocks of at most about rays_per_block rays, which bounds the memory.
    """
    colour = render_colour(
        scene, cam_from_world, intrinsics, height, width, supersampling=supersampling, rays_per_block=rays_per_block
    )
    depth = render_depth(scene, cam_from_world, intrinsics, height, width, rays_per_block=rays_per_block)
    return Rendering(colour, depth)


def render_single(
    scene: Scene,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    *,
    paint: Painter = albedo,
    shadows: bool = True,
    rays_per_block: int = 1 << 12,
) -> Rendering:
    """Like ``render`` with one ray per pixel for both colour and depth: the fastest, for training data."""
    rays_per_row = cam_from_world.shape[0] * cam_from_world.shape[1] * width
    pixel_size = (1 / intrinsics[..., 0, 0]).mean()
    groups, colours, depths = _groups(scene), [], []
    for rows in _row_blocks(height, rays_per_row, rays_per_block):
        rays = _camera_rays(cam_from_world, intrinsics, rows, width, 1)
        lamp = _lamp_points(scene, len(rows), width, 1)
        linear, length = _shade(scene, groups, rays, lamp, pixel_size, paint=paint, shadows=shadows)
        colours.append(linear.clamp(0, 1).pow(1 / GAMMA).reshape(*linear.shape[:3], len(rows), width))
        depths.append(torch.where(length.isfinite(), length, 0).reshape(*length.shape[:2], len(rows), width))
    return Rendering(torch.cat(colours, 3).permute(0, 2, 3, 4, 1), torch.cat(depths, 2))


def render_colour(
    scene: Scene,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    *,
    supersampling: int = 2,
    rays_per_block: int = 1 << 15,
) -> Tensor:
    """Only the colour (batch, views, height, width, 3) of ``render``."""
    views = cam_from_world.shape[0] * cam_from_world.shape[1]
    pixel_size = (1 / intrinsics[..., 0, 0]).mean() / supersampling
    groups, blocks = _groups(scene), []
    for rows in _row_blocks(height, views * width * supersampling**2, rays_per_block):
        rays = _camera_rays(cam_from_world, intrinsics, rows, width, supersampling)
        lamp = _lamp_points(scene, len(rows), width, supersampling)
        linear, _ = _shade(scene, groups, rays, lamp, pixel_size)
        linear = linear.reshape(*linear.shape[:3], len(rows), supersampling, width, supersampling).mean((4, 6))
        blocks.append(linear.clamp(0, 1).pow(1 / GAMMA))
    return torch.cat(blocks, 3).permute(0, 2, 3, 4, 1)


def render_depth(
    scene: Scene,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    *,
    rays_per_block: int = 1 << 15,
) -> Tensor:
    """Only the depth (batch, views, height, width) of ``render``."""
    views = cam_from_world.shape[0] * cam_from_world.shape[1]
    groups, blocks = _groups(scene), []
    for rows in _row_blocks(height, views * width, rays_per_block):
        # Directions have z = 1 in the camera, so a ray's length is the depth along z.
        length = _intersect(groups, _camera_rays(cam_from_world, intrinsics, rows, width, 1)).length
        blocks.append(torch.where(length.isfinite(), length, 0).reshape(*length.shape[:2], len(rows), width))
    return torch.cat(blocks, 2)


def _row_blocks(height: int, rays_per_row: int, rays_per_block: int) -> Iterator[range]:
    """The rows of every block."""
    count = max(1, rays_per_block // rays_per_row)
    for row in range(0, height, count):
        yield range(row, min(row + count, height))


def _camera_rays(cam_from_world: Tensor, intrinsics: Tensor, rows: range, width: int, samples: int) -> _Rays:
    """Rays of the pixel rows in order (row, sample row, column, sample column)."""
    batch, views = cam_from_world.shape[:2]
    matrices = intrinsics.to(cam_from_world).expand(batch, views, 3, 3)
    rows_v = rows.start + (torch.arange(len(rows) * samples).to(cam_from_world) + 0.5) / samples
    columns_u = (torch.arange(width * samples).to(cam_from_world) + 0.5) / samples
    v, u = (grid.flatten() for grid in torch.meshgrid(rows_v, columns_u, indexing="ij"))
    y = (v - matrices[..., 1, 2, None]) / matrices[..., 1, 1, None]
    x = (u - matrices[..., 0, 2, None] - matrices[..., 0, 1, None] * y) / matrices[..., 0, 0, None]
    world_from_cam = cam_from_world[..., :3, :3].mT
    axes = world_from_cam.permute(0, 2, 3, 1)  # batch, world axis, camera axis, view
    direction = axes[:, :, 0, :, None] * x[:, None] + axes[:, :, 1, :, None] * y[:, None] + axes[:, :, 2, :, None]
    centre = -(world_from_cam * cam_from_world[..., None, :3, 3]).sum(-1)
    return _Rays(centre.mT[..., None], direction)


@dataclass(frozen=True, eq=False)
class _Group:
    """Solids of one shape, and the transforms into their unit frames, where each fills -1..1.

    numbers: (solids,) in the scene. linear: (batch, 3, 3, solids, 1, 1), row then column.
    offset: (batch, 3, solids, 1, 1).
    """

    shape: Shape
    numbers: Tensor
    linear: Tensor
    offset: Tensor

    def lengths(self, rays: _Rays) -> Tensor:
        """Length of each ray to each solid from outside or inside (batch, solids, views, rays), infinite if missed."""
        origin = self._rotate_and_scale(rays.origin) + self.offset
        direction = self._rotate_and_scale(rays.direction)
        enter, leave = _INTERVALS[self.shape](origin, direction)
        length = torch.where(enter > NEAREST, enter, leave)
        return length.masked_fill_((enter > leave) | (length <= NEAREST), math.inf)

    def _rotate_and_scale(self, vectors: Tensor) -> Tensor:
        x, y, z = vectors[:, :, None].unbind(1)
        rotated = self.linear[:, :, 0] * x[:, None]
        rotated = torch.addcmul(rotated, self.linear[:, :, 1], y[:, None])
        return torch.addcmul(rotated, self.linear[:, :, 2], z[:, None])


def _groups(scene: Scene) -> list[_Group]:
    linear = (scene.world_from_solid / scene.half_size[:, :, None]).permute(0, 3, 2, 1)[..., None, None]
    offset = -(linear[..., 0, 0] * scene.centre.permute(0, 2, 1)[:, None]).sum(2)[..., None, None]
    groups = []
    for shape in dict.fromkeys(scene.shapes):
        numbers = [number for number, other in enumerate(scene.shapes) if other == shape]
        selected = torch.tensor(numbers, device=linear.device)
        groups.append(_Group(shape, selected, linear[:, :, :, selected], offset[:, :, selected]))
    return groups


def _intersect(groups: list[_Group], rays: _Rays) -> _Hits:
    """The nearest solid along every ray."""
    nearest = torch.full_like(rays.direction[:, 0], math.inf)
    solid = torch.zeros_like(nearest, dtype=torch.int64)
    for group in groups:
        length, index = group.lengths(rays).min(1)
        solid = torch.where(length < nearest, group.numbers[index], solid)
        nearest = torch.minimum(length, nearest)
    return _Hits(nearest, solid)


def _occluded(groups: list[_Group], rays: _Rays) -> Tensor:
    """Whether a solid lies between each ray's start and its end at length 1."""
    return torch.stack([group.lengths(rays).amin(1) < 1 for group in groups]).any(0)


def _slabs(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube -1..1 of any number of components (batch, components, ...)."""
    inverse = (direction + NO_DIRECTION).reciprocal_()  # the sum changes zeros only
    middle = -origin * inverse
    reach = inverse.abs_()
    return (middle - reach).amax(1), middle.add_(reach).amin(1)


def _ball(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the unit ball, or disc. Measured from the closest approach to avoid cancellation."""
    square = direction.square().sum(1).clamp(min=NO_DIRECTION)
    middle = -(origin * direction).sum(1) / square
    closest = origin + middle[:, None] * direction
    remaining = 1 - closest.square().sum(1)
    reach = (remaining.clamp(min=0) / square).sqrt()
    missed = remaining < 0
    return torch.where(missed, math.inf, middle - reach), torch.where(missed, -math.inf, middle + reach)


def _cylinder(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the unit cylinder along z."""
    side = _ball(origin[:, :2], direction[:, :2])
    caps = _slabs(origin[:, 2:], direction[:, 2:])
    return torch.maximum(side[0], caps[0]), torch.minimum(side[1], caps[1])


_INTERVALS = {Shape.BOX: _slabs, Shape.ELLIPSOID: _ball, Shape.CYLINDER: _cylinder}


def _shade(
    scene: Scene,
    groups: list[_Group],
    rays: _Rays,
    lamp: Tensor,
    pixel_size: Tensor,
    *,
    paint: Painter = albedo,
    shadows: bool = True,
) -> tuple[Tensor, Tensor]:
    """Linear colour (batch, 3, views, rays), ambient light plus Lambert's law, and the rays' length.

    lamp: a point of the lamp for every ray, (batch, 3, 1, rays). pixel_size: distance of samples at depth 1.
    """
    hits = _intersect(groups, rays)
    missed = hits.length.isinf()
    position = rays.at(hits.length.masked_fill(missed, 1.0))
    surface, normal = _surface(scene, hits, rays, position, pixel_size)
    colour = paint(surface).reshape(*hits.solid.shape, 3).permute(0, 3, 1, 2).pow(GAMMA)
    to_lamp = lamp - position
    cosine = ((to_lamp * normal).sum(1) / _length(to_lamp)).clamp(min=0)
    lit = cosine * ~_occluded(groups, _Rays(position, to_lamp)) if shadows else cosine
    ambient = scene.ambient[:, None, None]
    # Light from above is a little stronger than from below, which separates floors, walls and undersides.
    everywhere = ambient * (0.92 + 0.08 * normal[:, 2])
    colour = colour * (everywhere + LAMP_POWER * (1 - ambient) * lit)[:, None]
    return torch.where(missed[:, None], scene.background.pow(GAMMA)[:, :, None, None], colour), hits.length


def _lamp_points(scene: Scene, rows: int, width: int, samples: int) -> Tensor:
    """A point of the lamp for every ray (batch, 3, 1, rays), different for the rays of one pixel: soft shadows."""
    number = torch.arange(samples**2, device=scene.light.device).reshape(1, samples, 1, samples)
    number = number.expand(rows, samples, width, samples).flatten()
    angle = 2 * math.pi * (number + 0.5) / samples**2
    spread = 0.0 if samples == 1 else 1.0
    offset = torch.stack([angle.cos(), angle.sin(), 0 * angle]) * spread
    return (scene.light[:, :, None] + scene.light_radius[:, None, None] * offset)[:, :, None]


def _surface(
    scene: Scene, hits: _Hits, rays: _Rays, position: Tensor, pixel_size: Tensor
) -> tuple[SurfacePoints, Tensor]:
    """What was hit, one row per ray, and the normals (batch, 3, views, rays) towards the ray's origin."""
    batch = torch.arange(len(scene), device=position.device)[:, None, None].expand_as(hits.solid).flatten()
    solid = hits.solid.flatten()
    axes = scene.world_from_solid[batch, solid]
    half_size = scene.half_size[batch, solid]
    offset = position.permute(0, 2, 3, 1).flatten(0, 2) - scene.centre[batch, solid]
    local = (axes * offset[:, :, None]).sum(1)
    kind = torch.tensor([list(Shape).index(shape) for shape in scene.shapes], device=solid.device)[solid]
    local_normal = _normals(kind, local / half_size, half_size)
    normal = (axes * local_normal[:, None]).sum(2).reshape(*hits.solid.shape, 3).permute(0, 3, 1, 2)
    facing = (normal * rays.direction).sum(1)
    slant = (facing.abs() / _length(rays.direction)).clamp(min=0.1)
    uv, extent, face = _face(kind, local, local_normal, half_size)
    surface = SurfacePoints(
        position=local,
        uv=uv,
        extent=extent,
        seed=mix(scene.seed[batch, solid], face),
        pattern=scene.pattern[batch, solid],
        cell=scene.cell[batch, solid],
        palette=scene.palette[batch, solid],
        footprint=(hits.length.masked_fill(hits.length.isinf(), 1.0) * pixel_size / slant.sqrt()).flatten(),
    )
    return surface, torch.where(facing[:, None] > 0, -normal, normal)


def _length(vectors: Tensor) -> Tensor:
    """Lengths (batch, views, rays) of vectors (batch, 3, views, rays); several times faster than ``norm``."""
    return vectors.square().sum(1).sqrt()


def _normals(kind: Tensor, unit: Tensor, half_size: Tensor) -> Tensor:
    """Outward unit normals (n, 3) in the solid's frame at points scaled to -1..1."""
    axis = unit.abs().argmax(1)
    box = torch.zeros_like(unit).scatter(1, axis[:, None], 1.0) * unit.sign()
    ball = unit / half_size
    side = ball * torch.tensor([1.0, 1.0, 0.0], device=unit.device)
    on_cap = unit[:, 2].abs() > unit[:, :2].norm(dim=1)
    cap = torch.tensor([0.0, 0.0, 1.0], device=unit.device) * unit.sign()
    cylinder = torch.where(on_cap[:, None], cap, side)
    shapes = list(Shape)
    normal = torch.where((kind == shapes.index(Shape.ELLIPSOID))[:, None], ball, box)
    normal = torch.where((kind == shapes.index(Shape.CYLINDER))[:, None], cylinder, normal)
    return torch.nn.functional.normalize(normal, dim=1)


def _face(kind: Tensor, local: Tensor, normal: Tensor, half_size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates on the face (n, 2), its half size (n, 2), and its number (n,) int32, which is 6 on round sides."""
    axis = normal.abs().argmax(1)
    flat = normal.abs().amax(1) > 1 - 1e-6
    flat &= (kind != list(Shape).index(Shape.ELLIPSOID)) & ((axis == 2) | (kind == list(Shape).index(Shape.BOX)))
    columns = torch.tensor([[1, 2], [0, 2], [0, 1]], device=axis.device)[axis]
    radius = half_size[:, 0]
    wrapped = torch.stack([torch.atan2(local[:, 1], local[:, 0]) * radius, local[:, 2]], 1)
    around = torch.stack([math.pi * radius, half_size[:, 2]], 1)
    uv = torch.where(flat[:, None], local.gather(1, columns), wrapped)
    extent = torch.where(flat[:, None], half_size.gather(1, columns), around)
    side = normal.gather(1, axis[:, None])[:, 0] > 0
    return uv, extent, torch.where(flat, 2 * axis + side, 6).to(torch.int32)
