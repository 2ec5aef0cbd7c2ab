"""The map as a scene of OpenUSD, in plain text: the cloud as points, and one camera that moves from frame to frame.

https://openusd.org/release/api/class_usd_geom_camera.html defines the camera: it looks along its negative z axis, and y
is up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError, OutputError
from recon.core.files import write_atomically
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.exports.ply import linear, mapped_vertices, write_ply
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

BATCH_POINTS = 100_000
LONGEST_HEADER = 4096  # bytes
FRAMES_A_SECOND = 24
OPENCV_FROM_USD = np.diag([1.0, -1.0, -1.0, 1.0])  # axes of a camera
STAGE_FROM_WORLD = np.diag([1.0, -1.0, -1.0, 1.0])  # y up, from the axes of the first camera
FILM = 0.36  # width of the sensor: 36 mm, in tenths of a scene's unit of 1 m
NEAREST, FARTHEST = 0.01, 100.0  # clipping planes, in distances of the cloud's extent


def write_usd(reconstruction: ReconstructedMap, path: Path, settings: CloudSettings | None = None) -> None:
    """Write the points of ``write_ply`` and the cameras of all placed frames as ``.usda``.

    The unit of the scene is that of the map. z is up in a map whose axes point east, north and up; else y is, with the
    first camera upright. Frame n of the map, from 0, is at time n. Lens distortion is left out, which USD has no word
    for. Raises as ``write_ply``, and OutputError for another suffix than .usda.
    """
    if path.suffix.lower() != ".usda":
        raise OutputError(f"A USD file in plain text ends in .usda, got {path}. Use --out {path.with_suffix('.usda')}.")
    cloud = path.with_name(path.name + ".ply")
    try:
        write_ply(reconstruction, cloud, settings)
        vertices = mapped_vertices(cloud)
        if not len(vertices):
            raise MapError(f"The map has no depth, so there are no points for {path}.")
        write_atomically(path, lambda file: _write(file, reconstruction, vertices))
    finally:
        cloud.unlink(missing_ok=True)


def stated_unit(path: Path) -> str:
    """What a file says of its unit: as ``str(Metric)``, empty for the map's own. Raises OSError."""
    with path.open("rb") as file:
        found = re.search(rb'string unit = "([^"]*)"', file.read(LONGEST_HEADER))
    return found[1].decode() if found else ""


def _write(file: IO[bytes], reconstruction: ReconstructedMap, vertices: NDArray[np.void]) -> None:
    metric, frames = reconstruction.metric, reconstruction.frames
    is_level = metric is not None and metric.origin is not None
    low, high = _bounds(vertices)
    extent = float(np.linalg.norm(high - low)) or 1.0
    stage = np.eye(4) if is_level else STAGE_FROM_WORLD
    lines = [
        "#usda 1.0",
        "(",
        '    defaultPrim = "Map"',
        f'    customLayerData = {{ string generator = "recon"; string unit = "{metric or ""}" }}',
        "    metersPerUnit = 1",
        f'    upAxis = "{"Z" if is_level else "Y"}"',
        "    startTimeCode = 0",
        f"    endTimeCode = {len(frames) - 1}",
        f"    timeCodesPerSecond = {FRAMES_A_SECOND}",
        ")",
        "",
        'def Xform "Map"',
        "{",
        f"    matrix4d xformOp:transform = {_matrix(stage)}",
        '    uniform token[] xformOpOrder = ["xformOp:transform"]',
        "",
        *_camera(frames, extent),
        "",
        '    def Points "Cloud"',
        "    {",
        f"        float3[] extent = [{_row(low)}, {_row(high)}]",
        f"        float[] widths = [{_width(vertices, extent):.6g}] (",
        '            interpolation = "constant"',
        "        )",
        "        point3f[] points = [",
    ]
    file.write("\n".join(lines).encode())
    _write_rows(file, vertices, _positions)
    file.write(b"\n        ]\n        color3f[] primvars:displayColor = [")
    _write_rows(file, vertices, _linear_colours)
    file.write(b'\n        ] (\n            interpolation = "vertex"\n        )\n    }\n}\n')


def _camera(frames: Sequence[PlacedFrame], extent: float) -> list[str]:
    """The lines of the camera, with a sample of everything for each frame."""
    poses = [frame.cam_from_world for frame in frames]
    lenses = np.array([_sensor(frame) for frame in frames])
    names = ("focalLength", "verticalAperture", "horizontalApertureOffset", "verticalApertureOffset")
    lines = [
        '    def Camera "Camera"',
        "    {",
        f"        float2 clippingRange = ({NEAREST * extent:.6g}, {FARTHEST * extent:.6g})",
        f"        float horizontalAperture = {FILM:g}",
    ]
    for name, column in zip(names, lenses.T, strict=True):
        lines += _samples(f"float {name}", (f"{value:.9g}" for value in column))
    lines += _samples("string recon:image", (f'"{_escaped(frame.name)}"' for frame in frames), custom=True)
    lines += _samples(
        "matrix4d xformOp:transform", (_matrix(np.asarray(np.linalg.inv(pose) @ OPENCV_FROM_USD)) for pose in poses)
    )
    return [*lines, '        uniform token[] xformOpOrder = ["xformOp:transform"]', "    }"]


def _sensor(frame: PlacedFrame) -> tuple[float, float, float, float]:
    """Focal length and height of the sensor, and how far its centre lies to the right of and above the lens's axis."""
    lens = frame.camera
    (fx, _, cx), (_, fy, cy), _ = lens.matrix().tolist()
    focal, height = FILM * fx / lens.width, FILM * fx / fy * lens.height / lens.width
    return focal, height, (0.5 - cx / lens.width) * FILM, (cy / lens.height - 0.5) * height


def _samples(name: str, values: Iterable[str], *, custom: bool = False) -> list[str]:
    rows = (f"            {time}: {value}," for time, value in enumerate(values))
    return [f"        {'custom ' if custom else ''}{name}.timeSamples = {{", *rows, "        }"]


def _matrix(matrix: Array) -> str:
    """A transform (4, 4) of columns as USD writes it, for rows."""
    return f"( {', '.join(_row(column, '.12g') for column in matrix.T)} )"


def _row(values: Array, form: str = ".7g") -> str:
    return f"({', '.join(format(value, form) for value in values.tolist())})"


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _batches(vertices: NDArray[np.void]) -> Iterator[NDArray[np.void]]:
    return (vertices[start : start + BATCH_POINTS] for start in range(0, len(vertices), BATCH_POINTS))


def _bounds(vertices: NDArray[np.void]) -> tuple[Array, Array]:
    both = [(points.min(axis=0), points.max(axis=0)) for points in map(_positions, _batches(vertices))]
    return np.min([low for low, _ in both], axis=0), np.max([high for _, high in both], axis=0)


def _positions(vertices: NDArray[np.void]) -> Array:
    return np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)


def _linear_colours(vertices: NDArray[np.void]) -> Array:
    """Colours (n, 3) in 0..1, linear as USD has them."""
    encoded = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1) / 255.0
    return linear(encoded)


def _width(vertices: NDArray[np.void], extent: float) -> float:
    """The diameter of a point, by which the cloud nearly closes: its points lie on surfaces."""
    return extent / float(np.sqrt(len(vertices))) / 2


def _write_rows(file: IO[bytes], vertices: NDArray[np.void], rows_of: Callable[[NDArray[np.void]], Array]) -> None:
    separator = "\n            "
    for batch in _batches(vertices):
        for x, y, z in rows_of(batch).tolist():
            file.write(f"{separator}({x:.7g}, {y:.7g}, {z:.7g})".encode())
            separator = ",\n            "
