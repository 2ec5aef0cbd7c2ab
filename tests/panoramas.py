"""Panoramas of a room with textured walls, exact and rendered at once; images and videos tagged as 360-degree."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.core.types import Image

Pose = tuple[Array, Array]  # rotation world_from_pano (3, 3), centre (3,)

HALF = np.array([3.0, 1.4, 2.5])  # of the room: x right, y down, z ahead
TEXELS = 480  # along each side of a wall
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" GPano:ProjectionType="equirectangular"/>
</rdf:RDF></x:xmpmeta>"""
SPHERICAL_ID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")  # of the box of Google's Spherical Video V1
SPHERICAL = b"""<rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/"><GSpherical:Spherical>true</GSpherical:Spherical>
<GSpherical:Stitched>true</GSpherical:Stitched><GSpherical:StitchingSoftware>a test</GSpherical:StitchingSoftware>
<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType></rdf:SphericalVideo>"""


@cache
def room_walls() -> Image:
    """Textures (6, TEXELS, TEXELS, 3): noise at several scales."""
    random = np.random.default_rng(0)
    walls = np.zeros((6, TEXELS, TEXELS, 3), np.float32)
    for cells in (8, 24, 60, 120):
        for number in range(6):
            noise = random.normal(size=(cells, cells, 3)).astype(np.float32)
            walls[number] += cv2.resize(noise, (TEXELS, TEXELS), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(128 + 32 * walls, 0, 255), dtype=np.uint8)


def seen(walls: Image, centre: Array, rays: Array) -> Image:
    """Colours (..., 3) of rays (..., 3) from a centre (3,) inside the room."""
    with np.errstate(divide="ignore"):
        lengths = (np.sign(rays) * HALF - centre) / rays
    axis = lengths.argmin(axis=-1)
    points = (centre + lengths.min(axis=-1)[..., None] * rays) / HALF  # in -1..1
    colours = np.zeros((*rays.shape[:-1], 3), np.uint8)
    for number in range(6):
        own = (axis == number // 2) & ((rays[..., number // 2] > 0) == number % 2)
        across = [one for one in range(3) if one != number // 2]
        u, v = ((points[own][:, across].astype(np.float32) + 1) / 2 * TEXELS - 0.5).T
        colours[own] = _looked_up(walls[number], u, v)
    return colours


def _looked_up(wall: Image, u: Array, v: Array) -> Image:
    """Colours (n, 3) of a wall, in rows that OpenCV can take."""
    padded = -len(u) % 1024 or 1024
    maps = [np.pad(one, (0, padded)).reshape(-1, 1024) for one in (u, v)]
    found = cv2.remap(wall, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 3)
    return np.asarray(found[: len(u)], dtype=np.uint8)


def walk(count: int) -> list[Pose]:
    """Poses of a walk through the room, turning and swaying."""
    poses = []
    for step in range(count):
        share = step / max(count - 1, 1)
        centre = np.array([-1.6 + 3.2 * share, 0.15 * np.sin(5 * share), -0.9 + 1.6 * np.sin(2.5 * share)])
        turn = Rotation.from_euler("yxz", [80 - 60 * share, 4 * np.sin(7 * share), 3 * np.cos(6 * share)], degrees=True)
        poses.append((turn.as_matrix(), centre))
    return poses


def panorama(walls: Image, pose: Pose, height: int) -> Image:
    """The equirectangular image (height, 2 height, 3) at a pose."""
    longitude = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height)[:, None] * np.pi
    flat = np.cos(latitude)
    rays = np.broadcast_arrays(flat * np.sin(longitude), -np.sin(latitude), flat * np.cos(longitude))
    return seen(walls, pose[1], np.stack(rays, axis=-1) @ pose[0].T)


def write_panoramas(folder: Path, poses: Iterable[Pose], height: int = 320, *, tagged: bool = True) -> Path:
    """Write ``pano_0.jpg`` and so on."""
    folder.mkdir(parents=True)
    walls = room_walls()
    for index, pose in enumerate(poses):
        image = PillowImage.fromarray(panorama(walls, pose, height))
        image.save(folder / f"pano_{index}.jpg", quality=95, **({"xmp": XMP} if tagged else {}))
    return folder


def write_film(path: Path, images: Iterable[Image], *, tagged: bool = True) -> Path:
    """Write a video of ten images a second, and what says that it is a 360-degree one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(images):
            if not number:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if tagged:
        _tag(path)
    return path


def _tag(path: Path) -> None:
    """Append a box to the track, which is in the index at the end of the file."""
    content = bytearray(path.read_bytes())
    box = struct.pack(">I4s", 24 + len(SPHERICAL), b"uuid") + SPHERICAL_ID + SPHERICAL
    moov = content.index(b"moov") - 4
    trak = content.index(b"trak", moov) - 4
    end = trak + struct.unpack_from(">I", content, trak)[0]
    for start in (moov, trak):
        struct.pack_into(">I", content, start, struct.unpack_from(">I", content, start)[0] + len(box))
    path.write_bytes(content[:end] + box + content[end:])
