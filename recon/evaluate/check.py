"""Opens the outputs of a run with the programs they are for, compares them with each other, and checks the map itself.

``repair_folder`` writes again what the map can rebuild.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pycolmap
from PIL import Image as PillowImage
from scipy.spatial import KDTree

from recon.core.cameras import reprojection_errors, rigid_matrix
from recon.core.colmap_log import quiet
from recon.core.errors import ReconError
from recon.core.quantities import counted
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.evaluate.proof import prove
from recon.exports import EXPORTS, Export, default_path, usd
from recon.exports.outputs import write_outputs
from recon.exports.ply import stated_unit
from recon.exports.readers import CheckError, read_model
from recon.exports.trajectory import rigid_trajectory, tum_poses
from recon.mapping.folds import find_fold
from recon.settings import CloudSettings
from recon.store import report
from recon.store.archive import load_arrays
from recon.store.journal import frames_of, read_journal
from recon.store.ledger import Ledger
from recon.store.legacy import AGAIN, REBUILD
from recon.store.lock import sole_writer
from recon.store.map import ReconstructedMap, open_map, places_path, submap_path
from recon.store.missing import why_no_map

QUATERNION_TOLERANCE = 1e-4
MAX_MEAN_ERROR = 3.0
POSE_TOLERANCE = 1e-5
MIN_SHARE_SEEN = 0.95
MAX_CLOUD_GAP = 0.03  # at most 0.022 in right maps; 0.036 where the depth is 20% off
CLOUD_SAMPLE = 200_000
VERIFY_SECONDS = 600
BLOCK = 1 << 20  # bytes

# Checks of the map, from which the others can be rebuilt, and of what every run writes from it.
ROOTS = {"files", "map", "images"}
REBUILT = {"cloud", "colmap", "reprojection", "poses", "convention", "cloud in cameras", "cloud on points", "colours"}

STATED = {"mesh": stated_unit, "usd": usd.stated_unit}
PINHOLE = default_path("colmap", undistort=True)
NO_POINTS = "The map has no sparse points to compare: a network made it, or the run was interrupted."


@dataclass(frozen=True)
class CheckItem:
    """One check: its name, whether it passed, and a sentence with the figures."""

    name: str
    ok: bool
    sentence: str


@dataclass(frozen=True)
class CheckReport:
    """All checks of one folder."""

    folder: Path
    items: tuple[CheckItem, ...]

    @property
    def ok(self) -> bool:
        return all(item.ok for item in self.items)


class _Outputs:
    """The files of a run, each opened by a third-party reader on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def cloud(self) -> Any:
        """The cloud as Open3D's PointCloud."""
        return self.read("ply")

    @cached_property
    def model(self) -> pycolmap.Reconstruction:
        return cast("pycolmap.Reconstruction", self.read("colmap"))

    @cached_property
    def trajectory(self) -> Array:
        """Rows (n, 8) of poses.txt."""
        return cast("Array", self.read("tum"))

    @cached_property
    def map(self) -> ReconstructedMap:
        return open_map(self.folder)

    @cached_property
    def map_has_points(self) -> bool:
        """Whether the map has sparse points; geometry from a network and interrupted runs have none."""
        return len(self.map.points.positions) > 0

    def cloud_sample(self) -> Array:
        """At most about CLOUD_SAMPLE points (points, 3), evenly from the whole cloud."""
        positions = np.asarray(self.cloud.points)
        if not len(positions):
            raise CheckError("Open3D reads no points from cloud.ply.")
        return positions[:: 1 + len(positions) // CLOUD_SAMPLE]

    def read(self, target: str) -> Any:
        """An export as its reader gives it."""
        return EXPORTS[target].read(self.folder / EXPORTS[target].path)


@quiet()
def check_folder(folder: Path) -> CheckReport:
    """Check ``cloud.ply``, ``colmap``, ``poses.txt`` and ``recording.rrd`` in the folder of a run.

    Files that ``recon export`` added there must open. A missing or broken file is a failed item; nothing is raised.
    """
    checks = (
        ("files", _check_files),
        ("map", _check_map),
        ("places", _check_places),
        ("journal", _check_journal),
        ("cloud", _check_cloud),
        ("colmap", _check_model),
        ("images", _check_images),
        ("reprojection", _check_reprojection),
        ("poses", _check_poses),
        ("convention", _check_convention),
        ("cloud in cameras", _check_cloud_in_cameras),
        ("cloud on points", _check_cloud_on_points),
        ("colours", _check_colours),
        ("recording", _check_recording),
        ("sanity", _check_sanity),
        ("folds", _check_folds),
    )
    outputs = _Outputs(folder)
    items = [_item(name, check, outputs) for name, check in checks]
    added = [(name, export) for name, export in EXPORTS.items() if not export.stage and (folder / export.path).exists()]
    items += [_item(name, partial(_check_added, name, export), outputs) for name, export in added]
    if (folder / PINHOLE).exists():
        items.append(_item("undistorted", _check_undistorted, outputs))
    if "nerfstudio" in dict(added):
        items.append(_item("nerfstudio colours", _check_nerfstudio_colours, outputs))
    return CheckReport(folder, tuple(items))


def repair_folder(checked: CheckReport) -> tuple[str, ...]:
    """Rebuild what failed, if the map is sound: the outputs of every run, with the default cloud; damaged places go.

    Returns a sentence for each output that cannot be written. Raises OutputError if ``checked.folder`` is in use or
    cannot be written.
    """
    failed = {item.name for item in checked.items if not item.ok}
    folder = checked.folder
    with sole_writer(folder, "repair"):
        if "places" in failed:
            places_path(folder).unlink()
        if failed & REBUILT and not failed & ROOTS:
            return write_outputs(folder, CloudSettings(), lambda _: None)
    return ()


def _check_added(name: str, export: Export, outputs: _Outputs) -> str:
    """Whether the format's reader opens the export, and whether it is of the map as it is now."""
    path = outputs.folder / export.path
    content, found = export.read(path), outputs.map
    if name == "kitti":
        _require_current(path, name, content[:, :3, 3], found.posed)
    elif name == "nerfstudio":
        placed = {f"images/{frame.name}": frame for frame in found.frames}
        centres = {row["file_path"]: np.array(row["transform_matrix"])[:3, 3] for row in content["frames"]}
        shared = [row for row in centres if row in placed]
        _require_current(path, name, [centres[row] for row in shared], [placed[row] for row in shared])
    elif name == "geojson" and content["features"][0]["properties"]["metric"] != str(found.metric):
        raise CheckError(f"{export.path} lies elsewhere in the world than the map. {_again(name)}")
    elif name in STATED and STATED[name](path) != str(found.metric or ""):
        raise CheckError(f"{export.path} is in another unit than the map. {_again(name)}")
    return f"{export.path} opens and is complete."


def _check_undistorted(outputs: _Outputs) -> str:
    """The same of the COLMAP model with pinhole images."""
    model = read_model(outputs.folder / PINHOLE)
    placed = {frame.name: frame for frame in outputs.map.frames}
    images = [image for image in model.images.values() if image.name in placed]
    centres = [image.projection_center() for image in images]
    _require_current(outputs.folder / PINHOLE, "colmap --undistort", centres, [placed[image.name] for image in images])
    return f"{PINHOLE} opens, with {counted(model.num_images(), 'image')}."


def _require_current(path: Path, target: str, centres: Sequence[Array], frames: Sequence[PlacedFrame]) -> None:
    """Raise CheckError unless exported camera centres (frames, 3) are those of the map."""
    expected = np.array([frame.world_from_cam.translation for frame in frames])
    tolerance = POSE_TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0)))
    if len(centres) != len(expected) or not np.allclose(centres, expected, rtol=0, atol=tolerance):
        raise CheckError(f"{path.name} is of another state of the map, such as before a scale. {_again(target)}")


def _again(target: str) -> str:
    return f"Delete it, and write it again with: recon export --to {target}"


def _check_sanity(outputs: _Outputs) -> str:
    """Whether the run found a reason to doubt its whole map; doubts of parts are said, too."""
    path = outputs.folder / "report.json"
    if not path.exists():
        return "There is no report.json to say whether the map is doubtful."
    found = report.read(path)
    if found.suspicions:
        raise CheckError("The map is doubtful: " + "; ".join(found.suspicions) + ".")
    parts = "; ".join(chunk.doubt for chunk in found.chunks if chunk.warnings)
    return "Nothing about the whole map is doubtful" + (f", but parts of it are: {parts}." if parts else ".")


def _check_folds(outputs: _Outputs) -> str:
    """Whether frames that the map lays upon one another show the same."""
    fold, compared = find_fold(outputs.map)
    if fold:
        raise CheckError(f"The map is doubtful: {fold}.")
    return f"The frames that lie upon one another show the same ({counted(compared, 'pair')} compared)."


def _check_files(outputs: _Outputs) -> str:
    """The files with arrays are those that the ledger names, byte for byte."""
    ledger = Ledger(outputs.folder)
    files, known = ledger.files().values(), 0
    if not files:
        raise CheckError(why_no_map(outputs.folder))
    for file in files:
        path = ledger.path.with_name(file.name)
        try:
            size, crc32 = _size_and_crc32(path)
        except OSError as error:
            raise CheckError(f"{path} cannot be read: {error.strerror}. {AGAIN}") from error
        if size != file.bytes:
            raise CheckError(f"{path} has {size} bytes, expected {file.bytes}. {AGAIN}")
        if file.crc32 is not None and crc32 != file.crc32:
            raise CheckError(f"{path} is damaged: its checksum is {crc32:08x}, expected {file.crc32:08x}. {AGAIN}")
        known += file.crc32 is not None
    without = len(files) - known
    also = f"; {without} are of an earlier version, which stored none" if without else ""
    return f"{known} files with depth and points have the checksums in the ledger{also}."


def _size_and_crc32(path: Path) -> tuple[int, int]:
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return size, crc32


def _check_map(outputs: _Outputs) -> str:
    """The map opens with all of its depth; lenses are possible, and depth, frames and points fit together."""
    found = outputs.map
    lenses = {frame.camera for frame in found.posed}
    bad = next((lens for lens in lenses if not np.isfinite(lens.params).all() or lens.matrix()[0, 0] <= 0), None)
    if bad:
        raise CheckError(f"The lens {bad} is impossible. {AGAIN}")
    seen = set[int]()
    for placed, geometry in found.geometry():
        if placed.index in seen:
            raise CheckError(f"Two submaps hold the depth of frame {placed.index} ({placed.name}). {AGAIN}")
        seen.add(placed.index)
        if not (np.isfinite(geometry.depth).all() and geometry.depth.min() >= 0):
            raise CheckError(f"The depth of frame {placed.index} ({placed.name}) is not finite and positive. {AGAIN}")
    _require_points(found)
    return f"The map opens, {len(seen)} of {len(found.frames)} frames with depth."


def _require_points(found: ReconstructedMap) -> None:
    """Raise CheckError for points that are not finite, or seen by frames that the map does not have."""
    points = found.points
    strangers = np.setdiff1d(points.frame_indices, [frame.index for frame in found.frames])
    if len(strangers):
        raise CheckError(f"Points of the map are seen by frame {strangers[0]}, which has no pose. {AGAIN}")
    if not (np.isfinite(points.positions).all() and np.isfinite(points.pixels).all()):
        raise CheckError(f"Not every point of the map is finite. {AGAIN}")


def _check_places(outputs: _Outputs) -> str:
    """The file that recon locate made can be read, if there is one."""
    path = places_path(outputs.folder)
    if not path.exists():
        return "There is no places.npz; recon locate makes it."
    try:
        return f"places.npz opens, with {len(load_arrays(path))} arrays."
    except ReconError as error:
        raise CheckError(f"{path} is damaged. Delete it: recon locate makes it again.") from error


def _check_journal(outputs: _Outputs) -> str:
    """The files that a resumed run needs can be read, if the run wrote any."""
    if not Ledger(outputs.folder).has("parts"):
        return "The map has no record of a run, so it cannot be resumed."
    chunks = read_journal(outputs.folder).finished
    submaps = [submap_path(outputs.folder, number) for number, chunk in enumerate(chunks) if chunk.placed]
    missing = next((path for path in submaps if not path.exists()), None)
    if missing:
        raise CheckError(f"{missing} is missing, with the depth of a chunk. {AGAIN}")
    _require_sound(outputs.folder / "map" / "features.db")
    return f"The journal opens, with {counted(len(frames_of(chunks)), 'frame')}."


def _require_sound(database: Path) -> None:
    """Raise CheckError for a damaged file of features; users may delete it."""
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT COUNT(*) FROM images")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            return  # on a read-only medium; the run cannot be resumed there anyway
        found = str(error)
    if found != "ok":
        raise CheckError(f"{database} is damaged ({found}), so the run cannot be resumed. {REBUILD}")


def _check_cloud(outputs: _Outputs) -> str:
    """Whether Open3D reads the cloud: finite points with colours."""
    positions = np.asarray(outputs.cloud.points)
    infinite = int((~np.isfinite(positions)).any(axis=1).sum())
    if not len(positions) or infinite:
        raise CheckError(f"Open3D reads {len(positions)} points from cloud.ply, {infinite} of them not finite.")
    unit, metric = stated_unit(outputs.folder / EXPORTS["ply"].path), outputs.map.metric
    if unit != str(metric or ""):
        raise CheckError("cloud.ply is in another unit than the map. Write it again with: recon export --to ply")
    if not outputs.cloud.has_colors():
        raise CheckError(f"Open3D reads {len(positions)} points from cloud.ply, but no colours.")
    return f"Open3D reads {len(positions)} finite points with colours."


def _check_model(outputs: _Outputs) -> str:
    """Whether COLMAP reads the model, with a pose for every image, and points."""
    model = outputs.model
    counts = f"{model.num_reg_images()} of {model.num_images()} images posed, {model.num_points3D()} points"
    lacks_points = outputs.map_has_points and not model.num_points3D()
    if not model.num_images() or model.num_reg_images() < model.num_images() or lacks_points:
        raise CheckError(f"COLMAP reads {counts}, expected poses for all and the map's points.")
    return f"COLMAP reads {counts}, {model.num_cameras()} camera{'s' if model.num_cameras() != 1 else ''}."


def _check_images(outputs: _Outputs) -> str:
    """Whether the image of every frame of the map is whole and has the size of its camera."""
    found = outputs.map
    for frame in found.frames:
        path = found.images / frame.name
        if not path.is_file():
            raise CheckError(f"The image {path} of the map is missing.")
        try:
            with PillowImage.open(path) as file:
                size = file.size
                file.load()
        except OSError as error:
            raise CheckError(f"The image {path} is damaged ({error}).") from error
        if size != (frame.camera.width, frame.camera.height):
            raise CheckError(f"{path} is {size[0]}x{size[1]}, its camera {frame.camera.width}x{frame.camera.height}.")
    return f"All {len(found.frames)} images are whole and have the size of their camera."


def _check_reprojection(outputs: _Outputs) -> str:
    """Whether the model's points project to where the images observed them."""
    if not outputs.map_has_points:
        return NO_POINTS
    errors = reprojection_errors(outputs.model)
    if not len(errors):
        raise CheckError("No point of the COLMAP model has an observation.")
    figures = f"mean {errors.mean():.2f}, median {np.median(errors):.2f} px over {len(errors)} observations"
    if not errors.mean() <= MAX_MEAN_ERROR:
        raise CheckError(f"Reprojection error {figures}, expected a mean of at most {MAX_MEAN_ERROR:g} px.")
    return f"Reprojection error {figures}."


def _check_poses(outputs: _Outputs) -> str:
    """Whether the trajectory has quaternions of length 1."""
    lengths = np.linalg.norm(outputs.trajectory[:, 4:], axis=1)
    worst = float(lengths[np.abs(lengths - 1).argmax()])
    if not abs(worst - 1) <= QUATERNION_TOLERANCE:
        raise CheckError(f"A quaternion of poses.txt has a length of {worst:.4f}, expected 1.")
    return f"poses.txt has {len(lengths)} poses, all with unit quaternions."


def _check_convention(outputs: _Outputs) -> str:
    """Whether poses.txt holds the poses of the COLMAP model, as camera-to-world."""
    images = sorted(outputs.model.images.items())
    world_from_cam = np.array([rigid_matrix(image.cam_from_world().inverse()) for _, image in images])
    reconstruction = outputs.map
    posed = reconstruction.posed
    if len(outputs.trajectory) != len(posed):
        raise CheckError(f"poses.txt has {len(outputs.trajectory)} rows, the map {len(posed)} frames with a pose.")
    names = {image.name for _, image in images}  # frames that were passed over are in poses.txt only
    poses = tum_poses(outputs.trajectory)[[frame.name in names for frame in posed]]
    if len(poses) != len(images):
        raise CheckError(f"poses.txt has {len(poses)} rows, the COLMAP model {len(images)} images.")
    tolerance = POSE_TOLERANCE * max(1.0, float(np.abs(world_from_cam).max()))
    of_map = rigid_trajectory(reconstruction).world_from_cam[[frame.name in names for frame in posed]]
    if np.allclose(poses, world_from_cam, rtol=0, atol=tolerance):
        if not np.allclose(poses, of_map, rtol=0, atol=tolerance):
            raise CheckError("poses.txt and the COLMAP model are of another state of the map, such as before a scale.")
        return f"poses.txt is camera-to-world and equals the {len(images)} COLMAP poses inverted."
    if np.allclose(poses, np.linalg.inv(world_from_cam), rtol=0, atol=tolerance):
        raise CheckError("poses.txt is world-to-camera, expected camera-to-world.")
    gap = float(np.abs(poses - world_from_cam).max())
    raise CheckError(f"poses.txt differs from the COLMAP poses by up to {gap:.3g}.")


def _check_cloud_in_cameras(outputs: _Outputs) -> str:
    """Whether points of the cloud lie in front of a camera and project into its image."""
    positions = outputs.cloud_sample()
    model = outputs.model
    seen = np.zeros(len(positions), dtype=bool)
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        unseen = np.flatnonzero(~seen)
        points_cam = image.cam_from_world() * positions[unseen]
        pixels = np.asarray(camera.img_from_cam(points_cam))
        inside = ((pixels >= 0) & (pixels <= (camera.width, camera.height))).all(axis=1) & (points_cam[:, 2] > 0)
        seen[unseen] = inside
    share = float(seen.mean())
    sentence = f"{share:.1%} of the cloud's points project into at least one image"
    if share < MIN_SHARE_SEEN:
        raise CheckError(f"{sentence}, expected {MIN_SHARE_SEEN:.0%}.")
    return f"{sentence}."


def _check_cloud_on_points(outputs: _Outputs) -> str:
    """Whether the cloud passes through the sparse points, so that its depth fits the cameras in place and scale."""
    if not outputs.map_has_points:
        return NO_POINTS
    cloud = outputs.cloud_sample()
    model = outputs.model
    points = [point for point in model.points3D.values() if point.track.length()]
    if not points:
        raise CheckError("No point of the COLMAP model has an observation.")
    positions = np.array([point.xyz for point in points])
    seen_from = [model.images[point.track.elements[0].image_id].projection_center() for point in points]
    gaps = KDTree(cloud).query(positions)[0] / np.linalg.norm(positions - seen_from, axis=1)
    sentence = f"Sparse points miss the cloud by {np.median(gaps):.2%} of their distance from the camera (median)"
    if not np.median(gaps) <= MAX_CLOUD_GAP:
        raise CheckError(f"{sentence}, expected at most {MAX_CLOUD_GAP:.0%}.")
    return f"{sentence}."


def _check_colours(outputs: _Outputs) -> str:
    """Whether the model's cameras, and the cloud, show what the images do."""
    return _proofs(outputs, "colmap", "ply")


def _check_nerfstudio_colours(outputs: _Outputs) -> str:
    """The same for the cameras and points of transforms.json."""
    return _proofs(outputs, "nerfstudio")


def _proofs(outputs: _Outputs, *targets: str) -> str:
    proofs = [prove(outputs.map, target, outputs.folder / EXPORTS[target].path) for target in targets]
    wrong = [str(proof) for proof in proofs if not proof.ok]
    if wrong:
        raise CheckError(" ".join(wrong))
    return " ".join(map(str, proofs))


def _check_recording(outputs: _Outputs) -> str:
    """Whether the Rerun program verifies the recording, if the run made one."""
    path = outputs.folder / "recording.rrd"
    if not path.exists():
        return "There is no recording; recon run writes one with --viewer record or live."
    command = [sys.executable, "-m", "rerun", "rrd", "verify", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=VERIFY_SECONDS, check=False)
    answer = " ".join((finished.stdout + finished.stderr).split())
    # rerun skips a file that is not a recording and still exits with 0
    if finished.returncode or "1 file verified" not in answer:
        raise CheckError(f"Rerun cannot verify recording.rrd: {answer}")
    return f"Rerun verifies recording.rrd, {path.stat().st_size / 1e6:.1f} MB."


def _item(name: str, check: Callable[[_Outputs], str], outputs: _Outputs) -> CheckItem:
    try:
        return CheckItem(name, True, check(outputs))
    except (CheckError, ReconError) as error:
        return CheckItem(name, False, str(error))
    except Exception as error:  # third-party readers may raise anything on a damaged file
        return CheckItem(name, False, f"Cannot be read, {type(error).__name__}: {error}")
