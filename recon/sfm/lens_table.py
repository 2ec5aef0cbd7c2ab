"""The lens of every frame, in COLMAP's database."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pycolmap

from recon.core.errors import OutputError
from recon.core.types import Camera, CameraModel, Frame
from recon.sfm.colmap_file import image_id, lone_frame, lone_rig
from recon.sources.base import Cameras

DEFAULT_FOCAL = 0.85  # in longest sides: phones, webcams and depth cameras have 0.7 to 1; COLMAP assumes 1.2
FISHEYE_FOCAL = 0.5  # in longest sides: about 115 degrees from side to side
FOCAL_RANGE = (0.25, 4.0)  # in longest sides, from fisheye to a phone's tele lens
ENOUGH_IMAGES = 8  # that determine a lens while the map grows


@dataclass(frozen=True)
class LensState:
    """Parameters of all lenses by number, whether each is better than a guess, and the lens of each frame."""

    lenses: Mapping[int, tuple[list[float], bool]]
    lens_of: Mapping[int, int]


class LensTable:
    """Lenses by number, and which frame has which.

    database: an open file; the caller sets it again after reopening that. frames: by index, without pixels; they may
    grow. model: of lenses that nobody calibrated. known: the calibrated lens of all frames, never changed. sharing:
    which frames may share a lens. may_differ: whether some pairs say that frames of one kind have several lenses.
    """

    def __init__(
        self,
        database: pycolmap.Database,
        frames: Mapping[int, Frame],
        model: CameraModel,
        known: Camera | None,
        sharing: Cameras,
    ) -> None:
        self.database = database
        self.sharing: Cameras = "one" if known else sharing
        self.may_differ = False
        self._frames = frames
        self._model = model
        self._known = known
        self._numbers: dict[int, int] = {}
        self._usual: dict[str, int] = {}  # for new frames, by kind
        self._chosen: set[int] = set()

    @property
    def by_frame(self) -> dict[int, int]:
        """The number of the lens of every frame."""
        return dict(self._numbers)

    def number_of(self, frame_index: int) -> int:
        """The number of the lens of a frame."""
        return self._numbers[frame_index]

    def __len__(self) -> int:
        """The number of lenses that frames have."""
        return len(set(self._numbers.values()))

    def __getitem__(self, frame_index: int) -> pycolmap.Camera:
        """The lens of a frame."""
        return self.database.read_camera(self._numbers[frame_index])

    def __contains__(self, frame_index: int) -> bool:
        return frame_index in self._numbers

    def numbered(self, numbers: Iterable[int]) -> dict[int, pycolmap.Camera]:
        """Lenses by their numbers."""
        return {number: self.database.read_camera(number) for number in numbers}

    def kind(self, frame_index: int) -> str:
        """The lens according to the source; frames of different kinds never share one."""
        frame = self._frames[frame_index]
        if frame.mount:
            return f"{frame.mount.rig} {frame.mount.number}"
        match self.sharing:
            case "one":
                return "{}x{}".format(*frame.original_size)
            case "per-image":
                return str(frame_index)
            case _:
                return frame.lens

    def assign(self, frame_index: int) -> int:
        """Give a new frame the lens of the latest frame of its kind, or a new one; returns its number."""
        kind = self.kind(frame_index)
        if kind not in self._usual:
            self._usual[kind] = self.add(frame_index)
        self._numbers[frame_index] = self._usual[kind]
        return self._usual[kind]

    def adopt(self, frame_index: int) -> None:
        """Note the lens that an earlier run gave a frame."""
        number = self.database.read_image(image_id(frame_index)).camera_id
        self._numbers[frame_index] = self._usual[self.kind(frame_index)] = number

    def add(self, frame_index: int) -> int:
        """Create a lens from what is known about a frame; returns its number."""
        camera = self._new_camera(self._frames[frame_index])
        return self._write_rig(camera, self.database.write_camera(camera))

    def use(self, numbers: Mapping[int, int]) -> None:
        """Assign lenses to frames. numbers: by frame index."""
        for index, number in numbers.items():
            if self._numbers[index] == number:
                continue
            image = self.database.read_image(image_id(index))
            image.camera_id = number
            self.database.update_frame(lone_frame(image))
            self.database.update_image(image)
            self._numbers[index] = self._usual[self.kind(index)] = number

    def split(self, frame_indices: Iterable[int]) -> None:
        """Give every frame its own lens, with its present focal length."""
        for index in frame_indices:
            focal, number = self[index].mean_focal_length(), self.add(index)
            self.set_focal(number, focal)
            self.use({index: number})

    def update(self, cameras: Mapping[int, Camera]) -> None:
        """Store the estimated lens of each frame index, so that the next chunk starts from it."""
        for frame_index, camera in cameras.items():
            lens = self[frame_index]
            lens.params, lens.has_prior_focal_length = camera.params, True
            self.database.update_camera(lens)

    def set_focal(self, number: int, focal: float) -> None:
        """Set the focal length [px] of a lens and mark it as estimated."""
        lens = self.database.read_camera(number)
        for row in lens.focal_length_idxs():
            lens.params[row] = focal
        lens.has_prior_focal_length = True
        self.database.update_camera(lens)
        self._chosen.add(number)

    def forget_focals(self, frame_indices: Iterable[int]) -> bool:
        """Replace the focal lengths that EXIF gives for some frames by guesses; returns whether it gave any."""
        if self._known is not None:
            return False
        given = {self._numbers[index]: self._frames[index] for index in frame_indices if self._frames[index].focal > 0}
        for number, frame in given.items():
            lens = self._new_camera(replace(frame, focal=0.0))
            lens.camera_id = number
            self.database.update_camera(lens)
        return bool(given)

    def calibrate(self, path: Path) -> None:
        """Estimate the unknown focal lengths from the epipolar geometry of all pairs in the file. Raises
        OutputError."""
        options = pycolmap.ViewGraphCalibrationOptions(random_seed=0, reestimate_relative_pose=False)
        options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RANGE
        if not all(camera.has_prior_focal_length for camera in self.database.read_all_cameras()):
            _require_space(path)
            pycolmap.calibrate_view_graph(path, options)

    def fixed(self) -> set[int]:
        """Numbers of the lenses that are known: the user calibrated them, or they are those of a rig."""
        return {number for index, number in self._numbers.items() if self._known or self._frames[index].mount}

    def rare(self, frame_indices: Iterable[int]) -> set[int]:
        """Numbers of lenses with a set focal length and few frames, too few for a growing map to refine them."""
        counts = Counter(self._numbers[index] for index in frame_indices)
        return {number for number, count in counts.items() if count < ENOUGH_IMAGES and number in self._chosen}

    @property
    def state(self) -> LensState:
        """The present lenses, for ``restore``."""
        found = self.database.read_all_cameras()
        lenses = {camera.camera_id: (camera.params.tolist(), camera.has_prior_focal_length) for camera in found}
        return LensState(lenses, self.by_frame)

    def restore(self, state: LensState) -> None:
        """Return to earlier lenses."""
        owners = {number: index for index, number in state.lens_of.items()}
        for number, (params, estimated) in state.lenses.items():
            if not self.database.exists_camera(number):  # deleted when no frame used it
                if number not in owners:
                    continue
                camera = self._new_camera(self._frames[owners[number]])
                camera.camera_id = number
                self._write_rig(camera, self.database.write_camera(camera, use_camera_id=True))
            lens = self.database.read_camera(number)
            lens.params, lens.has_prior_focal_length = params, estimated
            self.database.update_camera(lens)
        self.use(state.lens_of)

    def _write_rig(self, camera: pycolmap.Camera, number: int) -> int:
        """Write the rig of a stored camera."""
        camera.camera_id = number
        self.database.write_rig(lone_rig(camera), use_rig_id=True)
        return number

    def _new_camera(self, frame: Frame) -> pycolmap.Camera:
        width, height = frame.original_size
        known = frame.mount.camera if frame.mount else self._known
        if known is not None:
            return pycolmap.Camera(
                model=known.model, width=width, height=height, params=known.params, has_prior_focal_length=True
            )
        usual = FISHEYE_FOCAL if self._model == "OPENCV_FISHEYE" else DEFAULT_FOCAL
        focal = frame.focal or usual * max(width, height)
        camera = pycolmap.Camera.create_from_model_name(0, self._model, focal, width, height)
        camera.has_prior_focal_length = frame.focal > 0
        return camera


def _require_space(path: Path) -> None:
    """Raise OutputError if the disk may fill during a calibration, in which case COLMAP aborts the program.

    A calibration rewrites most of the file.
    """
    needed = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"Cannot write {path}: {free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed. "
            "Free some space or choose another --out."
        )
