"""Image files to upright 8-bit RGB, with the lens from EXIF."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image
import pillow_heif
from av import VideoStream
from av.container import InputContainer
from PIL import ExifTags

from recon.core.types import Image
from recon.sources.kinds import is_light
from recon.sources.levels import eight_bit, is_dull

# Image formats only: Pillow would also run the programs inside EPS files, and demand other plugins.
FORMATS = ("JPEG", "PNG", "TIFF", "HEIF", "WEBP", "AVIF", "JPEG2000", "BMP", "PPM", "GIF", "PSD", "QOI", "TGA")
DEEP_COLOUR = ("PNG", "PPM", "TIFF")  # formats whose colours of more than 8 bit Pillow truncates
MAX_PIXELS = 200_000_000
FILM_DIAGONAL_MM = 43.27
MM_PER_RESOLUTION_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}

UPRIGHT_FROM_STORED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}

# Adds HEIC to Pillow. It also applies the rotation stored in the file and resets the EXIF orientation to upright.
pillow_heif.register_heif_opener()


class UnreadableImage(Exception):  # noqa: N818 - a condition that is reported, not an error of the run
    """An image file cannot be used; the message is the reason in plain words."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One image file, read completely.

    pixels: (height, width, 3) uint8 RGB, upright. lens: camera, focal length and size as text. focal: in pixels,
    0 when unknown. upright_suffix: the suffix to keep when the file itself is an upright JPEG or PNG, else None.
    """

    pixels: Image
    lens: str
    focal: float
    upright_suffix: str | None


def read_photo(path: Path) -> Photo:
    """Decode the whole file. Raises UnreadableImage with the reason."""
    if is_light(path):
        pixels = _light(path)
        return Photo(pixels, _lens({}, 0.0, pixels), 0.0, None)
    with opened_image(path) as image:
        image.load()
        tags = _exif_tags(image)
        orientation = _orientation(tags)
        focal = _focal_in_pixels(tags, image.size)
        pixels = rgb_from(_upright(image, orientation))
        deep = _deep_colour(path) if image.format in DEEP_COLOUR and image.mode == "RGB" and is_dull(pixels) else None
        if deep is not None:
            pixels = np.array(_upright(PIL.Image.fromarray(deep), orientation))
        plain = deep is None and image.mode in ("RGB", "L") and not image.has_transparency_data and orientation == 1
        suffix = _suffix(path, image.format) if plain else None
    return Photo(pixels, _lens(tags, focal, pixels), focal, suffix)


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) after rotation, from the header alone. Raises UnreadableImage with the reason."""
    if is_light(path):
        with _light_stream(path) as (_, stream):
            return stream.codec_context.width, stream.codec_context.height
    with opened_image(path) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow rotates TIFF itself, and states the rotated size
            return width, height
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode it all to find EXIF at the end
            return width, height
        return (height, width) if _orientation(_exif_tags(image)) >= 5 else (width, height)


def xmp_of(path: Path) -> bytes:
    """The XMP metadata of an image file, empty if it has none. Raises UnreadableImage."""
    if is_light(path):
        return b""
    with opened_image(path) as image:
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return found.encode() if isinstance(found, str) else bytes(found)


@contextmanager
def opened_image(path: Path) -> Iterator[PIL.Image.Image]:
    """Open ``path`` with Pillow; any error inside the block becomes UnreadableImage."""
    try:
        if path.stat().st_size == 0:
            raise UnreadableImage("the file is empty")
        with warnings.catch_warnings(), _without_pillow_pixel_limit():
            warnings.simplefilter("ignore")  # do not warn about broken EXIF
            with PIL.Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnreadableImage(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
                yield image
    except UnreadableImage:
        raise
    except PIL.UnidentifiedImageError as error:
        raise UnreadableImage("it is not an image, or its header is damaged") from error
    except Exception as error:  # Pillow's readers raise almost any type on damaged files
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableImage(reason or f"the image is damaged or cut short ({error})") from error


@contextmanager
def _without_pillow_pixel_limit() -> Iterator[None]:
    """Pillow refuses above 179 megapixels; phones take 200."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit


def rgb_from(image: PIL.Image.Image) -> Image:
    """(height, width, 3) uint8: grey and palettes to RGB, transparency over black, deep images to 8 bit."""
    if image.mode.startswith(("I", "F")):
        grey = eight_bit(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        black = PIL.Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = PIL.Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _deep_colour(path: Path) -> Image | None:
    """Colours (height, width, 3) of more than 8 bit, stretched; None if the file has no more than 8."""
    content = np.frombuffer(path.read_bytes(), np.uint8)
    stored = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 3 or stored.dtype == np.uint8:
        return None
    return eight_bit(stored[..., ::-1])


@contextmanager
def _light_stream(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open OpenEXR and the like with FFmpeg; any error inside the block becomes UnreadableImage."""
    try:
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            size = (stream.codec_context.width, stream.codec_context.height)
            if size[0] * size[1] > MAX_PIXELS:
                raise UnreadableImage(f"{size[0]} x {size[1]} pixels are more than {MAX_PIXELS:,}")
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError, IndexError, StopIteration) as error:
        raise UnreadableImage(f"the image is damaged or cut short ({error})") from error


def _light(path: Path) -> Image:
    """The image (height, width, 3) of a file of linear light, converted for a screen."""
    with _light_stream(path) as (container, stream):
        frame = next(container.decode(stream))
        if frame.is_corrupt:
            raise UnreadableImage("the image is damaged or cut short")
        values = frame.to_ndarray(format="gbrpf32le")
    return eight_bit(values, linear=True)


def _upright(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """Like PIL.ImageOps.exif_transpose, which fails on broken EXIF because it rewrites the tags."""
    return image if orientation == 1 else image.transpose(UPRIGHT_FROM_STORED[orientation])


def _exif_tags(image: PIL.Image.Image) -> dict[int, Any]:
    """All readable EXIF tags; broken EXIF must not stop reading."""
    tags: dict[int, Any] = {}
    with suppress(Exception):  # Pillow raises almost any type on broken EXIF
        exif = image.getexif()
        tags.update(exif)
        tags.update(exif.get_ifd(ExifTags.IFD.Exif))
    return tags


def _orientation(tags: dict[int, Any]) -> int:
    """1 to 8, 1 for upright; cameras also write 0 and other invalid values."""
    orientation = tags.get(ExifTags.Base.Orientation)
    return orientation if isinstance(orientation, int) and orientation in UPRIGHT_FROM_STORED else 1


def _focal_in_pixels(tags: dict[int, Any], size: tuple[int, int]) -> float:
    """From the 35 mm equivalent, else from focal length and sensor resolution; 0 if EXIF does not say."""
    film_mm = _number(tags, ExifTags.Base.FocalLengthIn35mmFilm)
    if film_mm > 0:
        focal = film_mm / FILM_DIAGONAL_MM * math.hypot(*size)
    else:
        per_unit = _number(tags, ExifTags.Base.FocalPlaneXResolution)
        unit_mm = MM_PER_RESOLUTION_UNIT.get(int(_number(tags, ExifTags.Base.FocalPlaneResolutionUnit) or 2), 0.0)
        focal = _number(tags, ExifTags.Base.FocalLength) * per_unit / unit_mm if unit_mm else 0.0
        # The sensor's resolution refers to the pixels that the camera wrote; the file may have been shrunk since.
        written = max(_number(tags, ExifTags.Base.ExifImageWidth), _number(tags, ExifTags.Base.ExifImageHeight))
        focal *= max(size) / written if written > 0 else 1.0
    plausible = 0.1 < focal / max(size) < 100
    return focal if plausible else 0.0


def _number(tags: dict[int, Any], tag: int) -> float:
    with suppress(TypeError, ValueError, ZeroDivisionError):
        value = float(tags.get(tag, 0))
        return value if math.isfinite(value) else 0.0
    return 0.0


def _lens(tags: dict[int, Any], focal: float, pixels: Image) -> str:
    """Camera, focal length in millimetres and in pixels (digital zoom changes only the latter), and size."""
    camera = [str(tags.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    millimetres = _number(tags, ExifTags.Base.FocalLength)
    lengths = [f"{millimetres:g}mm" if millimetres else "", f"{focal:.0f}px" if focal else ""]
    size = f"{pixels.shape[1]}x{pixels.shape[0]}"
    return " ".join(part for part in (*camera, *lengths, size) if part)


def _suffix(path: Path, file_format: str | None) -> str | None:
    """The file's own suffix if it is correct; phones use MPO to wrap a JPEG with a second picture."""
    usual = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",)}.get(file_format or "")
    if usual is None:
        return None
    return path.suffix if path.suffix.lower() in usual else usual[0]
