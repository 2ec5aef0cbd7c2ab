"""A map of a model of another program: its poses and lenses stay, dense depth is computed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.core.cameras import colmap_camera
from recon.core.colmap_log import quiet
from recon.core.errors import SourceError
from recon.core.events import Listener, Progress
from recon.core.files import make_folder
from recon.core.similarity import Sim3
from recon.core.stopwatch import Stopwatch, peak_memory
from recon.core.types import ChunkGeometry, Frame, PlacedFrame, SparseModel, SparsePoints, Submap
from recon.depth.propagation import Propagated
from recon.depth.stages import open_depth_stage
from recon.depth.views import Depth, PosedView, frame_geometry, make_view
from recon.exports.outputs import write_outputs
from recon.folder import discard_map, require_empty
from recon.imports.models import PosedImage, read_model
from recon.mapping.folds import find_fold
from recon.settings import CloudSettings, DenseDepth, RunSettings
from recon.sfm.matching import Pair
from recon.sfm.quality import QUALITIES
from recon.sfm.triangulation import agreement, triangulate
from recon.sources.base import SourceOptions, working_image
from recon.sources.decoding import Photo, UnreadableImage, read_photo
from recon.sources.images import sortable_stems
from recon.sources.originals import link_original, write_original
from recon.store import report
from recon.store.lock import sole_writer
from recon.store.map import MapStore, images_folder, open_map
from recon.store.report import ChunkReport, RunReport, main_versions

IMPORTED = "import"  # as the front end of the report
SEES = 8  # points; an image with fewer has no depth of its own
MOST_BLIND = 0.5  # of the images
COMPARED = 12  # images of a model with points that are compared with the one that shares the most points
LEAST_AGREEMENT = 0.5  # of the matches between images; wrong poses and lenses reach some 20%
CONVENTIONS = (
    "They may be of other images, or of another convention: COLMAP's poses are world-to-camera, y down; those of "
    "transforms.json camera-to-world, y up."
)
MAX_MEAN_ERROR = 3.0  # px between points and their observations; poses with more are doubtful
HELPERS = 12  # images of the group before that support the depth of the next one


@quiet()
def import_model(
    source: Path,
    out: Path,
    tell: Listener = lambda event: None,
    *,
    images: Path | None = None,
    depth: DenseDepth = "filled",
) -> RunReport:
    """Make a map in the new folder ``out`` of a COLMAP model or a transforms.json; see ``read_model``.

    The world is that of the model. Where the model does not say which image sees which point, the points are
    triangulated anew. Nothing stays if that fails or is interrupted. Raises SourceError, also if the poses do not fit
    the images, and OutputError if ``out`` is not empty or cannot be written.
    """
    require_empty(out)
    model = read_model(source, images)
    watch = Stopwatch()
    with sole_writer(out, "import"), watch.running():
        try:
            tell(Progress("copying the images", 0, 0))
            placed = tuple(_kept(model.images, images_folder(out)))
            tell(Progress("comparing the poses with the images", 0, 0))
            points, agreed = _compared(out, placed, model.points)
            doubts = _require_fit(source, placed, points, agreed)
            chunks, placed = _write_depth(out, placed, points, depth, tell)
            MapStore(out).write_places(placed, (), points, complete=True)
            fold, _ = find_fold(open_map(out))
            doubts += (str(fold),) if fold else ()
        except BaseException:  # Ctrl-C as well
            discard_map(out)
            raise
        unwritten = write_outputs(out, CloudSettings(), tell)
        written = RunReport(
            source=str(source.resolve()),
            settings=RunSettings(depth=depth, front_end=IMPORTED),
            versions=main_versions(),
            frames_read=len(placed),
            frames_placed=len(placed),
            skipped=(),
            chunks=chunks,
            stages=watch.stages,
            seconds=watch.seconds,
            peak_memory_bytes=peak_memory(),
            notices=(),
            interrupted=False,
            unwritten=unwritten,
            suspicions=doubts,
            processor_seconds=watch.processor_seconds,
        )
        report.write(written, out / "report.json")
    return written


def _kept(images: Sequence[PosedImage], folder: Path) -> Iterator[PlacedFrame]:
    """The frames of a map; their images are linked or written into ``folder``."""
    make_folder(folder)
    for index, (image, stem) in enumerate(zip(images, sortable_stems([one.path for one in images]), strict=True)):
        photo = _photo(image.path)
        name = stem + (photo.upright_suffix or ".jpg")
        if photo.upright_suffix:
            link_original(image.path, folder / name)
        else:
            write_original(photo.pixels, folder / name)
        rotation = image.cam_from_world[:3, :3].T
        pose = Sim3(1.0, rotation, -rotation @ image.cam_from_world[:3, 3])
        yield PlacedFrame(index, float(index), name, image.camera, pose)


def _photo(path: Path) -> Photo:
    try:
        return read_photo(path)
    except UnreadableImage as error:
        raise SourceError(f"The image {path} cannot be read: {error}.") from error


def _frames(out: Path, placed: Sequence[PlacedFrame], size: int) -> Iterator[Frame]:
    """The frames with their images, at most ``size`` pixels long, one at a time."""
    for frame in placed:
        pixels = _photo(images_folder(out) / frame.name).pixels
        image = working_image(pixels, size)
        mask = np.ones(image.shape[:2], np.bool_)
        yield Frame(frame.index, frame.timestamp, image, frame.name, (pixels.shape[1], pixels.shape[0]), "", 0.0, mask)


def _compared(out: Path, placed: Sequence[PlacedFrame], points: SparsePoints) -> tuple[SparsePoints, float | None]:
    """The points, triangulated if there are none, and how far the images agree with the poses."""
    models = sorted({frame.camera.model for frame in placed})
    path = out / "map" / "features.db"
    make_folder(path.parent)
    if not len(points.positions):
        if len(models) > 1:
            raise SourceError(
                f"The model has no points, and lenses of several kinds: {', '.join(models)}. Give a COLMAP model."
            )
        frames = _frames(out, placed, SourceOptions().size)
        points, agreed = triangulate(path, frames, {frame.index: frame for frame in placed})
        return _coloured(out, placed, points), agreed
    alike = [frame for frame in placed if frame.camera.model == models[0]]
    pairs = _compared_pairs(points, {frame.index for frame in alike})
    if not pairs:
        return points, None
    used = [frame for frame in alike if any(frame.index in pair for pair in pairs)]
    by_index = {frame.index: frame for frame in used}
    return points, agreement(path, _frames(out, used, SourceOptions().size), by_index, pairs)


def _compared_pairs(points: SparsePoints, frames: set[int]) -> list[Pair]:
    """A spread of frames, each with the other that shares the most points with it."""
    seen = {index: points.point_ids[rows] for index, rows in points.rows_by_frame().items() if index in frames}
    chosen = sorted(seen)[:: len(seen) // COMPARED + 1]
    pairs = set[Pair]()
    for index in chosen:
        others = [(int(np.isin(seen[index], ids).sum()), other) for other, ids in seen.items() if other != index]
        if others:
            best = max(others)[1]
            pairs.add((min(index, best), max(index, best)))
    return sorted(pairs)


def _coloured(out: Path, placed: Sequence[PlacedFrame], points: SparsePoints) -> SparsePoints:
    """The points with the mean colours of the pixels that see them."""
    sums, rows = np.zeros((len(points.positions), 3)), points.rows_by_frame()
    for frame in _frames(out, placed, SourceOptions().size):
        own = rows.get(frame.index, np.zeros(0, np.int64))
        scale = frame.image.shape[1] / frame.original_size[0]
        columns, lines = np.clip(points.pixels[own] * scale, 0, np.array(frame.image.shape[1::-1]) - 1).astype(int).T
        np.add.at(sums, points.point_ids[own], frame.image[lines, columns])
    counts = np.bincount(points.point_ids, minlength=len(sums))[:, None]
    return replace(points, colours=np.round(sums / np.maximum(counts, 1)).astype(np.uint8))


def _require_fit(
    source: Path, placed: Sequence[PlacedFrame], points: SparsePoints, agreed: float | None
) -> tuple[str, ...]:
    """Why to doubt that the poses and lenses belong to the images. Raises SourceError if they do not.

    agreed: see ``recon.sfm.triangulation.agreement``.
    """
    if agreed is not None and agreed < LEAST_AGREEMENT:
        raise SourceError(
            f"The poses or lenses of {source} do not fit its images: {agreed:.0%} of the matches between images agree "
            f"with them. {CONVENTIONS}"
        )
    rows, errors, blind = points.rows_by_frame(), list[np.ndarray](), 0
    for frame in placed:
        own = rows.get(frame.index, np.zeros(0, np.int64))
        in_camera = (
            points.positions[points.point_ids[own]] @ frame.cam_from_world[:3, :3].T + frame.cam_from_world[:3, 3]
        )
        own, in_camera = own[in_camera[:, 2] > 0], in_camera[in_camera[:, 2] > 0]
        blind += len(own) < SEES
        if len(own):
            seen = np.asarray(colmap_camera(frame.camera).img_from_cam(in_camera))
            errors.append(np.linalg.norm(seen - points.pixels[own], axis=1))
    if blind > MOST_BLIND * len(placed):
        raise SourceError(
            f"The poses of {source} do not fit its images: {len(placed) - blind} of {len(placed)} see enough points "
            f"that agree. {CONVENTIONS}"
        )
    mean = float(np.concatenate(errors).mean())
    return (f"the points of the model miss their images by {mean:.1f} px on average",) if mean > MAX_MEAN_ERROR else ()


def _write_depth(
    out: Path, placed: Sequence[PlacedFrame], points: SparsePoints, kind: DenseDepth, tell: Listener
) -> tuple[tuple[ChunkReport, ...], tuple[PlacedFrame, ...]]:
    """Compute depth group by group and store it; returns a report of each, and the frames with the unit of their depth.

    The unit is the median depth of the points, so that half precision suffices.
    """
    unit, size, quality = _unit(placed, points), RunSettings().chunk, QUALITIES["normal"]
    own = open_depth_stage(kind, tell)
    stage = Propagated(own) if quality.propagates else own
    model = _in_units(placed, points, unit)
    store, helpers, chunks = MapStore(out), list[tuple[PosedView, Depth]](), list[ChunkReport]()
    watch = Stopwatch()
    for number, first in enumerate(range(0, len(placed), size)):
        group = placed[first : first + size]
        views = [make_view(frame, model, quality.depth_size) for frame in _frames(out, group, 2 * quality.depth_size)]
        solved = {view.index: depth for view, depth in helpers}
        depths = stage.depth([view for view, _ in helpers] + views, solved)[len(helpers) :]
        pairs = list(zip(views, depths, strict=True))
        frames = tuple(frame_geometry(view, depth, model.cameras[view.index]) for view, depth in pairs)
        geometry = ChunkGeometry(frames, SparsePoints.empty())
        submap = Submap(number, geometry, Sim3(unit, np.eye(3), np.zeros(3)), 0.0)
        store.write_submap(submap, {frame.index for frame in group})
        helpers = pairs[-HELPERS:]
        seconds = watch.seconds - sum(chunk.seconds for chunk in chunks)
        last = first + len(group) - 1
        chunks.append(ChunkReport(number, first, last, len(group), len(group), 0.0, seconds))
        tell(Progress("depth", last + 1, len(placed)))
    scaled = tuple(replace(one, world_from_cam=replace(one.world_from_cam, scale=unit)) for one in placed)
    return tuple(chunks), scaled


def _unit(placed: Sequence[PlacedFrame], points: SparsePoints) -> float:
    """The median depth of the points in the images that see them, in the world's unit."""
    poses = {frame.index: frame.cam_from_world for frame in placed}
    rows = points.rows_by_frame()
    depths = [
        points.positions[points.point_ids[own]] @ poses[index][2, :3] + poses[index][2, 3]
        for index, own in rows.items()
    ]
    found = np.concatenate(depths)
    return float(np.median(found[found > 0]))


def _in_units(placed: Sequence[PlacedFrame], points: SparsePoints, unit: float) -> SparseModel:
    """The model in another unit of length."""
    poses: Mapping[int, np.ndarray] = {frame.index: frame.cam_from_world for frame in placed}
    shrunk = {
        index: np.vstack([np.column_stack([pose[:3, :3], pose[:3, 3] / unit]), [0, 0, 0, 1]])
        for index, pose in poses.items()
    }
    cameras = {frame.index: frame.camera for frame in placed}
    return SparseModel(shrunk, cameras, replace(points, positions=points.positions / unit))
