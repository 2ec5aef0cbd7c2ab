"""Exports that prove themselves: what they show must look like the images, and only if it is read as documented.

Cameras: the depth and colours of a frame, seen by the exported camera of that frame, are compared with its image; depth
that is wrong does not matter there, half a pixel does. Points: the exported points, seen by the exported cameras, or by
those of the map if the format has none. Both are repeated with readings that are wrong in one way each (axes, inverse,
half a pixel). Unless the right reading is clearly the best, the export does not follow its convention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.cameras import colmap_camera
from recon.core.colmap_log import quiet
from recon.core.errors import MapError
from recon.core.projection import points_in_camera
from recon.core.quantities import counted
from recon.core.similarity import Array
from recon.core.sizes import scaled
from recon.core.types import FrameGeometry
from recon.evaluate.exported import READERS, ExportedPoints, ExportedView, colmap_projection, own_views
from recon.exports.readers import CheckError
from recon.store.map import ReconstructedMap

VIEWS = 12
MOST_POINTS = 200_000
GRID = 160  # longest side of the compared pictures [px], at most that of the depth
IN_CELL, BEHIND = 4, 1.05  # points in a cell, where the nearest hides those that are so many times as far away
SOFTNESS = 0.4  # px of the depth: blur of its colours
ALIKE = 0.1 * 255  # difference of a colour that agrees
MOSTLY = 0.9  # of the pixels of a frame must agree with its image
TELLING = 0.05  # of the right reading's squared error: a wrong one that changes the picture by less says nothing
CLEAR = 0.25  # of the squared change that a wrong reading makes: its squared error must be larger by more
HALF = 0.5  # of the points that a wrong reading must leave in the images
NOISE = 1.0  # least squared error that counts
SAME_PLACE = 0.01  # m between a camera and its place in a file


@dataclass(frozen=True, eq=False)
class Reading:
    """A way to read an export. camera: changes cam_from_world (4, 4). world: (3, 3) turns the points.

    shift: added to pixels. channels: order of the colours. own: the map's pose and lens in place of the exported ones;
    they show the same if the export is right, and the image fits them better if it is not.
    """

    name: str
    camera: Callable[[Array], Array] = lambda pose: pose
    world: Array | None = None
    shift: float = 0.0
    channels: tuple[int, int, int] = (0, 1, 2)
    own: bool = False


def _transposed(pose: Array) -> Array:
    """The same camera centre with the inverse rotation."""
    turned = np.eye(4)
    turned[:3, :3] = pose[:3, :3].T
    turned[:3, 3] = -turned[:3, :3] @ np.linalg.inv(pose)[:3, 3]
    return turned


def _rolled(pose: Array) -> Array:
    """The quaternion's w, x, y, z taken for x, y, z, w."""
    rolled = pose.copy()
    rolled[:3, :3] = Rotation.from_quat(np.roll(Rotation.from_matrix(pose[:3, :3]).as_quat(), 1)).as_matrix()
    return rolled


RIGHT = Reading("as documented")
WRONG_CAMERAS = (
    Reading("OpenGL axes", lambda pose: np.diag([1.0, -1.0, -1.0, 1.0]) @ pose),
    Reading("mirrored images", lambda pose: np.diag([-1.0, 1.0, 1.0, 1.0]) @ pose),
    Reading("images upside down", lambda pose: np.diag([-1.0, -1.0, 1.0, 1.0]) @ pose),
    Reading("inverted poses", lambda pose: np.asarray(np.linalg.inv(pose))),
    Reading("transposed rotations", _transposed),
    Reading("another order of quaternions", _rolled),
    Reading("half a pixel less", shift=-0.5),
    Reading("half a pixel more", shift=0.5),
    Reading("the cameras of the map", own=True),
)
WRONG_POINTS = (
    Reading("y and z turned round", world=np.diag([1.0, -1.0, -1.0])),
    Reading("x mirrored", world=np.diag([-1.0, 1.0, 1.0])),
    Reading("y and z exchanged", world=np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])),
    Reading("z up for y up", world=np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])),
    Reading("blue before red", channels=(2, 1, 0)),
)


@dataclass(frozen=True)
class Figure:
    """How well the right reading fits the images. error: mean squared difference of the colours, in steps of 255.

    covered: share of the pixels that a point covers. agreeing: share of these with about the image's colour.
    """

    error: float
    covered: float
    agreeing: float

    def __str__(self) -> str:
        return (
            f"{decibels(self.error):.1f} dB over {self.covered:.0%} of the pixels, {self.agreeing:.0%} of these alike"
        )


@dataclass(frozen=True)
class Rival:
    """How well a wrong reading fits the pixels that it sees as well. right: the error of the right one there.

    change: mean squared difference between what the two show. If the right reading's errors are independent of it, the
    wrong one's are larger by all of it; if the wrong reading is the true one, they are smaller by all of it.
    """

    error: float
    right: float
    change: float

    @property
    def is_telling(self) -> bool:
        return self.change > TELLING * max(self.right, NOISE)

    @property
    def is_beaten(self) -> bool:
        return self.error - self.right > CLEAR * self.change


def decibels(error: float) -> float:
    """The peak signal-to-noise ratio of a mean squared error in steps of 255."""
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@dataclass(frozen=True)
class Comparison:
    """The right reading of ``what`` beside wrong ones by name. least: share of the pixels that has to agree."""

    what: str
    right: Figure
    wrong: dict[str, Rival]
    least: float = 0.0

    @property
    def telling(self) -> dict[str, Rival]:
        """The wrong readings that would show other pictures."""
        return {name: one for name, one in self.wrong.items() if one.is_telling}

    @property
    def ok(self) -> bool:
        rivals = self.telling.values()
        beaten = bool(rivals) and all(one.is_beaten for one in rivals)
        return beaten and self.right.covered > 0 and self.right.agreeing >= self.least

    @property
    def sentence(self) -> str:
        """The figures, with the best of the wrong readings."""
        if not self.right.covered:
            return f"{self.what}: nothing is seen."
        said = f"{self.what}: {self.right}"
        if not self.telling:
            return f"{said}; the pictures are too plain to tell."
        name = min(self.telling, key=lambda one: (self.telling[one].is_beaten, self.telling[one].error))
        said = f"{said}; with {name}, {decibels(self.telling[name].error):.1f} dB"
        short = f"; {self.least:.0%} must be alike" if self.right.agreeing < self.least else ""
        return f"{said}{short}."


@dataclass(frozen=True)
class Proof:
    """What a check of an export found. program: what has read it. sentences: one for each comparison."""

    target: str
    program: str
    ok: bool
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "follows its convention" if self.ok else "does NOT follow its convention"
        return f"{self.target} {verdict} (read by {self.program}). {' '.join(self.sentences)}"


@quiet()
def prove(reconstruction: ReconstructedMap, target: str, path: Path) -> Proof:
    """Read an export of a map back, and compare what its cameras or points show with the images.

    target: the format. path: what ``recon.exports.export`` wrote. Raises SettingsError for a format without a check,
    CheckError for an export that is damaged or of another map, and MapError for a map without depth or images.
    """
    exported = READERS.known(target)(reconstruction, path)
    if exported.path is not None:
        return _proof_of_path(target, exported.program, exported.path, reconstruction)
    views = _spread(exported.views or own_views(reconstruction))
    looks = [_Look.of(views[frame.index], geometry) for frame, geometry in reconstruction.geometry(views)]
    if not sum(len(look.surface.positions) for look in looks):
        raise MapError(f"The map in {reconstruction.folder} has no depth, so nothing can be compared with the images.")
    comparisons = []
    if exported.views:
        surfaces = [(look, look.surface) for look in looks]
        comparisons.append(_compared(f"{len(looks)} cameras", surfaces, WRONG_CAMERAS, MOSTLY))
    if exported.points:
        points = _thinned(exported.points)
        comparisons.append(
            _compared(f"points in {len(looks)} cameras", [(look, points) for look in looks], WRONG_POINTS)
        )
    ok = all(one.ok for one in comparisons)
    return Proof(target, exported.program, ok, tuple(one.sentence for one in comparisons))


def _spread(views: Sequence[ExportedView]) -> dict[int, ExportedView]:
    """At most VIEWS of the views, from first to last, by the index of their frames."""
    rows = np.unique(np.linspace(0, len(views) - 1, VIEWS).round().astype(int))
    return {views[row].frame.index: views[row] for row in rows}


def _proof_of_path(target: str, program: str, places: Array, reconstruction: ReconstructedMap) -> Proof:
    centres = np.array([frame.world_from_cam.translation for frame in reconstruction.posed])
    gap = float(np.linalg.norm(places - centres, axis=1).max())
    sentence = f"{counted(len(places), 'place')}, at most {gap:.3g} m from the cameras."
    return Proof(target, program, gap <= SAME_PLACE, (sentence,))


@dataclass(frozen=True, eq=False)
class _Look:
    """What a camera should see. image: (h, w, 3) RGB, as soft as the colours of the depth.

    grid: (width, height) of the picture that is compared. surface: the frame's own depth as coloured points of the
    world.
    """

    view: ExportedView
    image: NDArray[np.uint8]
    grid: NDArray[np.int64]
    surface: ExportedPoints

    @classmethod
    def of(cls, view: ExportedView, geometry: FrameGeometry) -> _Look:
        """Raises CheckError for an image that cannot be read."""
        stored = cv2.imread(str(view.image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if stored is None:
            raise CheckError(f"OpenCV cannot read the image {view.image}.")
        longest = max(geometry.depth.shape)
        step = max(1, longest // GRID)
        pixel = max(stored.shape) / longest
        soft = cv2.GaussianBlur(stored[..., ::-1], (0, 0), SOFTNESS * pixel) if pixel > 1 else stored[..., ::-1]
        rows, columns = np.nonzero(geometry.depth[::step, ::step])
        rows, columns = rows * step, columns * step
        positions = view.frame.world_from_cam.apply(points_in_camera(geometry, rows, columns))
        surface = ExportedPoints(positions, geometry.colour[rows, columns].astype(np.float64))
        grid = scaled((stored.shape[1], stored.shape[0]), min(GRID, longest))
        return cls(view, np.asarray(soft, dtype=np.uint8), np.array(grid), surface)

    @property
    def size(self) -> Array:
        """(width, height) of the image."""
        return np.array(self.image.shape[1::-1])

    @property
    def cells(self) -> int:
        """The number of pixels of the picture."""
        return int(self.grid.prod())

    def pixels(self, positions: Array, reading: Reading) -> tuple[Array, Array]:
        """Where points (n, 3) of the world lie in the image (n, 2), NaN if far outside, and their depth (n,)."""
        frame = self.view.frame
        pose = frame.cam_from_world if reading.own else reading.camera(self.view.cam_from_world)
        project = colmap_projection(colmap_camera(frame.camera)) if reading.own else self.view.project
        points = positions if reading.world is None else positions @ reading.world.T
        in_camera = points @ pose[:3, :3].T + pose[:3, 3]
        found = np.full((len(points), 2), np.nan)
        ahead = in_camera[:, 2] > 0
        if ahead.any():
            found[ahead] = project(in_camera[ahead]) + reading.shift
        found[~((found > -1) & (found < self.size + 1)).all(axis=1)] = np.nan
        return found, in_camera[:, 2]

    def colours(self, pixels: Array) -> Array:
        """Colours (n, 3) of the image between its pixels (n, 2); the mean colour outside."""
        x, y = np.nan_to_num(pixels - 0.5, nan=-9.0).astype(np.float32).T
        width = 1 << 10  # OpenCV's limit for a side is 1 << 15
        padding = width - len(x) % width  # never empty
        maps = [np.pad(axis, (0, padding)).reshape(-1, width) for axis in (x, y)]
        found = cv2.remap(self.image, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        colours = found.reshape(-1, 3)[: len(x)].astype(np.float64)
        colours[x < -2] = self.image.mean(axis=(0, 1))
        return np.asarray(colours)


def _compared(
    what: str, seen: Sequence[tuple[_Look, ExportedPoints]], wrong: Sequence[Reading], least: float = 0.0
) -> Comparison:
    """Points as the cameras see them, by the right reading and by wrong ones."""
    pictures = [_Picture.of(look, points) for look, points in seen]
    stated = np.concatenate([one.points.colours for one in pictures])
    shown = np.concatenate([one.look.colours(one.pixels) for one in pictures])
    covered = len(stated) / sum(one.look.cells for one in pictures)
    if not len(stated):
        return Comparison(what, Figure(np.inf, 0.0, 0.0), {}, least)
    rivals = {reading.name: _rival(reading, pictures, stated, shown) for reading in wrong}
    agreeing = float((np.abs(stated - shown).max(axis=1) < ALIKE).mean())
    return Comparison(what, Figure(_squared(stated - shown), covered, agreeing), rivals, least)


def _rival(reading: Reading, pictures: Sequence[_Picture], stated: Array, shown: Array) -> Rival:
    """A wrong reading of the points with the colours ``stated``, where the right one has the images' colours ``shown``.

    If it leaves fewer than half of the points in the images, the others are compared with the images' mean colours.
    """
    places = [one.look.pixels(one.points.positions, reading)[0] for one in pictures]
    found = np.concatenate([one.look.colours(place) for one, place in zip(pictures, places, strict=True)])
    seen = np.asarray(np.isfinite(np.concatenate(places)).all(axis=1))
    if seen.mean() < HALF:
        seen[:] = True
    before, after = (stated - shown)[seen], (stated[:, reading.channels] - found)[seen]
    return Rival(_squared(after), _squared(before), _squared(after - before))


def _squared(difference: Array) -> float:
    return float((difference**2).mean())


@dataclass(frozen=True, eq=False)
class _Picture:
    """The points that a camera sees, one in a pixel at most. pixels: (n, 2), where the right reading has them."""

    look: _Look
    points: ExportedPoints
    pixels: Array

    @classmethod
    def of(cls, look: _Look, points: ExportedPoints) -> _Picture:
        pixels, depth = look.pixels(points.positions, RIGHT)
        rows = _nearest(pixels, depth, look)
        return cls(look, ExportedPoints(points.positions[rows], points.colours[rows]), pixels[rows])


def _nearest(pixels: Array, depth: Array, look: _Look) -> NDArray[np.int64]:
    """The rows of the nearest point in each pixel of a picture, unless points around hide it."""
    shown = np.flatnonzero(((pixels >= 0) & (pixels < look.size)).all(axis=1))
    if not len(shown):
        return shown
    places, z = pixels[shown] * look.grid / look.size, depth[shown]
    coarse = _cells(places, max(1.0, float(np.sqrt(IN_CELL * look.cells / len(shown)))))
    nearest = np.full(coarse.max() + 1, np.inf)
    np.minimum.at(nearest, coarse, z)
    kept = z <= BEHIND * nearest[coarse]
    shown, fine, z = shown[kept], _cells(places[kept], 1.0), z[kept]
    order = np.lexsort((z, fine))
    first = np.r_[True, np.diff(fine[order]) > 0]
    return np.asarray(shown[order[first]])


def _cells(places: Array, side: float) -> NDArray[np.int64]:
    """The number (n,) of the square cell in which each place (n, 2) of a picture lies."""
    columns, rows = (places / side).astype(np.int64).T
    return np.asarray(rows * (GRID + 1) + columns)


def _thinned(points: ExportedPoints) -> ExportedPoints:
    finite = np.flatnonzero(np.isfinite(points.positions).all(axis=1))
    kept = finite[:: 1 + len(finite) // MOST_POINTS]
    return ExportedPoints(points.positions[kept], points.colours[kept])
