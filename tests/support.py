"""Small exact scenes for tests: a map on disk, chunks of a walk, and the first frames of the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from recon.core.refusal import Unplaced, refusal
from recon.core.similarity import Array, Sim3
from recon.core.types import (
    Camera,
    Chunk,
    ChunkGeometry,
    Frame,
    FrameGeometry,
    Image,
    PlacedFrame,
    SkippedFrame,
    SparseModel,
    SparsePoints,
    Submap,
)
from recon.frontend import Workplace
from recon.settings import RunSettings
from recon.store.ledger import TABLES, Ledger, Row, Table
from recon.store.map import MapStore, ReconstructedMap, images_folder, open_map

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
PLANE_DEPTH = 4.0
WALK = 12  # frames of the walk that ``true_pose`` describes
RADIAL = Camera("SIMPLE_RADIAL", 160, 120, (140.0, 80.0, 60.0, 0.05))
OPENCV = Camera("OPENCV", 160, 120, (140.0, 145.0, 79.0, 61.0, 0.05, 0.01, 0.002, -0.001))
FISHEYE = Camera("OPENCV_FISHEYE", 160, 120, (140.0, 145.0, 79.0, 61.0, 0.05, 0.01, 0.002, -0.001))
DEPTH_INTRINSICS = np.array([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]])
DEPTH_SIZE = (60, 80)
SCALES = (1.0, 0.5, 2.0, 4.0, 0.25, 1.5)


def half_size_sample(folder: Path, count: int) -> Path:
    """A copy of the sample in ``folder`` with its first frames, at 320x240."""
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        with PillowImage.open(SAMPLE / "images" / f"{index:06d}.jpg") as image:
            image.resize((320, 240), PillowImage.Resampling.BOX).save(
                folder / "images" / f"{index:06d}.jpg", quality=95
            )
    (folder / "intrinsics.txt").write_text("250 250 160 120\n")
    for name in ("poses.txt", "depth"):
        (folder / name).symlink_to(SAMPLE / name)
    return folder


def plane_texture(points: Array) -> Image:
    """Colours (..., 3) of the world points (..., 3) on the plane z = PLANE_DEPTH: smooth, different everywhere."""
    x, y = points[..., 0], points[..., 1]
    channels = [np.sin(1.3 * x + 0.5), np.sin(1.7 * y), np.sin(0.9 * (x + y) + 1)]
    return np.round(127.5 + 100 * np.stack(channels, axis=-1)).astype(np.uint8)


def make_map(
    folder: Path,
    cameras: tuple[Camera, ...] = (RADIAL,),
    scales: tuple[float, ...] = SCALES,
    timestamps: tuple[float, ...] | None = None,
) -> ReconstructedMap:
    """A finished map of the plane z = PLANE_DEPTH, seen by one camera per scale that walks along x and turns.

    Everything is exact except for the rounding of stored depth (1 in 2000) and JPEG. ``cameras`` are used in turn;
    ``scales`` are those of ``world_from_cam``. Frame indices are 0, 2, 4, ...; index 1 is a skipped frame.
    """
    placed = tuple(
        PlacedFrame(2 * row, 0.1 * row if timestamps is None else timestamps[row], f"image_{2 * row:04d}.jpg",
                    cameras[row % len(cameras)], _world_from_cam(row, len(scales), scale))
        for row, scale in enumerate(scales)
    )  # fmt: skip
    store = MapStore(folder)
    images_folder(folder).mkdir(parents=True, exist_ok=True)
    for number, frames in enumerate([placed[: len(placed) // 2], placed[len(placed) // 2 :]]):
        geometry = ChunkGeometry(tuple(_frame_geometry(frame) for frame in frames), SparsePoints.empty())
        store.write_submap(Submap(number, geometry, Sim3.identity(), 0.0), {frame.index for frame in frames})
    for frame in placed:
        PillowImage.fromarray(render(frame)).save(images_folder(folder) / frame.name, quality=95)
    store.write_places(placed, (SkippedFrame(1, "image_0001.jpg", "blurred"),), sparse_points(placed), complete=True)
    return open_map(folder)


def change_ledger(folder: Path, table: Table, change: Callable[[list[Row]], object]) -> None:
    """Change the rows of a table in place, with the right checksum."""
    ledger = Ledger(folder)
    with ledger.writing() as connection:
        rows = ledger._rows(connection, table, list(TABLES[table]))
        change(rows)
        ledger.replace(table, rows)


def forget_depth(folder: Path) -> None:
    """Make a map one without depth."""
    for path in open_map(folder).submap_files:
        path.unlink()
    change_ledger(folder, "files", lambda rows: rows.__setitem__(slice(None), rows[-1:]))  # that of the points


@dataclass(frozen=True)
class _Numbered:
    number: int


def finished_chunks(folder: Path) -> int:
    """How many chunks a run has finished."""
    return len(Ledger(folder).read("chunks", _Numbered))


def project(frame: PlacedFrame, points_world: Array) -> Array:
    """Pixels (points, 2) of world points in the distorted original, by pycolmap."""
    return np.asarray(colmap_camera(frame.camera).img_from_cam(frame.world_from_cam.inverse().apply(points_world)))


def true_depth(frame: PlacedFrame, size: tuple[int, int]) -> Array:
    """Depth (h, w) in world units of the plane in a picture (width, height) of what the distorted original shows."""
    camera, (width, height) = frame.camera, size
    pixels = pixel_centres(width, height)[..., :2] * [camera.width / width, camera.height / height]
    rays = np.ones((height, width, 3))
    rays[..., :2] = np.asarray(colmap_camera(camera).cam_from_img(pixels.reshape(-1, 2))).reshape(height, width, 2)
    return hit_plane(frame, rays)[1] * frame.world_from_cam.scale


def true_pose(index: int) -> Sim3:
    """World from camera of a frame of a walk along the plane."""
    return _world_from_cam(index, WALK, 1.0)


def placed_frame(index: int, camera: Camera = RADIAL) -> PlacedFrame:
    """A frame of the walk at its true place."""
    return PlacedFrame(index, 0.5 * index, f"{index:04d}.jpg", camera, true_pose(index))


def frame_of(index: int) -> Frame:
    """A frame of the walk, without a meaningful image."""
    image = np.zeros((RADIAL.height, RADIAL.width, 3), np.uint8)
    size, mask = (RADIAL.width, RADIAL.height), np.ones((RADIAL.height, RADIAL.width), dtype=bool)
    return Frame(index, 0.5 * index, image, f"{index:04d}.jpg", size, "lens", 0.0, mask)


def chunk_geometry(indices: Iterable[int], chunk_from_world: Sim3) -> ChunkGeometry:
    """Exact geometry of frames of the walk in a chunk's own frame and unit."""
    frames = []
    for index in indices:
        chunk_from_cam = chunk_from_world @ true_pose(index)
        found = _frame_geometry(placed_frame(index))
        cam_from_chunk = Sim3(1.0, chunk_from_cam.rotation, chunk_from_cam.translation).inverse().matrix()
        depth = found.depth * np.float32(chunk_from_world.scale)
        frames.append(replace(found, cam_from_chunk=cam_from_chunk, depth=depth))
    return ChunkGeometry(tuple(frames), SparsePoints.empty())


def sparse_points(frames: tuple[PlacedFrame, ...]) -> SparsePoints:
    """A grid of points on the plane with an exact observation in every frame that sees them."""
    x, y = np.meshgrid(np.linspace(-3, 3, 25), np.linspace(-2, 2, 17))
    positions = np.stack([x.ravel(), y.ravel(), np.full(x.size, PLANE_DEPTH)], axis=1)
    ids, indices, pixels = [], [], []
    for frame in frames:
        projected = project(frame, positions)
        size = (frame.camera.width, frame.camera.height)
        seen = np.flatnonzero(((projected > 0) & (projected < size)).all(axis=1))
        ids.append(seen)
        indices.append(np.full(len(seen), frame.index))
        pixels.append(projected[seen])
    return SparsePoints(
        positions, plane_texture(positions), np.concatenate(ids), np.concatenate(indices), np.concatenate(pixels)
    )


def _world_from_cam(row: int, count: int, scale: float) -> Sim3:
    x = (row - (count - 1) / 2) * 0.4
    yaw, pitch = -0.08 * x, 0.05 * np.sin(row)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return Sim3(scale, about_y @ about_x, np.array([x, 0.2 * np.sin(0.7 * row), 0.1 * np.cos(row)]))


def colmap_camera(camera: Camera) -> pycolmap.Camera:
    """Written independently, so that tests reveal faults of the library."""
    return pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=list(camera.params))


def hit_plane(frame: PlacedFrame, rays_cam: Array) -> tuple[Array, Array]:
    """World points (..., 3) where rays (..., 3) with z = 1 meet the plane, and their depth in the frame's unit."""
    pose = frame.world_from_cam
    directions = rays_cam @ pose.rotation.T
    distance = (PLANE_DEPTH - pose.translation[2]) / directions[..., 2]
    return pose.translation + distance[..., None] * directions, distance / pose.scale


def _frame_geometry(frame: PlacedFrame) -> FrameGeometry:
    height, width = DEPTH_SIZE
    rays = pixel_centres(width, height) @ np.linalg.inv(DEPTH_INTRINSICS).T
    points, depth = hit_plane(frame, rays)
    confidence = np.full(depth.shape, 0.8, dtype=np.float32)
    depth[:2] = 0
    confidence[:2] = 0
    return FrameGeometry(
        frame.index, np.eye(4), frame.camera, DEPTH_INTRINSICS, depth.astype(np.float32), confidence,
        plane_texture(points),
    )  # fmt: skip


def render(frame: PlacedFrame) -> Image:
    """The original (height, width, 3) of the frame's camera, distorted."""
    camera = frame.camera
    pixels = pixel_centres(camera.width, camera.height)
    rays = np.ones_like(pixels)
    rays[..., :2] = np.asarray(colmap_camera(camera).cam_from_img(pixels[..., :2].reshape(-1, 2))).reshape(
        camera.height, camera.width, 2
    )
    return plane_texture(hit_plane(frame, rays)[0])


def pixel_centres(width: int, height: int) -> Array:
    """Homogeneous pixel centres (height, width, 3)."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v, np.ones_like(u)], axis=-1)


class ExactFrontEnd:
    """Geometry of the walk along the plane. Every chunk has its own frame and unit."""

    missing: frozenset[int] = frozenset()  # frames that cannot be placed in any chunk
    interrupt: str = ""  # "chunk 1" or "refine": where the run ends
    ending: type[BaseException] = KeyboardInterrupt  # whether by Ctrl-C
    refined: Callable[[Mapping[int, Array]], SparseModel] = staticmethod(
        lambda poses: SparseModel({}, {}, SparsePoints.empty())
    )

    unadjusted = "nothing was adjusted"

    @classmethod
    def prepare(cls, settings: RunSettings) -> Callable[[Workplace], ExactFrontEnd]:
        return lambda place: cls(place.folder, settings, place.tell)

    def __init__(self, folder: Path, *_: object) -> None:
        (folder / "features.db").touch()
        self._chunk = -1

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        if self.interrupt == f"chunk {chunk.index}":
            raise self.ending
        self._chunk = chunk.index
        placed = [frame.index for frame in chunk.frames if frame.index not in self.missing]
        turn = Rotation.from_rotvec([0.3 * chunk.index, 0.1, -0.2]).as_matrix()
        return chunk_geometry(placed, Sim3(1.0 + chunk.index, turn, np.array([chunk.index, 1.0, 2.0])))

    def memory(self) -> dict[str, int]:
        return {"chunk": self._chunk}

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, int]) -> None:
        assert memory["chunk"] == chunk.index == self._chunk + 1
        self._chunk = chunk.index

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        if self.interrupt == "refine":
            raise self.ending
        return type(self).refined(cam_from_world)

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        return refusal(source, len(names), [reason.kind for reason in reasons.values()])

    def close(self) -> None:
        """Nothing is open."""


def true_model(cam_from_world: Mapping[int, Array]) -> SparseModel:
    """The exact model of the frames given, in the world of the scene."""
    frames = tuple(placed_frame(index) for index in cam_from_world)
    poses = {frame.index: frame.world_from_cam.inverse().matrix() for frame in frames}
    return SparseModel(poses, dict.fromkeys(poses, RADIAL), sparse_points(frames))
