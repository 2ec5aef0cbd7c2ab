"""The known lens of a run: numbers or a calibration file, scaled to the size of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from recon.core.errors import SettingsError
from recon.core.types import Camera, CameraModel
from recon.sources.calibration import FORMATS, Document, Lens, Size, lens_of_info, read_lenses

MAX_DISTORTION = 4
SHORTEST, LONGEST = 0.05, 100  # focal length over the longest side
OBLONG = 1.5  # fx over fy that no lens has
RESCALED = 0.15  # largest offset of the principal point, equal in both directions, over the distance to the edge


def given_camera(text: str, model: CameraModel | None, sizes: Sequence[Size]) -> tuple[Camera, str]:
    """The camera of ``--intrinsics`` for images of these different ``sizes`` (width, height), and a note or "".

    text: numbers, or a file with numbers or in a format of ``recon.sources.calibration``. model: of ``--camera-model``,
    None if not given. Up to four distortion numbers follow fx, fy, cx, cy: OpenCV's k1, k2, p1, p2, or k1 to k4 of a
    fisheye lens. Raises SettingsError if the numbers make no camera, if there is more than one size, or if the camera
    is implausible for it.
    """
    numbers = _numbers(text)
    if numbers is None and not Path(text).is_file():
        raise SettingsError(
            f"--intrinsics: {text} is neither a file nor numbers such as 500,500,320,240. Files: {FORMATS}."
        )
    lenses = None if numbers is None else [_lens(numbers, model, text)]
    if len(sizes) != 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sizes[:3]) or "none that can be opened"
        raise SettingsError(f"--intrinsics needs images of one size, but there are {listed}. Leave it out.")
    if lenses is None:
        lenses = read_lenses(Path(text), sizes[0])
    camera, note = _fitted(lenses, sizes[0], text)
    if model is not None and numbers is None and camera.model != model:
        raise SettingsError(f"--intrinsics: {text} is of model {camera.model}: leave out --camera-model.")
    return camera, note


def camera_of_info(info: Document, size: Size, where: str) -> Camera:
    """The camera that the fields of a ROS ``camera_info`` state, scaled to images of ``size`` (width, height).

    Raises SettingsError, which names ``where`` it comes from.
    """
    try:
        camera, _ = _fitted([lens_of_info(info, size, where)], size, where)
    except SettingsError as error:
        raise SettingsError(str(error).removeprefix("--intrinsics: ")) from error
    return camera


def _numbers(text: str) -> tuple[float, ...] | None:
    """Numbers, or those in a file that has nothing else; None for anything else."""
    try:
        content = Path(text).read_text() if Path(text).is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--intrinsics: the file {text} cannot be read as text ({error}).") from error
    words = " ".join(line.split("#")[0].replace(",", " ") for line in content.splitlines()).split()
    try:
        return tuple(float(word) for word in words) or None
    except ValueError:
        return None


def _lens(numbers: tuple[float, ...], model: CameraModel | None, text: str) -> Lens:
    pinhole, distortion = numbers[:4], numbers[4:]
    if len(pinhole) < 4 or len(distortion) > MAX_DISTORTION:
        raise SettingsError(
            f"--intrinsics needs fx,fy,cx,cy and at most {MAX_DISTORTION} distortion numbers, got {len(numbers)}."
        )
    if not (all(math.isfinite(number) for number in numbers) and min(pinhole) > 0):
        raise SettingsError(f"--intrinsics needs positive fx, fy, cx, cy and finite numbers, got {text}.")
    if distortion and model == "PINHOLE":
        raise SettingsError(
            "--camera-model pinhole has no distortion, but --intrinsics includes distortion. Use only one of them."
        )
    fisheye = model == "OPENCV_FISHEYE"
    if not fisheye and not distortion:
        return Lens("PINHOLE", pinhole, None)
    padding = (0.0,) * (MAX_DISTORTION - len(distortion))
    return Lens("OPENCV_FISHEYE" if fisheye else "OPENCV", pinhole + distortion + padding, None)


def _fitted(lenses: Sequence[Lens], size: Size, where: str) -> tuple[Camera, str]:
    """The one lens for images of ``size`` (width, height), scaled to it, and a note about that or "".

    where: the origin of the lenses. Raises SettingsError if no lens fits, more than one fits, or the numbers are
    implausible for such images.
    """
    fitting = [lens for lens in lenses if lens.size is None or _same_aspect(lens.size, size)]
    exact = [lens for lens in fitting if lens.size == size]
    chosen = list(dict.fromkeys(exact or fitting))
    if not lenses:
        raise SettingsError(f"--intrinsics: {where} contains no camera.")
    if not chosen:
        raise SettingsError(_other_shape(lenses, size, where))
    if len(chosen) > 1:
        raise SettingsError(
            f"--intrinsics: {where} holds {len(chosen)} cameras for images of {size[0]}x{size[1]}. Keep only one."
        )
    lens = chosen[0]
    camera = Camera(lens.model, *size, _scaled(lens, size))
    require_plausible(camera, f"--intrinsics: {where}")
    if lens.size is None or lens.size == size:
        return camera, ""
    return camera, "--intrinsics: {} is for {}x{}: scaled to the images' {}x{}.".format(where, *lens.size, *size)


def _same_aspect(one: Size, other: Size) -> bool:
    """Whether one size is a scaled copy of the other, with each side rounded or truncated to a whole pixel."""
    scale = max(one) / max(other) if max(other) else 0.0
    return all(abs(a - scale * b) <= 1 + scale for a, b in zip(one, other, strict=True))


def _other_shape(lenses: Sequence[Lens], size: Size, where: str) -> str:
    listed = ", ".join("{}x{}".format(*lens.size) for lens in lenses[:3] if lens.size)
    turned = any(lens.size and _same_aspect(lens.size[::-1], size) for lens in lenses)
    advice = "The images are rotated by 90 degrees" if turned else "The images are cropped or come from another camera"
    return (
        f"--intrinsics: {where} is for images of {listed}, but these are {size[0]}x{size[1]}, of another shape. "
        f"{advice}: give a calibration for images as they are, or leave --intrinsics out."
    )


def _scaled(lens: Lens, size: Size) -> tuple[float, ...]:
    if lens.size is None or lens.size == size:
        return lens.params
    x, y = size[0] / lens.size[0], size[1] / lens.size[1]
    if lens.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        return (lens.params[0] * math.sqrt(x * y), lens.params[1] * x, lens.params[2] * y, *lens.params[3:])
    fx, fy, cx, cy, *distortion = lens.params
    return (fx * x, fy * y, cx * x, cy * y, *distortion)


def require_plausible(camera: Camera, where: str) -> None:
    """Raise SettingsError, with the likely reason, for numbers that are implausible for such images.

    where: the option, and what it says.
    """
    width, height = camera.width, camera.height
    matrix = camera.matrix()
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    of_images = f"but the images are {width}x{height}"
    if not all(math.isfinite(number) for number in camera.params):
        raise SettingsError(f"{where}: the numbers of a lens must be finite.")
    if 0 < cx <= 1 and 0 < cy <= 1:
        why = f"the principal point ({cx:g}, {cy:g}) is a share of the size, {of_images}: give pixels"
    elif not (0 < cx < width and 0 < cy < height):
        why = f"the principal point ({cx:g}, {cy:g}) lies outside, {of_images}{_likely_size(cx, cy)}"
    elif not SHORTEST <= min(fx, fy) / max(width, height) <= max(fx, fy) / max(width, height) <= LONGEST:
        why = f"focal lengths of {fx:g} and {fy:g} pixels make no picture, {of_images}"
    elif not 1 / OBLONG <= fx / fy <= OBLONG:
        why = f"focal lengths of {fx:g} and {fy:g} pixels are of oblong pixels, {of_images} with square ones"
    elif _is_of_other_size(cx / (width / 2), cy / (height / 2)):
        why = f"the principal point ({cx:g}, {cy:g}) is far from the middle, {of_images}{_likely_size(cx, cy)}"
    elif abs(width - height) > 0.1 * width and abs(cx - height / 2) + abs(cy - width / 2) < 0.05 * width:
        why = f"the principal point ({cx:g}, {cy:g}) is that of turned images, {of_images}"
    else:
        return
    raise SettingsError(f"{where}: {why}.")


def _is_of_other_size(x: float, y: float) -> bool:
    """Whether a principal point, over half the size, is equally far off in both directions."""
    return abs(x - y) < RESCALED and min(abs(x - 1), abs(y - 1)) > RESCALED


def _likely_size(cx: float, cy: float) -> str:
    return f"; is the calibration for {2 * cx:.0f}x{2 * cy:.0f}? Scale it, or give a file that states its size"
