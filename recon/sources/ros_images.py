"""Pictures in messages of ROS: sensor_msgs/Image and sensor_msgs/CompressedImage."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.types import Image
from recon.sources.decoding import UnreadableImage
from recon.sources.levels import eight_bit

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DEPTH = "compressedDepth"  # in the format of a compressed image that is no picture

# Bytes of a sample, samples of a pixel, and OpenCV's conversion to RGB; None for one that is RGB or grey.
# https://docs.ros.org/en/api/sensor_msgs/html/image__encodings_8h_source.html
PACKED: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None), "bgr8": (1, 3, cv2.COLOR_BGR2RGB), "8UC3": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB), "bgra8": (1, 4, cv2.COLOR_BGRA2RGB), "8UC4": (1, 4, cv2.COLOR_BGRA2RGB),
    "rgb16": (2, 3, None), "bgr16": (2, 3, cv2.COLOR_BGR2RGB), "16UC3": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB), "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, None), "8UC1": (1, 1, None), "mono16": (2, 1, None), "16UC1": (2, 1, None),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY), "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2), "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerRGGB2RGB), "bayer_bggr8": (1, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGBRG2RGB), "bayer_grbg8": (1, 1, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": (2, 1, cv2.COLOR_BayerRGGB2RGB), "bayer_bggr16": (2, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": (2, 1, cv2.COLOR_BayerGBRG2RGB), "bayer_grbg16": (2, 1, cv2.COLOR_BayerGRBG2RGB),
}  # fmt: skip
# The luminance of the whole picture, then its colours at half the size.
PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}


def picture(message: Any) -> Image:
    """The picture (height, width, 3) RGB of a message. Raises UnreadableImage with the reason."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        return _decompressed(message.format, message.data)
    try:
        return _rgb(message)
    except (ValueError, cv2.error) as error:
        raise UnreadableImage(f"its {len(message.data)} bytes are no picture of the stated size") from error


def _decompressed(stated: str, content: NDArray[np.uint8]) -> Image:
    if DEPTH in stated:
        raise UnreadableImage("it holds depth, not a picture")
    stored = cv2.imdecode(content, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None:
        raise UnreadableImage(f"it is damaged, or of a format that OpenCV cannot read ({stated})")
    return _eight_bit(stored[..., ::-1])


def _rgb(message: Any) -> Image:
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding in PLANAR:
        rows = np.asarray(message.data).reshape(height * 3 // 2, step)[:, :width]
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), PLANAR[encoding]), dtype=np.uint8)
    if encoding not in PACKED:
        known = ", ".join((*PACKED, *PLANAR))
        raise UnreadableImage(f"its encoding {encoding} is not that of a picture; known are {known}")
    size, samples, conversion = PACKED[encoding]
    rows = np.asarray(message.data).reshape(height, step)[:, : width * samples * size]
    order = ">" if message.is_bigendian else "<"
    pixels = np.ascontiguousarray(rows).view(f"{order}u{size}").reshape(height, width, samples)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return _eight_bit(pixels if conversion is None else cv2.cvtColor(pixels, conversion))


def _eight_bit(pixels: NDArray[Any]) -> Image:
    """Colours or grey of any depth as (height, width, 3) uint8."""
    shown = pixels if pixels.dtype == np.uint8 else eight_bit(pixels)
    colours = shown if shown.ndim == 3 else shown[..., None]
    return np.array(np.broadcast_to(colours, (*colours.shape[:2], 3)), dtype=np.uint8)
