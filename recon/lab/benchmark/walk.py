"""A long rendered walk with drifting odometry: how much loops reduce the error, and whether memory grows.

Images and depth are rendered on the way. Every step adds the same small error of direction and scale, as structure from
motion does where it sees nothing again. Everything after the front end is the pipeline's own: chunks, placement, the
map on disk, recognition, verification, and the pose graph.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image as Pillow
from scipy.spatial.transform import Rotation
from torch import Tensor

from recon.core.announcer import Announcer
from recon.core.files import make_folder, write_atomically
from recon.core.places import PlaceRecogniser
from recon.core.similarity import Array, Sim3
from recon.core.types import (
    Camera,
    Chunk,
    ChunkGeometry,
    DepthMap,
    Frame,
    FrameGeometry,
    PlacedFrame,
    SparsePoints,
    Submap,
)
from recon.lab.synthetic.paths import closed_spline, inverse_rigid, look_at
from recon.lab.synthetic.render import render_depth, render_single
from recon.lab.synthetic.sample import furnished_room
from recon.lab.training.pool import view_overlap
from recon.mapping.alignment import fit_similarity
from recon.mapping.chunks import chunks
from recon.mapping.growing import GrowingMap
from recon.mapping.placement import Placement
from recon.store.map import MapStore, images_folder

VERSION = 1
CAMERA = Camera("PINHOLE", 320, 240, (250.0, 250.0, 160.0, 120.0))  # the field of view of the sample's
CHUNK, OVERLAP = 60, 12
SHARED = 0.05  # least overlap of two frames; with less they show different places
CORNERS = 12  # waypoints of a lap
MEGABYTE = 1e6


@dataclass(frozen=True)
class WalkSettings:
    """frames: in all ``laps`` around the sample's room, each with its own radius and height. turn: error of every step
    [degrees about the vertical]. scale: factor by which every step misjudges the scale.
    """

    frames: int = 2000
    laps: int = 4
    turn: float = 0.02
    scale: float = 1.0003


@dataclass(frozen=True)
class Milestone:
    """State after a number of frames: RMSE of the aligned camera centres [m], without and with loops, and memory."""

    frames: int
    without_loops: float
    with_loops: float
    memory_megabytes: float


@dataclass(frozen=True)
class WalkResult:
    """Result of a walk. accepted, wrong: loops accepted at the end, and those of them between different places."""

    settings: WalkSettings
    milestones: tuple[Milestone, ...]
    candidates: int
    accepted: int
    wrong: int
    seconds: float


def long_walk(settings: WalkSettings) -> Tensor:
    """world_from_cam (frames, 4, 4) float64 of a closed walk, several times around the room."""
    corner = torch.arange(CORNERS * settings.laps, dtype=torch.float64)
    angle, lap = 2 * math.pi * corner / CORNERS, (corner / CORNERS).floor()
    reach = 1 + 0.08 * torch.sin(3 * angle) + 0.06 * torch.cos(2.4 * lap)
    height = 1.5 + 0.12 * torch.sin(2 * angle) + 0.08 * torch.sin(1.7 * lap)
    eyes = torch.stack([1.85 * reach * angle.cos(), 1.45 * reach * angle.sin(), height], 1)
    across = torch.stack([-1.2 * angle.cos(), -1.0 * angle.sin(), 0.95 + 0.1 * torch.cos(3 * angle)], 1)
    return look_at(closed_spline(eyes, settings.frames), closed_spline(across, settings.frames))


class DriftingCamera:
    """Renders the walk frame by frame and gives the pose of each frame by odometry."""

    def __init__(self, settings: WalkSettings) -> None:
        self.world_from_cam = long_walk(settings)
        self._scene = furnished_room()
        self._estimates = drifting(self.world_from_cam.numpy(), settings)
        self._depth: dict[int, DepthMap] = {}

    def frames(self) -> Iterator[Frame]:
        """The images; depth is kept for the frames that a chunk may still need."""
        usable = np.ones((CAMERA.height, CAMERA.width), dtype=bool)
        for index in range(len(self.world_from_cam)):
            image, self._depth[index] = self._render(index)
            self._depth.pop(index - CHUNK, None)
            size = (CAMERA.width, CAMERA.height)
            yield Frame(index, float(index), image, f"{index:06d}.png", size, "lens", 0.0, usable)

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """The chunk's geometry by odometry, in the chunk's own unit."""
        unit = Sim3(1 + 0.5 * (chunk.index % 3), np.eye(3), np.zeros(3))
        return ChunkGeometry(tuple(self._geometry(frame, unit) for frame in chunk.frames), SparsePoints.empty())

    def overlap(self, first: int, second: int) -> float:
        """Share of the pixels of one frame that the other sees; the smaller of both directions."""
        cam_from_world = inverse_rigid(self.world_from_cam[[first, second]]).float()[None]
        matrix = torch.as_tensor(CAMERA.matrix(), dtype=torch.float32) * torch.tensor([[0.25], [0.25], [1.0]])
        depth = render_depth(self._scene, cam_from_world, matrix, CAMERA.height // 4, CAMERA.width // 4)
        return float(view_overlap(depth, cam_from_world, matrix, stride=1)[0].min())

    def _render(self, index: int) -> tuple[np.ndarray, DepthMap]:
        matrix = torch.as_tensor(CAMERA.matrix(), dtype=torch.float32)
        cam_from_world = inverse_rigid(self.world_from_cam[index : index + 1]).float()[None]
        seen = render_single(self._scene, cam_from_world, matrix, CAMERA.height, CAMERA.width, shadows=False)
        return (255 * seen.colour[0, 0]).round().to(torch.uint8).numpy(), seen.depth[0, 0].numpy()

    def _geometry(self, frame: Frame, chunk_from_world: Sim3) -> FrameGeometry:
        chunk_from_cam = chunk_from_world @ self._estimates[frame.index]
        rigid = Sim3(1.0, chunk_from_cam.rotation, chunk_from_cam.translation)
        depth = self._depth[frame.index] * np.float32(chunk_from_cam.scale)
        sure = (depth > 0).astype(np.float32)
        return FrameGeometry(frame.index, rigid.inverse().matrix(), CAMERA, CAMERA.matrix(), depth, sure, frame.image)


def drifting(world_from_cam: Array, settings: WalkSettings) -> list[Sim3]:
    """Poses (n, 4, 4) by odometry, with the same error in every step; their scale is that of their depth."""
    turned = Rotation.from_euler("y", settings.turn, degrees=True).as_matrix()
    error = Sim3(settings.scale, turned, np.zeros(3))
    true = [Sim3.from_matrix(pose) for pose in world_from_cam]
    estimates = [true[0]]
    for before, now in pairwise(true):
        estimates.append(estimates[-1] @ before.inverse() @ now @ error)
    return estimates


def write_map(out: Path, frames: int, laps: int) -> None:
    """Write a finished map of a walk with its images. Only one lap is rendered: all laps are the same.

    Raises OutputError.
    """
    camera, store = DriftingCamera(WalkSettings(frames // laps, 1, turn=0.0, scale=1.0)), MapStore(out)
    make_folder(images_folder(out))
    lap = [camera.reconstruct(Chunk(0, (frame,), 0)).frames[0] for frame in camera.frames()]
    placed: list[PlacedFrame] = []
    for number, first in enumerate(range(0, frames, CHUNK)):
        own = [replace(lap[index % len(lap)], index=index) for index in range(first, min(first + CHUNK, frames))]
        geometry = ChunkGeometry(tuple(own), SparsePoints.empty())
        store.write_submap(Submap(number, geometry, Sim3.identity(), 0.0), {frame.index for frame in own})
        for frame in own:
            name = f"{frame.index:06d}.png"
            Pillow.fromarray(frame.colour).save(images_folder(out) / name)
            world_from_cam = Sim3.from_matrix(frame.cam_from_chunk).inverse()
            placed.append(PlacedFrame(frame.index, float(frame.index), name, CAMERA, world_from_cam))
    store.write_places(tuple(placed), (), SparsePoints.empty(), complete=True)


def measure(
    settings: WalkSettings, out: Path, recogniser: PlaceRecogniser, report: Callable[[Milestone], None]
) -> WalkResult:
    """Walk once and build two maps: one in ``out`` that closes the loops of ``recogniser``, and one without loops
    beside it. Reports a milestone after every half lap, or after every chunk if chunks are longer. Raises OutputError.
    """
    start = time.perf_counter()
    camera = DriftingCamera(settings)
    make_folder(out / "map")
    plain, corrected = Placement(), GrowingMap(MapStore(out), Announcer(out), recogniser)
    every = settings.frames / settings.laps / 2
    milestones: list[Milestone] = []
    for chunk in chunks(camera.frames(), CHUNK, OVERLAP):
        geometry = camera.reconstruct(chunk)
        plain.place(chunk, geometry)
        corrected.add(chunk, geometry)
        done = chunk.frames[-1].index + 1
        if done >= every * (len(milestones) + 1) or done == settings.frames:
            milestones.append(_milestone(camera, list(plain.main.values()), corrected.frames, done))
            report(milestones[-1])
    closed = [(line.earlier, line.frame) for line in corrected.ledger if line.verdict == "accepted"]
    wrong = sum(camera.overlap(*ends) < SHARED for ends in closed)
    seconds = time.perf_counter() - start
    return WalkResult(settings, tuple(milestones), len(corrected.ledger), len(closed), wrong, seconds)


def _milestone(
    camera: DriftingCamera, plain: Sequence[PlacedFrame], corrected: Sequence[PlacedFrame], frames: int
) -> Milestone:
    truth = camera.world_from_cam.numpy()
    without, closed = rmse(plain, truth), rmse(corrected, truth)
    return Milestone(frames, without, closed, psutil.Process().memory_info().rss / MEGABYTE)


def rmse(frames: Sequence[PlacedFrame], world_from_cam: Array) -> float:
    """RMSE of camera centres after alignment by a similarity."""
    found = np.array([frame.world_from_cam.translation for frame in frames])
    return aligned_rmse(found, world_from_cam[[frame.index for frame in frames], :3, 3])


def aligned_rmse(found: Array, truth: Array) -> float:
    """RMSE of points (n, 3) after alignment by a similarity."""
    aligned = fit_similarity(found, truth, np.ones(len(truth))).apply(found)
    return float(np.sqrt(((aligned - truth) ** 2).sum(axis=1).mean()))


def table(result: WalkResult) -> str:
    """Markdown."""
    rows = [
        f"| {at.frames:,} | {at.without_loops:.3f} | {at.with_loops:.3f} | {at.memory_megabytes:,.0f} MB |"
        for at in result.milestones
    ]
    head = "| frames | ATE without loops [m] | with loops [m] | memory of the program |\n|---|---|---|---|"
    loops = f"{result.accepted} loops of {result.candidates} candidates, {result.wrong} wrong; {result.seconds:.0f} s."
    return "\n".join([head, *rows, "", loops])


def write_results(result: WalkResult, folder: Path) -> None:
    """Write walk.json and walk.md. Raises OutputError."""
    content = json.dumps({"version": VERSION} | asdict(result), indent=1)
    write_atomically(folder / "walk.json", lambda file: file.write(content.encode()))
    write_atomically(folder / "walk.md", lambda file: file.write(table(result).encode()))
