"""Rendered walks with exact depth and drifting submaps: they test loops without the time of a front end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from recon.core.places import LoopRecord
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, ChunkGeometry, DepthMap, Frame, FrameGeometry, Image, SparsePoints, Submap
from recon.lab.benchmark.walk import aligned_rmse
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_single
from recon.lab.synthetic.scenes import Scene
from recon.mapping.doubts import find_doubts
from recon.mapping.loops import LoopCloser
from retrieval.recogniser import LoopFinder

CAMERA = Camera("PINHOLE", 240, 180, (187.5, 187.5, 120.0, 90.0))  # the field of view of the sample's


@dataclass(frozen=True, eq=False)
class View:
    """world_from_cam: (4, 4), the true pose. depth: in metres."""

    world_from_cam: Array
    colour: Image
    depth: DepthMap


@dataclass(frozen=True, eq=False)
class Outcome:
    """drifted, corrected: RMSE of the camera centres [m] after alignment, without loops and with them."""

    drifted: float
    corrected: float
    ledger: tuple[LoopRecord, ...]

    @property
    def accepted(self) -> list[tuple[int, int]]:
        return [(line.earlier, line.frame) for line in self.ledger if line.verdict == "accepted"]


def render_views(scene: Scene, world_from_cam: torch.Tensor) -> list[View]:
    """The views of cameras (n, 4, 4)."""
    matrix = torch.as_tensor(CAMERA.matrix(), dtype=torch.float32)
    cams = inverse_rigid(world_from_cam).float()[None]
    seen = render_single(scene, cams, matrix, CAMERA.height, CAMERA.width, shadows=False, rays_per_block=1 << 15)
    images = (255 * seen.colour[0]).round().to(torch.uint8).numpy()
    return [View(*parts) for parts in zip(world_from_cam.numpy(), images, seen.depth[0].numpy(), strict=True)]


def mirrored(view: View) -> View:
    """The view of a camera in a room that is the mirror image of this one."""
    return View(view.world_from_cam, np.ascontiguousarray(view.colour[:, ::-1]), view.depth[:, ::-1].copy())


def moved(view: View, offset: Sequence[float]) -> View:
    """The same view in another room that looks the same."""
    world_from_cam = view.world_from_cam.copy()
    world_from_cam[:3, 3] += offset
    return View(world_from_cam, view.colour, view.depth)


def constant_drift(scale: float, turn: float) -> Sim3:
    """The error of every step from one submap to the next: factor of scale, turn about the vertical [rad]."""
    return Sim3(scale, Rotation.from_rotvec([0, turn, 0]).as_matrix(), np.zeros(3))


def walk_through(views: Sequence[View], size: int, drift: Sim3, finder: LoopFinder) -> Outcome:
    """Place submaps of ``size`` views, each of which repeats the last view of the submap before."""
    closer = LoopCloser(finder)
    placed: dict[int, Sim3] = {}
    alone: dict[int, Sim3] = {}
    stored: dict[int, dict[int, FrameGeometry]] = {}
    true: dict[int, Sim3] = {}
    for number, rows in enumerate(_chunks(len(views), size)):
        true[number] = _chunk_from_world(views[rows[0]], unit=1.0 + 0.5 * (number % 3)).inverse()
        step = true[number - 1].inverse() @ true[number] @ drift if number else true[number]
        geometry = {row: _geometry(row, views[row], true[number].inverse()) for row in rows}
        placed[number] = placed[number - 1] @ step if number else step
        alone[number] = alone[number - 1] @ step if number else step
        found = Submap(number, ChunkGeometry(tuple(geometry.values()), SparsePoints.empty()), placed[number], 0.0)
        new = [row for row in rows if number == 0 or row != rows[0]]
        stored[number] = {row: geometry[row] for row in new}
        frames = [_frame(row, views[row]) for row in new]
        doubts = find_doubts(found.geometry.frames)
        placed.update(closer.extend(found, frames, stored.__getitem__, doubts=doubts, new_piece=number == 0))
    errors = (_error(poses, true, stored, views) for poses in (alone, placed))
    return Outcome(*errors, closer.ledger)


def _chunks(count: int, size: int) -> Iterator[range]:
    for first in range(0, count - 1, size - 1):
        yield range(first, min(first + size, count))


def _chunk_from_world(view: View, unit: float) -> Sim3:
    """A chunk's own frame: its first camera, with its own unit."""
    cam_from_world = Sim3.from_matrix(view.world_from_cam).inverse()
    return Sim3(unit, np.eye(3), np.zeros(3)) @ cam_from_world


def _geometry(index: int, view: View, chunk_from_world: Sim3) -> FrameGeometry:
    """The view in a chunk whose unit is ``chunk_from_world.scale`` to the metre."""
    chunk_from_cam = chunk_from_world @ Sim3.from_matrix(view.world_from_cam)
    cam_from_chunk = Sim3(1.0, chunk_from_cam.rotation, chunk_from_cam.translation).inverse().matrix()
    depth = view.depth * np.float32(chunk_from_world.scale)
    return FrameGeometry(
        index, cam_from_chunk, CAMERA, CAMERA.matrix(), depth, (depth > 0).astype(np.float32), view.colour
    )


def _frame(index: int, view: View) -> Frame:
    size, mask = (CAMERA.width, CAMERA.height), np.ones((CAMERA.height, CAMERA.width), dtype=bool)
    return Frame(index, float(index), view.colour, f"{index}.png", size, "lens", 0.0, mask)


def _error(
    world_from_chunk: dict[int, Sim3],
    true: dict[int, Sim3],
    stored: dict[int, dict[int, FrameGeometry]],
    views: Sequence[View],
) -> float:
    """RMSE [m] of the camera centres after alignment."""
    rows = [(number, row) for number, frames in stored.items() for row in frames]
    truth = np.array([views[row].world_from_cam[:3, 3] for _, row in rows])
    found = np.array(
        [world_from_chunk[n].apply(true[n].inverse().apply(centre)) for (n, _), centre in zip(rows, truth, strict=True)]
    )
    return aligned_rmse(found, truth)
