"""Several cameras fixed to each other, whose images of the same name are taken at the same time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from natsort import natsorted, ns

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.quantities import counted
from recon.core.similarity import Array
from recon.core.types import CAMERA_MODELS, PARAMETERS, Camera, Frame, Mount, PassedFrame, SkippedFrame
from recon.sources.base import Candidate, KeyframeChoice, SourceDescription, SourceOptions, at_least_one_frame
from recon.sources.calibration import Fault, Lens, Size, kalibr_lens, read_document, read_option_file
from recon.sources.decoding import UnreadableImage, upright_size
from recon.sources.images import ImageSource
from recon.sources.intrinsics import require_plausible
from recon.sources.keyframes import judges
from recon.sources.kinds import is_image
from recon.sources.originals import nothing
from recon.sources.shots import Shot, ShotSource

FORMATS = "COLMAP's rig_config.json and Kalibr's camchain YAML"
RIGID = 1e-3  # how far the product of a rotation with its transpose may be from the identity
DIGEST_BYTES = 8
FARTHEST = 1e6  # a camera from the rig, in the unit of the file
SAME_SHAPE = 0.01  # relative difference of the ratios of the sides


@dataclass(frozen=True, eq=False)
class RigCamera:
    """A camera in a rig file. prefix: of its images' paths below the folder of the rig. cam_from_rig: rigid (4, 4)."""

    prefix: str
    lens: Lens
    cam_from_rig: Array


def read_rig(path: Path, size_of: Callable[[str], Size]) -> tuple[RigCamera, ...]:
    """The cameras in a rig file. size_of: (width, height) of the images with a prefix.

    Raises SettingsError, which names the file and the field.
    """

    def cameras(text: str) -> tuple[RigCamera, ...]:
        is_list = text.lstrip().startswith("[")
        found = _colmap_rig(json.loads(text)) if is_list else _kalibr_rig(read_document(text), size_of)
        prefixes = [camera.prefix for camera in found]
        if len(set(prefixes)) < len(prefixes):
            raise Fault(f"several cameras have the prefix {max(prefixes, key=prefixes.count)}, but each needs its own")
        if any(np.abs(camera.cam_from_rig[:3, 3]).max() > FARTHEST for camera in found):
            raise Fault("a translation is too long to be that of a rig")
        if len(found) < 2:
            raise Fault(f"it has {counted(len(found), 'camera')}, and a rig needs two. Supported: {FORMATS}")
        return tuple(found)

    return read_option_file("--rig", path, cameras)


def _colmap_rig(rigs: Any) -> list[RigCamera]:
    if not (isinstance(rigs, list) and all(isinstance(rig, dict) for rig in rigs)):
        raise Fault(f"it is not a list of rigs. Supported: {FORMATS}")
    if len(rigs) != 1:
        raise Fault(f"it has {counted(len(rigs), 'rig')}, but one run takes one. Write each into a file of its own")
    cameras = rigs[0].get("cameras")
    if not (isinstance(cameras, list) and all(isinstance(camera, dict) for camera in cameras)):
        raise Fault('it has no list "cameras"')
    references = [camera for camera in cameras if camera.get("ref_sensor")]
    if len(references) != 1:
        raise Fault(f'"ref_sensor" is true for {counted(len(references), "camera")}; it must be for one')
    return [_colmap_camera(camera) for camera in cameras]


def _colmap_camera(fields: Mapping[str, Any]) -> RigCamera:
    prefix = fields.get("image_prefix")
    if not (isinstance(prefix, str) and prefix):
        raise Fault('a camera has no "image_prefix"')
    model = CAMERA_MODELS.get(str(fields.get("camera_model_name")))
    if model is None:
        raise Fault(
            f'the camera {prefix} needs its lens: "camera_model_name", one of {", ".join(CAMERA_MODELS)}, and '
            '"camera_params"'
        )
    params = _numbers(fields, "camera_params", PARAMETERS[model], prefix)
    if min(params[: 1 if model.startswith(("SIMPLE", "RADIAL")) else 2]) <= 0:
        raise Fault(f"the focal length of the camera {prefix} must be positive")
    pose = np.eye(4)
    if not fields.get("ref_sensor"):
        w, x, y, z = (value for value in _numbers(fields, "cam_from_rig_rotation", 4, prefix))
        length = float(np.linalg.norm([w, x, y, z]))
        if abs(length - 1) > RIGID:
            raise Fault(f"cam_from_rig_rotation of {prefix} must be a quaternion w, x, y, z of length 1")
        pose[:3, :3] = _rotation(np.array([w, x, y, z]) / length)
        pose[:3, 3] = _numbers(fields, "cam_from_rig_translation", 3, prefix)
    return RigCamera(prefix, Lens(model, params, None), pose)


def _rotation(quaternion: Array) -> Array:
    """The rotation (3, 3) of a quaternion w, x, y, z of length 1."""
    w, x, y, z = quaternion
    axis = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + 2 * (w * axis + axis @ axis))


def _kalibr_rig(document: Mapping[str, Any], size_of: Callable[[str], Size]) -> list[RigCamera]:
    """Kalibr's camchain: each camera has its transform from the one before, T_cn_cnm1."""
    cameras = list[RigCamera]()
    while f"cam{len(cameras)}" in document:
        name = f"cam{len(cameras)}"
        fields, prefix = document[name], f"{name}/"
        lens = kalibr_lens(fields, size_of(prefix), name)
        pose = _transform(fields, name) @ cameras[-1].cam_from_rig if cameras else np.eye(4)
        cameras.append(RigCamera(prefix, lens, pose))
    return cameras


def _transform(fields: Mapping[str, Any], name: str) -> Array:
    try:
        pose = np.array(fields["T_cn_cnm1"], dtype=np.float64)
    except KeyError:
        raise Fault(f"{name} has no T_cn_cnm1, its transform from the camera before") from None
    except (TypeError, ValueError):
        raise Fault(f"T_cn_cnm1 of {name} must be four rows of four numbers") from None
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or pose[3].tolist() != [0, 0, 0, 1]:
        raise Fault(f"T_cn_cnm1 of {name} must be four rows of four numbers")
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID or np.linalg.det(rotation) < 0:
        raise Fault(f"T_cn_cnm1 of {name} is not a rotation and a translation")
    return pose


def _numbers(fields: Mapping[str, Any], key: str, count: int, prefix: str) -> tuple[float, ...]:
    found = fields.get(key)
    try:
        numbers = tuple(float(value) for value in found) if isinstance(found, list) else ()
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise Fault(f"{key} of the camera {prefix} must be {count} numbers, got {found}")
    return numbers


class RigSource(ShotSource):
    """The images of a rig: files in a folder whose paths differ by the prefix of their camera alone.

    Shots that some camera lacks are left out, with a notice. Raises SettingsError if the rig file is at fault, if the
    options do not suit a rig, or if images differ in shape from what the file says; SourceError if no camera has
    images, or no shot is complete.
    """

    def __init__(self, spec: str, options: SourceOptions, images_folder: Path | None) -> None:
        assert options.rig
        if options.masks:
            raise SettingsError("--masks cannot be combined with --rig. Leave one of them out.")
        self._spec, root = spec, Path(spec).expanduser()
        if not root.is_dir():
            raise SourceError(f"{spec} is not a folder. With --rig, give the folder that holds those of the cameras.")
        paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if is_image_file(path)}
        cameras = read_rig(options.rig, lambda prefix: _first_size(_with_prefix(paths, prefix), prefix, spec))
        images = [_with_prefix(paths, camera.prefix) for camera in cameras]
        self._sizes = [_first_size(own, camera.prefix, spec) for own, camera in zip(images, cameras, strict=True)]
        names = natsorted(set[str]().union(*images), alg=ns.PATH | ns.IGNORECASE)
        complete = [name for name in names if all(name in own for own in images)]
        if not complete:
            raise SourceError(
                f"No image of {spec} has the same name for all cameras of {options.rig}, as those of a shot must have."
            )
        super().__init__(len(cameras), options, images_folder)
        prefixes = [PurePosixPath(camera.prefix).as_posix().replace("/", "_") for camera in cameras]
        fitted = [_fitted(camera, size, options.rig) for camera, size in zip(cameras, self._sizes, strict=True)]
        self._mounts = _mounts(cameras, fitted)
        self._inside = ImageSource(
            "folder",
            spec,
            [own[name] for name in complete for own in images],
            options,
            images_folder,
            views=len(cameras),
            called=[Path(f"{name.replace('/', '_')}_{prefix}") for name in complete for prefix in prefixes],
        )
        self._inside.keyframes = KeyframeChoice(select=False)
        self._read: dict[int, list[PassedFrame]] = {}  # by shot
        self._notes = _incomplete([name for name in names if name not in set(complete)])

    @cached_property
    def description(self) -> SourceDescription:
        sizes = tuple(dict.fromkeys(self._sizes))
        frames, lens = len(self._inside.selected), self._mounts[0].camera
        return SourceDescription("folder", frames, sizes, 0.0, lens, self._views, "shot")

    def file_of(self, index: int) -> Path | None:
        return self._inside.file_of(index)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        for shot in self.shots():
            if isinstance(shot, Shot):
                yield from shot.members()
            elif isinstance(shot, SkippedFrame):
                yield shot

    def shots(self) -> Iterator[Shot | SkippedFrame | Notice]:
        yield from map(Notice, self._notes)
        candidates = self._inside.candidates()
        while members := list(islice(candidates, self._views)):
            yield self._shot(members)

    def passed(self, shot: PassedFrame) -> Iterator[PassedFrame]:
        yield from self._read.pop(shot.index)

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        yield from at_least_one_frame(super().__iter__(), self._spec)

    def _shot(self, items: Sequence[Candidate | SkippedFrame]) -> Shot | SkippedFrame:
        members = list[Candidate]()
        for item, mount in zip(items, self._mounts, strict=True):
            if isinstance(item, SkippedFrame):
                return replace(item, reason=f"{item.reason}; the other images of its shot are left out, too")
            size = mount.camera.width, mount.camera.height
            if item.frame.original_size != size:
                raise SourceError(
                    "{} is {}x{} pixels, the first image of its camera {}x{}. All must have the same size.".format(
                        item.frame.name, *item.frame.original_size, *size
                    )
                )
            members.append(replace(item, frame=replace(item.frame, mount=mount, focal=0.0)))
        index, frames = members[0].frame.index // self._views, [member.frame for member in members]
        self._read[index] = [PassedFrame(frame.index, frame.timestamp, frame.name) for frame in frames]
        judge = next(frame for frame in frames if judges(frame))
        return Shot(replace(judge, index=index), nothing, members=lambda: members)


def is_image_file(path: Path) -> bool:
    """Whether a path is an image that is not hidden."""
    return not path.name.startswith(".") and path.is_file() and is_image(path)


def _with_prefix(paths: Mapping[str, Path], prefix: str) -> dict[str, Path]:
    """The images of a camera, by the rest of their paths without the suffix."""
    own = {name.removeprefix(prefix): path for name, path in sorted(paths.items()) if name.startswith(prefix)}
    return {PurePosixPath(name).with_suffix("").as_posix(): path for name, path in own.items() if name}


def _first_size(images: Mapping[str, Path], prefix: str, spec: str) -> Size:
    for _, path in sorted(images.items()):
        try:
            return upright_size(path)
        except UnreadableImage:  # reported when it is read
            continue
    raise SourceError(f"{spec} holds no images {prefix}*, as the file given to --rig says.")


def _fitted(camera: RigCamera, size: Size, path: Path) -> Camera:
    """The lens of a camera for its images of this size. Raises SettingsError if it was calibrated for another shape."""
    stated = camera.lens.size or size
    if abs(stated[0] * size[1] / (stated[1] * size[0]) - 1) > SAME_SHAPE:
        shapes = "{}x{}, but it was calibrated at {}x{}".format(*size, *stated)
        raise SettingsError(f"--rig: {path}: the images of {camera.prefix} are {shapes}. Give the images uncropped.")
    fitted = Camera(camera.lens.model, *stated, camera.lens.params).resized(*size)
    require_plausible(fitted, f"--rig: {path}: {camera.prefix}")
    return fitted


def _mounts(cameras: Sequence[RigCamera], fitted: Sequence[Camera]) -> list[Mount]:
    """The cameras of a rig, whose name tells it from others: a map may have frames of several, by ``--resume``."""
    poses = [camera.cam_from_rig for camera in cameras]
    content = repr([(lens, pose.tolist()) for lens, pose in zip(fitted, poses, strict=True)])
    name = f"rig {hashlib.blake2b(content.encode(), digest_size=DIGEST_BYTES).hexdigest()}"
    mounts = []
    for number, (lens, pose) in enumerate(zip(fitted, poses, strict=True)):
        x, y, z = pose[:3, 3].tolist()
        mounts.append(Mount(name, number, len(cameras), lens, tuple(pose[:3, :3].ravel().tolist()), (x, y, z)))
    return mounts


def _incomplete(names: Iterable[str]) -> list[str]:
    lacking = list(names)
    if not lacking:
        return []
    return [f"{counted(len(lacking), 'shot')} left out, as not every camera has it, the first {lacking[0]}."]
