"""A small exact map of the sample's room on disk, and photos of it and of rooms like it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from recon.core.similarity import Sim3
from recon.core.types import ChunkGeometry, DepthMap, Frame, FrameGeometry, Image, PlacedFrame, SparsePoints, Submap
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_single
from recon.lab.synthetic.sample import furnished_room, walk
from recon.lab.synthetic.scenes import Scene
from recon.store.map import MapStore, ReconstructedMap, images_folder, open_map
from tests.retrieval.scenes import HEIGHT, WIDTH, as_geometry, intrinsics
from tests.support import SAMPLE

MAPPED = (4, 6, 8)  # positions of the sample's walk
UNIT = 0.5  # metres of the map's unit
MAP_FROM_ROOM = Sim3(1 / UNIT, np.eye(3), np.zeros(3))


def make_room_map(
    folder: Path, indices: Sequence[int] = MAPPED, map_from_room: Sim3 = MAP_FROM_ROOM, scene: Scene | None = None
) -> ReconstructedMap:
    """A finished map from some positions of the walk: exact poses and depth, no sparse points."""
    return store_map(folder, [mapped_frame(index, map_from_room, scene) for index in indices], map_from_room)


def store_map(folder: Path, frames: Sequence[FrameGeometry], map_from_room: Sim3) -> ReconstructedMap:
    """A finished map of frames of the walk, by their positions."""
    indices = [frame.index for frame in frames]
    placed = tuple(
        PlacedFrame(index, float(index), f"{index:04d}.png", frames[0].camera, true_pose(index, map_from_room))
        for index in indices
    )
    store = MapStore(folder)
    images_folder(folder).mkdir(parents=True, exist_ok=True)
    for frame, one in zip(frames, placed, strict=True):
        Pillow.fromarray(frame.colour).save(images_folder(folder) / one.name)
    store.write_submap(
        Submap(0, ChunkGeometry(tuple(frames), SparsePoints.empty()), Sim3.identity(), 0.0), set(indices)
    )
    store.write_places(placed, (), SparsePoints.empty(), complete=True)
    return open_map(folder)


def true_pose(index: int, map_from_room: Sim3 = MAP_FROM_ROOM) -> Sim3:
    """World from camera of a position of the walk, in the unit of the map."""
    pose = walk()[index].numpy()
    return Sim3(1.0, map_from_room.rotation @ pose[:3, :3], map_from_room.apply(pose[:3, 3]))


def mapped_frame(index: int, map_from_room: Sim3 = MAP_FROM_ROOM, scene: Scene | None = None) -> FrameGeometry:
    """The frame at a position of the walk with its exact depth."""
    image, depth = _seen(index, scene or _room(), 1.0)
    return as_geometry(index, walk()[index].numpy(), image, depth * np.float32(map_from_room.scale), map_from_room)


def sample_frame(index: int, map_from_room: Sim3) -> FrameGeometry:
    """A frame of the bundled sample that has depth, every DEPTH_EVERY-th, as ``mapped_frame`` but not rendered anew."""
    with Pillow.open(SAMPLE / "images" / f"{index:06d}.jpg") as file:
        image = np.asarray(file.resize((WIDTH, HEIGHT), Pillow.Resampling.BOX))
    with Pillow.open(SAMPLE / "depth" / f"{index:06d}.png") as file:
        depth = np.asarray(file, dtype=np.float32) / np.float32(1000 / map_from_room.scale)
    return as_geometry(index, walk()[index].numpy(), image, depth, map_from_room)


def take_photo(index: int, scene: Scene | None = None, zoom: float = 1.0) -> Image:
    """A photo (HEIGHT, WIDTH, 3) from a position of the walk, with the map's lens or a longer one."""
    return _seen(index, scene or _room(), zoom)[0]


def as_frame(image: Image) -> Frame:
    """A photo of which nothing else is known."""
    size, mask = (image.shape[1], image.shape[0]), np.ones(image.shape[:2], dtype=bool)
    return Frame(0, 0.0, image, "photo.png", size, "", 0.0, mask)


@cache
def _room() -> Scene:
    return furnished_room()


@cache
def _seen(index: int, scene: Scene, zoom: float) -> tuple[Image, DepthMap]:
    matrix = torch.as_tensor(intrinsics(), dtype=torch.float32) * torch.tensor([[zoom], [zoom], [1.0]])
    matrix[:2, 2] = torch.tensor([WIDTH / 2, HEIGHT / 2])
    cam_from_world = inverse_rigid(walk()[[index]]).float()[None]
    seen = render_single(scene, cam_from_world, matrix, HEIGHT, WIDTH, shadows=False)
    return (255 * seen.colour[0, 0]).round().to(torch.uint8).numpy(), seen.depth[0, 0].numpy()
