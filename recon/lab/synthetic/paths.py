"""Smooth camera paths. Poses are (..., count, 4, 4); the world's z axis points up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAMPLES_PER_SEGMENT = 64


def look_at(eyes: Tensor, targets: Tensor) -> Tensor:
    """world_from_cam (..., 4, 4) of upright cameras at eyes (..., 3) that look at targets (..., 3), OpenCV axes.

    No target may lie exactly above or below its eye.
    """
    up = eyes.new_tensor([0.0, 0.0, 1.0])
    forward = torch.nn.functional.normalize(targets - eyes, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    world_from_cam = torch.eye(4, dtype=eyes.dtype, device=eyes.device).repeat(*eyes.shape[:-1], 1, 1)
    world_from_cam[..., :3, :] = torch.stack([right, down, forward, eyes], -1)
    return world_from_cam


def inverse_rigid(b_from_a: Tensor) -> Tensor:
    """a_from_b (..., 4, 4) of rigid transforms b_from_a."""
    rotation = b_from_a[..., :3, :3].mT
    a_from_b = b_from_a.clone()
    a_from_b[..., :3, :3] = rotation
    a_from_b[..., :3, 3] = -(rotation * b_from_a[..., None, :3, 3]).sum(-1)
    return a_from_b


def closed_spline(waypoints: Tensor, count: int) -> Tensor:
    """Points (..., count, 3) at equal distances along the closed Catmull-Rom spline through waypoints (..., n, 3).

    The first point is the first waypoint; one step after the last point is the first again.
    """
    before, start, end, after = (waypoints.roll(shift, -2).unsqueeze(-2) for shift in (1, 0, -1, -2))
    t = torch.arange(SAMPLES_PER_SEGMENT, dtype=waypoints.dtype, device=waypoints.device)[:, None] / SAMPLES_PER_SEGMENT
    linear, square, cubic = (
        end - before,
        2 * before - 5 * start + 4 * end - after,
        3 * (start - end) + after - before,
    )
    curve = (start + 0.5 * t * (linear + t * (square + t * cubic))).flatten(-3, -2)
    curve = torch.cat([curve, curve[..., :1, :]], -2)
    steps = curve.diff(dim=-2).norm(dim=-1)
    length = torch.cat([torch.zeros_like(steps[..., :1]), steps.cumsum(-1)], -1)
    share = torch.arange(count, dtype=length.dtype, device=length.device) / count
    wanted = (share * length[..., -1:]).contiguous()
    segment = (torch.searchsorted(length, wanted, right=True) - 1).clamp(0, steps.shape[-1] - 1)
    weight = (wanted - length.gather(-1, segment)) / steps.gather(-1, segment)
    rows = segment[..., None].expand(*segment.shape, 3)
    return torch.lerp(curve.gather(-2, rows), curve.gather(-2, rows + 1), weight[..., None])


def room_walk(generator: torch.Generator, room_half_size: Tensor, count: int) -> Tensor:
    """world_from_cam (batch, count, 4, 4) of closed walks around the middles of rooms of half size (batch, 3).

    The eye stays within 0.45 of the half size and looks across the room. The generator is a CPU one.
    """
    batch, corners = room_half_size.shape[0], 8
    random = torch.rand((3, batch, corners), generator=generator).to(room_half_size)
    angle = 2 * math.pi * torch.arange(corners, device=room_half_size.device) / corners
    radius = 0.25 + 0.15 * random[0]
    floor = torch.stack([radius * angle.cos(), radius * angle.sin(), 0 * radius], -1) * room_half_size[:, None]
    eyes = floor + torch.stack([0 * radius, 0 * radius, 1.3 + 0.4 * random[1]], -1)
    targets = -1.5 * floor + torch.stack([0 * radius, 0 * radius, 0.8 + 0.8 * random[2]], -1)
    return look_at(closed_spline(eyes, count), closed_spline(targets, count))


def orbit(centre: Tensor, radius: float, height: float, count: int) -> Tensor:
    """world_from_cam (..., count, 4, 4) on circles ``height`` above centre (..., 3), looking at it; closed."""
    angle = 2 * math.pi * torch.arange(count, dtype=centre.dtype, device=centre.device) / count
    offset = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], -1)
    centres = centre[..., None, :]
    return look_at(centres + offset, centres.expand(*centre.shape[:-1], count, 3))


def corridor(start: Tensor, end: Tensor, sway: float, count: int) -> Tensor:
    """world_from_cam (..., count, 4, 4) from start (..., 3) to end, looking ahead, swaying sideways like a walker."""
    share = torch.linspace(0, 1, count, dtype=start.dtype, device=start.device)[:, None]
    ahead = torch.nn.functional.normalize(end - start, dim=-1)[..., None, :]
    up = start.new_tensor([0.0, 0.0, 1.0])
    sideways = torch.linalg.cross(ahead, up.expand_as(ahead))
    eyes = start[..., None, :] + share * (end - start)[..., None, :] + sway * torch.sin(12 * share) * sideways
    return look_at(eyes, eyes + ahead + 0.3 * sway * torch.cos(5 * share) * sideways)
