"""Makes a whole map consistent: matches more pairs, adjusts all poses jointly and places remaining frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
import pycolmap

from recon.core.cameras import colmap_camera, points_at_depth_one, reprojection_errors
from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.types import SparseModel, SparsePoints
from recon.mapping.centres import EFFICIENT_SCALE, centres_move
from recon.sfm.colmap_file import image_id
from recon.sfm.crops import fits_better, have_moved, look_cropped
from recon.sfm.database import MatchDatabase
from recon.sfm.hold import without_loose
from recon.sfm.lens_check import several_lenses
from recon.sfm.lens_table import FOCAL_RANGE
from recon.sfm.mapping import EFFORTS, NO_MODEL, pipeline_options, place, read_camera, read_model
from recon.sfm.matching import Pair
from recon.sfm.pairs import pairs_around
from recon.sfm.quality import QUALITIES
from recon.sfm.selection import select_features
from recon.sfm.verification import MAX_ERROR

GRID_PAIRS = 4000
LOOP_REACH = 3  # frames
CLEAR_INLIERS = 50
FULLY_ADJUSTED = 100  # frames; longer sequences have fewer features a frame
WINDOW_OBSERVATIONS = 50_000
MAX_DISAGREEMENT = np.radians(20)
MAX_DISTORTION = 1.0
TORN = 0.5  # largest share of fitting matches; at least 0.78 in right maps, at most 0.36 where a fold tears
ROUGHLY = 1e-4  # relative improvement of the cost below which the first round of a robust adjustment stops
ROUNDS, SETTLED = 5, 0.0005  # exact rounds; an adjustment ends early if fewer observations than this share change
MEDIAN_ERROR = 1.1774  # median distance of a normal distribution in the plane, in standard deviations
CONVERGED = 0.002  # share by which the error must fall for another round of a robust adjustment
CLEARLY = 0.8  # largest ratio of reprojection errors that justifies freer lenses without other evidence
APART = 0.98  # the same for a lens per frame if there are several lenses anyway

Adjusted = tuple[pycolmap.Reconstruction, pycolmap.DatabaseCache, pycolmap.IncrementalPipelineOptions]


def match_map(
    database: MatchDatabase, cam_from_world: Mapping[int, Array], loops: Sequence[Pair], *, misled: bool = False
) -> tuple[int, int]:
    """Match distant frames, ``loops`` first; returns how many pairs match clearly and how many of those are wrong.

    If the relative rotation of a pair contradicts the chain of poses by more than 20 degrees, the pair shows two places
    that only look alike; its matches are dropped because they would fold the map. With few matches the rotation is
    uncertain and a right pair may be dropped, which is harmless, so only pairs with CLEAR_INLIERS are counted.

    misled: what looks alike has misled a chunk; then the matches must fit the poses, too, and the map must not drift.
    """
    found = [*match_loops(database, loops), *match_far_pairs(database)]
    clear = {pair for pair in found if database.inliers(*pair) >= CLEAR_INLIERS}
    return len(clear), len(clear.intersection(drop_contradictions(database, cam_from_world, found, misled=misled)))


def refine_map(
    database: MatchDatabase, cam_from_world: Mapping[int, Array], features: int = QUALITIES["normal"].adjusted
) -> SparseModel:
    """Adjust all poses, lenses and points jointly, starting from ``cam_from_world`` (4, 4) by frame index.

    features: to use of a frame, of up to FULLY_ADJUSTED frames. The result is empty if a lens becomes impossible.
    """
    frames = database.frames
    observations = features * min(len(frames), FULLY_ADJUSTED)
    model, cache, options = _adjusted(database, frames, cam_from_world, observations, distortion=True, robust=True)
    if not plausible(model):
        return NO_MODEL
    if len(cam_from_world) < len(frames):
        add_frames(cache, options, model)
    return _held(database, read_model(model))


def _held(database: MatchDatabase, model: SparseModel) -> SparseModel:
    """``without_loose``, in which all frames of a shot hold each other."""
    held = {database.shots.of(index) for index in without_loose(database.shots.merged(model)).cam_from_model}
    kept = [index for index in model.cam_from_model if database.shots.of(index) in held]
    return model if len(kept) == len(model.cam_from_model) else model.restricted(kept, fewest=2)


@stage("chunk adjustment")
def adjust_model(database: MatchDatabase, cam_from_model: Mapping[int, Array], *, distortion: bool) -> SparseModel:
    """Adjust the poses, lenses and points of some frames jointly, starting from ``cam_from_model`` (4, 4).

    distortion: also adjust the lenses' distortion, which little parallax cannot separate from the focal length. The
    result is empty if the frames do not determine the lens, which then diverges. If only a lens per frame explains the
    frames, the database is changed to that.
    """
    frames = sorted(cam_from_model)
    model, *_ = _adjusted(database, frames, cam_from_model, WINDOW_OBSERVATIONS, distortion=distortion, robust=False)
    if not plausible(model):
        return NO_MODEL
    if len(model.cameras) > len(set(map(database.lenses.number_of, frames))):
        database.lenses.split(frames)
    return read_model(model)


def plausible(model: pycolmap.Reconstruction) -> bool:
    """Whether all lenses are physically possible."""
    return not any(camera.has_bogus_params(*FOCAL_RANGE, MAX_DISTORTION) for camera in model.cameras.values())


@dataclass(frozen=True)
class Freedom:
    """Lens parameters to adjust besides the focal lengths. apart: every frame has its own lens."""

    distortion: bool
    principal_points: bool = False
    apart: bool = False


def _adjusted(
    database: MatchDatabase,
    frames: list[int],
    cam_from_world: Mapping[int, Array],
    observations: int,
    *,
    distortion: bool,
    robust: bool,
) -> Adjusted:
    """``_adjusted_once``, with freer lenses if they make the map clearly better. robust: see ``_refine``."""
    usual = Freedom(distortion)
    adjust = partial(_adjusted_once, database, frames, cam_from_world, observations, robust=robust)
    if look_cropped(database, sorted(cam_from_world)):
        freed = adjust(freedom=replace(usual, principal_points=True))
        if not plausible(freed[0]):
            return adjust(freedom=usual)
        if have_moved(database, frames):
            return freed
        centred = adjust(freedom=usual)
        return freed if fits_better(freed[0], centred[0], CLEARLY) else centred
    shared = adjust(freedom=usual)
    several = several_lenses(database)
    if (several or database.lenses.may_differ) and len(set(map(database.lenses.number_of, frames))) < len(frames):
        apart = adjust(freedom=replace(usual, apart=True))
        if plausible(apart[0]) and fits_better(apart[0], shared[0], APART if several else CLEARLY):
            return apart
    return _with_moving_centres(adjust, usual, shared) if robust and not database.lenses.fixed() else shared


def _with_moving_centres(adjust: Callable[..., Adjusted], usual: Freedom, shared: Adjusted) -> Adjusted:
    """``shared``, or an adjustment with a principal point for every frame if that is clearly better."""
    model = read_model(shared[0])
    views = ((index, model.cameras[index], pose) for index, pose in model.cam_from_model.items())
    if not centres_move(views, model.points):
        return shared
    freed = adjust(freedom=replace(usual, principal_points=True, apart=True))
    return freed if plausible(freed[0]) and fits_better(freed[0], shared[0], CLEARLY) else shared


def _adjusted_once(
    database: MatchDatabase,
    frames: list[int],
    cam_from_world: Mapping[int, Array],
    observations: int,
    *,
    robust: bool,
    freedom: Freedom,
) -> Adjusted:
    """A model triangulated and adjusted from the frames with known poses, with its cache and options."""
    cache = database.reduced_cache(select_features(database, frames, observations), apart=freedom.apart)
    options = pipeline_options(EFFORTS[2], database.pixel_scale(frames))
    options.ba_refine_focal_length, options.ba_refine_extra_params = True, freedom.distortion
    options.ba_refine_principal_point = freedom.principal_points
    options.constant_cameras = database.lenses.fixed()
    model = pycolmap.Reconstruction()
    model.load(cache)
    place(model, dict(cam_from_world))
    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(model)
    for index in sorted(cam_from_world):
        mapper.triangulate_image(options.get_triangulation(), image_id(index))
    _refine(mapper, options, database.pixel_scale(frames), robust=robust)
    mapper.end_reconstruction(False)
    return model, cache, options


def _refine(
    mapper: pycolmap.IncrementalMapper, options: pycolmap.IncrementalPipelineOptions, pixel: float, *, robust: bool
) -> None:
    """Adjust the mapper's model jointly.

    robust: wrong matches on repeated structure pass the pixel threshold, so their influence must not grow with their
    error. A first, rough round shows how exact the observations are; the loss of the others is Cauchy's with a scale of
    EFFICIENT_SCALE standard deviations of the errors, at most ``pixel``. A stretch that hangs on few points moves a
    little in each round, so the rounds end only when the error hardly falls.
    """
    adjustment = options.get_global_bundle_adjustment()
    ceres = adjustment.ceres

    def adjust(rounds: int) -> None:
        mapper.iterative_global_refinement(
            rounds, SETTLED, options.get_mapper(), adjustment, options.get_triangulation(), False
        )

    if not robust:
        adjust(ROUNDS)
        return
    exact = ceres.solver_options.function_tolerance
    ceres.loss_function_type, ceres.loss_function_scale = pycolmap.LossFunctionType.CAUCHY, pixel
    ceres.solver_options.function_tolerance = ROUGHLY
    adjust(1)
    ceres.solver_options.function_tolerance = exact
    error = deviation(reprojection_errors(mapper.reconstruction))
    ceres.loss_function_scale = min(pixel, EFFICIENT_SCALE * error)
    for _ in range(ROUNDS):
        adjust(1)
        before, error = error, deviation(reprojection_errors(mapper.reconstruction))
        if error > (1 - CONVERGED) * before:
            break


def deviation(errors: Array) -> float:
    """Standard deviation [px] of one coordinate, by the median of the reprojection errors (n,); infinite if n is 0."""
    return float(np.median(errors)) / MEDIAN_ERROR if len(errors) else math.inf


def add_frames(
    cache: pycolmap.DatabaseCache, options: pycolmap.IncrementalPipelineOptions, model: pycolmap.Reconstruction
) -> None:
    """Register the frames that no chunk could place against the whole map."""
    pipeline = pycolmap.IncrementalPipeline(options, cache, pycolmap.ReconstructionManager())
    mapper = pycolmap.IncrementalMapper(cache)
    pipeline.reconstruct_sub_model(mapper, options.get_mapper(), model)
    mapper.end_reconstruction(False)


def match_loops(database: MatchDatabase, loops: Sequence[Pair]) -> list[Pair]:
    """Match the frames of loops and at most PAIRS_AROUND pairs around them; returns the new verified pairs.

    The grid of far pairs is coarse in a long sequence and can miss a loop, which the adjustment would then reopen.
    """
    frames = database.frames
    places = {index: place for place, index in enumerate(frames)}
    known = [(places[first], places[second]) for first, second in loops]
    near = pairs_around(known, LOOP_REACH * database.shots.views, len(frames))
    return [(frames[a], frames[b]) for a, b in _match_new(database, [*known, *near], glance=False)]


def match_far_pairs(database: MatchDatabase) -> list[Pair]:
    """Match a grid of pairs of frames, and more pairs around those that match; returns the new verified pairs.

    The grid has about GRID_PAIRS pairs: of all frames in a short sequence, of every n-th in a long one. Between its
    lines, at most PAIRS_AROUND more pairs are matched, evenly spread.
    """
    frames = database.frames
    stride = max(1, math.ceil(len(frames) / math.sqrt(2 * GRID_PAIRS)))
    found = _match_new(database, combinations(range(0, len(frames), stride), 2))
    more = _match_new(database, pairs_around(found, stride // 2, len(frames)))
    return [(frames[a], frames[b]) for a, b in sorted({*found, *more})]


def _match_new(database: MatchDatabase, places: Iterable[Pair], *, glance: bool = True) -> list[Pair]:
    """Match pairs of places in the sequence; returns the new verified ones."""
    frames = database.frames
    new = [(a, b) for a, b in places if not database.matched((frames[a], frames[b]))]
    database.match([(frames[a], frames[b]) for a, b in new], glance=glance, tracked=frames)
    return [(a, b) for a, b in new if database.inliers(frames[a], frames[b])]


def drop_contradictions(
    database: MatchDatabase, cam_from_world: Mapping[int, Array], pairs: Iterable[Pair], *, misled: bool = False
) -> list[Pair]:
    """Drop the pairs whose relative rotation contradicts the poses; returns them. misled: see ``match_map``."""
    known = [pair for pair in pairs if cam_from_world.keys() >= set(pair)]
    cameras = {index: read_camera(database.lenses[index]) for pair in known for index in pair} if misled else {}
    model = SparseModel(dict(cam_from_world), cameras, SparsePoints.empty())
    dropped = []
    for first, second in known:
        by_chain = cam_from_world[second][:3, :3] @ cam_from_world[first][:3, :3].T
        by_matches = database.relative_rotation(first, second)
        turned = by_matches is None or rotation_angle(by_matches @ by_chain.T) > MAX_DISAGREEMENT
        if turned or (misled and fitting(database, model, (first, second)) < TORN):
            database.forget((first, second))
            dropped.append((first, second))
    return dropped


def torn_neighbours(database: MatchDatabase, model: SparseModel) -> list[Pair]:
    """Frames that follow each other and match clearly, although the poses contradict most of their matches.

    Between two places that look alike, the mapper may follow wrong matches rather than those to the next frame. It says
    nothing about photos in no order, whose neighbours may match wrongly.
    """
    following = database.shots.window(sorted(model.cam_from_model), (1,), same=True)
    return [
        pair for pair in following if database.inliers(*pair) >= CLEAR_INLIERS and fitting(database, model, pair) < TORN
    ]


def fitting(database: MatchDatabase, model: SparseModel, pair: Pair) -> float:
    """Share of the verified matches of a pair that fit its poses: near the epipolar line, by Sampson's error, and in
    front of both cameras unless they have no parallax.
    """
    rows, rays = database.verified_matches(pair), list[Array]()
    for index, own in zip(pair, rows.T, strict=True):
        plane = points_at_depth_one(colmap_camera(model.cameras[index]), database.positions(index)[own])
        rays.append(np.column_stack([plane, np.ones(len(plane))]))
    second_from_first = model.cam_from_model[pair[1]] @ np.linalg.inv(model.cam_from_model[pair[0]])
    rotation, step = second_from_first[:3, :3], second_from_first[:3, 3]
    first, second = rays[0] @ rotation.T, rays[1]  # both along the second camera's axes
    lines = np.cross(step, first), np.cross(second, step)
    slopes = np.sqrt((lines[0][:, :2] ** 2).sum(axis=1) + ((lines[1] @ rotation)[:, :2] ** 2).sum(axis=1))
    focal, largest = model.cameras[pair[0]].matrix()[0, 0], MAX_ERROR * database.pixel_scale(pair)
    near_line = focal * np.abs((second * lines[0]).sum(axis=1)) < largest * slopes
    across = np.cross(first, second)
    ahead = ((lines[1] * across).sum(axis=1) > 0) & ((lines[0] * across).sum(axis=1) < 0)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    distant = focal * np.linalg.norm(across, axis=1) < largest * lengths
    return float((near_line & (ahead | distant)).mean())


def rotation_angle(rotation: Array) -> float:
    """Angle [rad] of a rotation matrix (3, 3)."""
    return float(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
