"""Incremental mapping of a set of frames, from known poses or from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pycolmap

from recon.core.cameras import rigid_matrix
from recon.core.rigs import spread
from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.types import CAMERA_MODELS, Camera, SparseModel, SparsePoints
from recon.mapping.alignment import fit_similarity
from recon.sfm.colmap_file import image_id
from recon.sfm.database import MatchDatabase
from recon.sfm.lens_table import FOCAL_RANGE
from recon.sfm.selection import select_features

# More features slow mapping down in proportion without making it more accurate.
MAPPED_OBSERVATIONS, MAPPED_PER_FRAME = 40_000, 500
NO_MODEL = SparseModel({}, {}, SparsePoints.empty())


@dataclass(frozen=True)
class Effort:
    """How strict the mapper is. Later, more lenient efforts are tried only if earlier ones fail.

    initial_angle: triangulation angle of the first two frames [degrees]. initial_inliers: required matches of the first
    pair. registration_inliers, registration_ratio: required matches of a frame to add, and their share of inliers.
    refine_lens: False for little parallax, which does not determine the focal length. point_angle: smallest
    triangulation angle of a point [degrees].
    """

    name: str
    initial_angle: float
    initial_inliers: int
    registration_inliers: int = 30
    registration_ratio: float = 0.25
    refine_lens: bool = True
    point_angle: float = 1.5


EFFORTS = (
    Effort("usual parallax", 16, 100),
    Effort("small parallax", 8, 80),
    Effort("very small parallax", 4, 50, 15, 0.15, refine_lens=False, point_angle=0.75),
    Effort("next to no parallax", 1.5, 25, 12, 0.1, refine_lens=False, point_angle=0.3),
)


@stage("mapping")
def map_frames(database: MatchDatabase, frames: list[int], known: dict[int, Array], effort: Effort) -> SparseModel:
    """Place as many of ``frames`` as possible.

    known: cam_from_model (4, 4) of frames with fixed poses; without any, the model starts from the best pair of frames,
    in an arbitrary coordinate frame and unit. The result omits frames that do not fit.
    """
    observations = max(MAPPED_OBSERVATIONS, MAPPED_PER_FRAME * len(frames))
    cache = database.reduced_cache(select_features(database, frames, observations, fewest_pairs=1))
    options = pipeline_options(effort, database.pixel_scale(frames))
    options.constant_cameras = database.lenses.fixed() | database.lenses.rare(frames)
    if known:
        # The known poses were estimated with the present lens; another lens would bend the map at the seam.
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
    options.fix_existing_frames = True
    start = known or database.shots.to_begin_with(frames, database.inliers)
    if not start and database.shots.within(frames):  # nothing would tell the scale of the rig
        return NO_MODEL
    model = pycolmap.Reconstruction()
    model.load(cache)
    if start:
        place(model, start)
        mapper = pycolmap.IncrementalMapper(cache)
        mapper.begin_reconstruction(model)
        for index in start:
            mapper.triangulate_image(options.get_triangulation(), image_id(index))
        mapper.end_reconstruction(False)
    pipeline = pycolmap.IncrementalPipeline(options, cache, pycolmap.ReconstructionManager())
    mapper = pycolmap.IncrementalMapper(cache)
    status = pipeline.reconstruct_sub_model(mapper, options.get_mapper(), model)
    if status in (
        pycolmap.IncrementalPipelineStatus.NO_INITIAL_PAIR,
        pycolmap.IncrementalPipelineStatus.BAD_INITIAL_PAIR,
    ):
        mapper.end_reconstruction(True)
        return NO_MODEL
    mapper.end_reconstruction(False)
    undo_normalisation(model, known)
    if not known and len(start) > 1:
        restore_scale(model, start)
    return read_model(model)


def undo_normalisation(model: pycolmap.Reconstruction, known: dict[int, Array]) -> None:
    """Transform a model back into the coordinate frame of its known poses.

    COLMAP shifts and scales every finished model, even if existing frames are fixed. Fewer than three known frames, or
    frames all in one place, do not determine the transform; then the model stays in COLMAP's coordinate frame.
    """
    kept = {index: pose for index, pose in known.items() if model.image(image_id(index)).has_pose}
    found = np.array([model.image(image_id(index)).projection_center() for index in kept])
    wanted = np.array([np.linalg.inv(pose)[:3, 3] for pose in kept.values()])
    try:
        known_from_model = fit_similarity(found, wanted, np.ones(len(kept)))
    except ValueError:
        return
    model.transform(pycolmap.Sim3d(known_from_model.matrix()[:3]))


def restore_scale(model: pycolmap.Reconstruction, start: dict[int, Array]) -> None:
    """Give a model back the unit of the shot of a rig (4, 4) by frame from which it was made."""
    images = [model.image(image_id(index)) for index in start]
    found = np.array([image.projection_center() for image in images if image.has_pose])
    wanted = np.array([np.linalg.inv(pose)[:3, 3] for pose in start.values()])
    if len(found) == len(wanted):
        model.transform(pycolmap.Sim3d(spread(wanted) / spread(found), pycolmap.Rotation3d(), np.zeros(3)))


def pipeline_options(effort: Effort, pixel_scale: float) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options for an effort; thresholds in pixels are multiplied by ``pixel_scale``."""
    options = pycolmap.IncrementalPipelineOptions(random_seed=0, extract_colors=False, min_model_size=3)
    # Several threads add up in another order in every run, and the decisions that follow differ.
    options.num_threads = 1
    options.multiple_models = False
    # Placing a frame by its matches alone takes COLMAP 20 s if most are wrong, as on a repeated pattern.
    options.structure_less_registration_fallback = False
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.3
    options.ba_global_max_refinements = 2
    # COLMAP's default of 0 spends most of the time without effect.
    options.ba_local_function_tolerance = options.ba_global_function_tolerance = 1e-6
    options.ba_refine_focal_length = options.ba_refine_extra_params = effort.refine_lens
    options.ba_refine_sensor_from_rig = False
    options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RANGE
    mapper, triangulation = options.mapper, options.triangulation
    mapper.abs_pose_refine_focal_length = mapper.abs_pose_refine_extra_params = False
    mapper.init_min_tri_angle = effort.initial_angle
    # With COLMAP's 12 pixels, frames after a weak link can collapse to another scale.
    mapper.abs_pose_max_error = 4.0
    mapper.filter_min_tri_angle = triangulation.min_angle = effort.point_angle
    mapper.init_min_num_inliers = effort.initial_inliers
    mapper.abs_pose_min_num_inliers = effort.registration_inliers
    mapper.abs_pose_min_inlier_ratio = effort.registration_ratio
    for threshold in ("init_max_error", "abs_pose_max_error", "filter_max_reproj_error"):
        setattr(mapper, threshold, getattr(mapper, threshold) * pixel_scale)
    for threshold in ("merge_max_reproj_error", "complete_max_reproj_error"):
        setattr(triangulation, threshold, getattr(triangulation, threshold) * pixel_scale)
    return options


def place(model: pycolmap.Reconstruction, cam_from_model: dict[int, Array]) -> None:
    """Set and register the poses of some frames of a model; the first of a shot gives the pose of its rig."""
    for index, pose in cam_from_model.items():
        image = model.image(image_id(index))
        shot = model.frame(image.frame_id)
        if not shot.has_pose():
            shot.set_cam_from_world(image.camera_id, pycolmap.Rigid3d(pose[:3]))
            model.register_frame(shot.frame_id)


def read_model(model: pycolmap.Reconstruction) -> SparseModel:
    """Poses, lenses and points of a pycolmap reconstruction."""
    registered = [image for image in model.images.values() if image.has_pose]
    cameras = {camera_id: read_camera(camera) for camera_id, camera in model.cameras.items()}
    return SparseModel(
        cam_from_model={image.image_id - 1: rigid_matrix(image.cam_from_world()) for image in registered},
        cameras={image.image_id - 1: cameras[image.camera_id] for image in registered},
        points=_read_points(model, registered),
    )


def read_camera(camera: pycolmap.Camera) -> Camera:
    """The lens of a pycolmap camera."""
    return Camera(
        CAMERA_MODELS[camera.model.name], camera.width, camera.height, tuple(float(value) for value in camera.params)
    )


def _read_points(model: pycolmap.Reconstruction, images: Iterable[pycolmap.Image]) -> SparsePoints:
    ids = sorted(model.points3D)
    if not ids:
        return SparsePoints.empty()
    row = {point_id: number for number, point_id in enumerate(ids)}
    observations = [
        (row[point.point3D_id], image.image_id - 1, *point.xy)
        for image in images
        for point in image.get_observation_points2D()
    ]
    table = np.array(observations, dtype=np.float64).reshape(-1, 4)
    return SparsePoints(
        positions=np.array([model.points3D[point_id].xyz for point_id in ids]),
        colours=np.full((len(ids), 3), 128, dtype=np.uint8),
        point_ids=table[:, 0].astype(np.int64),
        frame_indices=table[:, 1].astype(np.int64),
        pixels=table[:, 2:].copy(),
    )
