"""An exact scene as pipeline events: a textured wall seen by cameras that slide along it, in chunks of known scale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from recon.core.events import (
    ChunkReconstructed,
    Event,
    Finished,
    FrameRead,
    FrameSkipped,
    FrameTracked,
    LocalDepth,
    LocalMapGrown,
    LoopClosed,
    Notice,
    PosesCorrected,
    Progress,
)
from recon.core.places import LoopRecord
from recon.core.similarity import Sim3
from recon.core.types import (
    Camera,
    ChunkGeometry,
    Frame,
    FrameGeometry,
    PlacedFrame,
    SkippedFrame,
    SparsePoints,
    Submap,
)

WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
WALL = 4.0  # world units in front of every camera
CHUNK = 3
CHUNK_UNIT = 2.0  # chunk units in one world unit
SECONDS = 0.5  # between frames
CAMERA = Camera("PINHOLE", 4 * WIDTH, 4 * HEIGHT, (4 * FOCAL, 4 * FOCAL, 2 * WIDTH, 2 * HEIGHT))
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
# A possible loop closure: the whole map rotated about the vertical, moved and enlarged.
CORRECTION = Sim3(1.5, np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]), np.array([1.0, 2.0, 3.0]))


def true_centre(index: int) -> np.ndarray:
    return np.array([0.25 * index, 0.0, 0.0])


def world_from_chunk(number: int) -> Sim3:
    return Sim3(1 / CHUNK_UNIT, np.eye(3), true_centre(CHUNK * number))


def world_from_cam(index: int) -> Sim3:
    return Sim3(1 / CHUNK_UNIT, np.eye(3), true_centre(index))


def wall_colour() -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([4 * columns, 5 * rows, np.full_like(rows, 90)], axis=2).astype(np.uint8)


def geometry(index: int, number: int) -> FrameGeometry:
    depth = np.full((HEIGHT, WIDTH), WALL * CHUNK_UNIT, dtype=np.float32)
    depth[0] = 0
    cam_from_chunk = world_from_cam(index).inverse() @ world_from_chunk(number)
    return FrameGeometry(
        index, cam_from_chunk.matrix(), CAMERA, INTRINSICS, depth, (depth > 0).astype(np.float32), wall_colour()
    )


def frame(index: int) -> Frame:
    mask = np.ones((HEIGHT, WIDTH), dtype=np.bool_)
    return Frame(index, SECONDS * index, wall_colour(), f"{index}.png", (4 * WIDTH, 4 * HEIGHT), "wall", 0.0, mask)


def placed(index: int, pose: Sim3) -> PlacedFrame:
    return PlacedFrame(index, SECONDS * index, f"{index}.png", CAMERA, pose)


def chunk_event(number: int) -> ChunkReconstructed:
    """Chunks after the first begin with the last frame of the one before, which they do not add."""
    added = range(CHUNK * number, CHUNK * (number + 1))
    overlap = [added.start - 1] if number else []
    frames = tuple(geometry(index, number) for index in [*overlap, *added])
    submap = Submap(number, ChunkGeometry(frames, SparsePoints.empty()), world_from_chunk(number), 0.01 * number)
    return ChunkReconstructed(submap, tuple(placed(index, world_from_cam(index)) for index in added))


def correction_event(chunks: int) -> PosesCorrected:
    none = np.zeros(0, dtype=np.int64)
    points = SparsePoints(np.eye(3), np.full((3, 3), 200, dtype=np.uint8), none, none, np.zeros((0, 2)))
    return PosesCorrected(
        tuple(placed(index, CORRECTION @ world_from_cam(index)) for index in range(CHUNK * chunks)), points
    )


def tracked_events(first: int) -> Iterator[FrameTracked]:
    """Frames behind the map, the last of them lost."""
    for step, state in enumerate(("tracking", "tracking", "weak", "lost")):
        index, pose = first + step, np.eye(4)
        pose[:3, 3] = true_centre(index)
        known = state != "lost"
        where = (pose, CAMERA, 80) if known else (None, None, 0)
        yield FrameTracked(index, SECONDS * index, state, *where, piece=0, drift=0.01, milliseconds=12.0)


def local_map(first: int, piece: int) -> LocalMapGrown:
    """Two keyframes and three corners of the tracker's own map, beginning with a frame."""
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[:, :3, 3] = [true_centre(first), true_centre(first + 1)]
    colours = np.full((3, 3), 90, np.uint8)
    keyframes = np.array([first, first + 1])
    return LocalMapGrown(first + 1, SECONDS * (first + 1), piece, CAMERA, keyframes, poses, np.eye(3) + piece, colours)


def local_depth(index: int, unit: float = 1.0) -> LocalDepth:
    """Two dense points of a keyframe of the tracker's own map."""
    positions, colours = np.array([[0.0, 0, 1], [0.5, 0, 2]]), np.full((2, 3), 60, np.uint8)
    return LocalDepth(index, SECONDS * index, CAMERA, unit, positions, colours, milliseconds=900.0)


def original_colour(index: int) -> tuple[int, int, int]:
    return 100, 100, 20 * index


def write_originals(folder: Path, chunks: int) -> None:
    """The originals of all frames, each of one colour."""
    folder.mkdir(parents=True)
    for index in range(CHUNK * chunks):
        PillowImage.new("RGB", (WIDTH, HEIGHT), original_colour(index)).save(folder / f"{index}.png")


def events(chunks: int) -> Iterator[Event]:
    yield Progress("reading", 0, 0)
    yield Progress("reading", 1, 0)
    yield local_map(0, -1)
    for number in range(chunks):
        for index in range(CHUNK * number, CHUNK * (number + 1)):
            yield FrameRead(frame(index))
        yield chunk_event(number)
    yield local_map(CHUNK * chunks - 2, 0)
    yield from tracked_events(CHUNK * chunks)
    yield LoopClosed(LoopRecord(CHUNK * chunks - 1, 1, 0, chunks - 1, 0.7, 55, 0.002, 1.0, 0.1, "accepted", ""))
    yield FrameSkipped(SkippedFrame(99, "99.png", "too blurred"))
    yield Notice("Working size lowered to 64.")
    yield correction_event(chunks)
    yield Finished(Path("out"), CHUNK * chunks, CHUNK * chunks + 1)
