"""The map as one surface: truncated signed distances of all depth maps, averaged in a grid (Curless and Levoy 1996)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recon.core.errors import OutputError
from recon.core.files import write_atomically
from recon.exports.cleaning import PosedGeometry, own_depth, surfaces, survey
from recon.exports.ply import COLOUR, NORMAL, POSITION, linear, properties
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

if TYPE_CHECKING:
    import open3d

VOXEL_IN_FOOTPRINTS = 2.0
TRUNCATION_IN_VOXELS = 4.0
LEAST_VIEWS = 2.0  # number of frames that must have seen a piece of surface
BLOCKS = 500  # of 16 x 16 x 16 voxels (40 MB) to begin with; the grid grows
CRUMBS = 0.001  # of the triangles; smaller pieces are dropped
GLTF_FROM_WORLD = np.array([1, -1, -1])  # y up, z towards the viewer
PLY_VERTEX = np.dtype(POSITION + NORMAL + COLOUR)
PLY_FACE = np.dtype([("corners", "u1"), ("vertices", "<u4", 3)])
GLB_MAGIC, GLB_VERSION, GLB_JSON, GLB_BINARY = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT, TRIANGLES, TO_VERTICES, TO_INDICES = 5126, 5125, 4, 34962, 34963  # glTF's numbers


def write_mesh(reconstruction: ReconstructedMap, path: Path, settings: CloudSettings | None = None) -> int:
    """Write a triangle mesh with colours and normals, as PLY or GLB by the suffix; returns the number of triangles.

    settings.voxel: edge of the grid, in world units; by default twice the median size of a depth pixel. GLB has
    glTF's axes, y up; PLY has world coordinates. Raises OutputError for another suffix, a map without any surface, or
    if ``path`` cannot be written, and MapError if a submap is damaged.
    """
    if path.suffix.lower() not in WRITERS:
        raise OutputError(
            f"A mesh file ends in {' or '.join(WRITERS)}, got {path}. Use --out {path.with_suffix('.ply')}."
        )
    settings = settings or CloudSettings()
    known = survey(own_depth(reconstruction))
    voxel = settings.voxel or VOXEL_IN_FOOTPRINTS * known.footprint
    mesh = _surface(surfaces(reconstruction, known, settings), voxel)
    if mesh is None or not len(mesh.triangles):
        raise OutputError(f"{reconstruction.folder} has no depth from which to make a surface with --voxel {voxel:g}.")
    write_atomically(
        path, lambda file: file.write(WRITERS[path.suffix.lower()](mesh, str(reconstruction.metric or "")))
    )
    return len(mesh.triangles)


def _surface(frames: Iterable[PosedGeometry], voxel: float) -> open3d.geometry.TriangleMesh | None:
    """The mesh of all frames, None if they have no depth."""
    import open3d  # noqa: PLC0415

    float32 = open3d.core.float32
    grid = open3d.t.geometry.VoxelBlockGrid(  # the older ScalableTSDFVolume of 0.20 stays empty
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(float32, float32, float32),
        attr_channels=[open3d.core.SizeVector(count) for count in (1, 1, 3)],
        voxel_size=voxel,
        block_resolution=16,
        block_count=BLOCKS,
        device=open3d.core.Device("CPU:0"),
    )
    for posed in frames:
        _integrate(grid, posed)
    if not grid.hashmap().size():
        return None
    mesh = grid.extract_triangle_mesh(weight_threshold=LEAST_VIEWS).to_legacy()
    clusters, sizes, _ = mesh.cluster_connected_triangles()
    crumbs = np.asarray(sizes) < CRUMBS * len(mesh.triangles)
    if crumbs.any():
        mesh.remove_triangles_by_mask(crumbs[np.asarray(clusters)])
        mesh.remove_unreferenced_vertices()
    return mesh


def _integrate(grid: open3d.t.geometry.VoxelBlockGrid, posed: PosedGeometry) -> None:
    import open3d  # noqa: PLC0415

    frame, geometry = posed
    depth = np.where(geometry.confidence > 0, geometry.depth, 0) * np.float32(frame.world_from_cam.scale)
    if not depth.any():
        return
    intrinsics = geometry.intrinsics.copy()
    intrinsics[:2, 2] -= 0.5  # Open3D counts pixels from their centres
    image_of, tensor_of = open3d.t.geometry.Image, open3d.core.Tensor.from_numpy
    image, colour = image_of(depth[..., None].astype(np.float32)), image_of(geometry.colour.astype(np.float32) / 255)
    lens, pose = tensor_of(intrinsics), tensor_of(frame.cam_from_world)
    reach = (1.0, float(depth.max()) + 1.0, TRUNCATION_IN_VOXELS)  # unit of the depth, farthest depth, truncation
    blocks = grid.compute_unique_block_coordinates(image, lens, pose, *reach)
    grid.integrate(blocks, image, colour, lens, lens, pose, *reach)


def _ply(mesh: open3d.geometry.TriangleMesh, unit: str) -> bytes:
    """A binary PLY file of one mesh. unit: a comment; empty for a map's own unit."""
    vertices = np.empty(len(mesh.vertices), dtype=PLY_VERTEX)
    vertices["x"], vertices["y"], vertices["z"] = np.asarray(mesh.vertices).T
    vertices["nx"], vertices["ny"], vertices["nz"] = np.asarray(mesh.vertex_normals).T
    vertices["red"], vertices["green"], vertices["blue"] = np.round(np.asarray(mesh.vertex_colors) * 255).T
    faces = np.empty(len(mesh.triangles), dtype=PLY_FACE)
    faces["corners"], faces["vertices"] = 3, np.asarray(mesh.triangles)
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *([f"comment {unit}"] if unit else []),
        f"element vertex {len(vertices)}",
        *properties(PLY_VERTEX),
        f"element face {len(faces)}",
        "property list uchar uint vertex_indices",
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + vertices.tobytes() + faces.tobytes()


def _glb(mesh: open3d.geometry.TriangleMesh, unit: str) -> bytes:
    """A binary glTF 2.0 file of one mesh. Its colours are linear. unit: noted with the file."""
    positions = (np.asarray(mesh.vertices) * GLTF_FROM_WORLD).astype("<f4")
    normals = (np.asarray(mesh.vertex_normals) * GLTF_FROM_WORLD).astype("<f4")
    colours = linear(np.asarray(mesh.vertex_colors)).astype("<f4")
    indices = np.asarray(mesh.triangles).astype("<u4")
    parts = [array.tobytes() for array in (positions, normals, colours, indices)]
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(part), "target": TO_VERTICES}
        for start, part in zip(starts, parts, strict=True)
    ]
    views[3]["target"] = TO_INDICES
    of_vertices = {"componentType": FLOAT, "count": len(positions), "type": "VEC3"}
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "mode": TRIANGLES}
    text = {
        "asset": {"version": "2.0", "generator": "recon", "extras": {"unit": unit}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [
            {"bufferView": 0, **of_vertices, **bounds},
            {"bufferView": 1, **of_vertices},
            {"bufferView": 2, **of_vertices},
            {"bufferView": 3, "componentType": UNSIGNED_INT, "count": indices.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": sum(map(len, parts))}],
    }
    chunks = _glb_chunk(GLB_JSON, json.dumps(text).encode(), b" ") + _glb_chunk(GLB_BINARY, b"".join(parts), b"\0")
    return struct.pack("<III", GLB_MAGIC, GLB_VERSION, 12 + len(chunks)) + chunks


def _glb_chunk(kind: int, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<II", len(content), kind) + content


WRITERS: dict[str, Callable[[open3d.geometry.TriangleMesh, str], bytes]] = {".ply": _ply, ".glb": _glb}
