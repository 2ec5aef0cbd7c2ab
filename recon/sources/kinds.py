"""The kind of a file: image, video, or other; by its suffix if that is known, else by its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".dpx", ".exr", ".gif", ".hdr", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
    ".jpg", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".insv", ".ivf", ".lrv", ".m1v",
    ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".tod", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".nef", ".nrw", ".orf", ".pef", ".raf",
    ".raw", ".rw2", ".sr2", ".srw", ".x3f",
)  # fmt: skip
# Thumbnails beside videos, and incomplete or replaced files.
PASSED_SUFFIXES = (".thm", ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".bak")

# Recordings of ROS: the first bytes of a file, and its usual suffix; a folder holds the files and their description.
START_OF_BAG = {b"#ROSBAG V": ".bag", b"\x89MCAP0\r\n": ".mcap", b"SQLite format 3\0": ".db3"}
METADATA, START_OF_METADATA = "metadata.yaml", b"rosbag2_bagfile_information"

START = 64  # bytes that identify the kind of a file
_IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II[*+]\0|MM\0[*+]|8BPS\0\x01|qoif"
    rb"|.{4}ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1|avif|avis)|\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51"
    rb"|P[1-6]\s+[#0-9]|P[fF]\s+[0-9]|\x76\x2f\x31\x01|#\?(?:RADIANCE|RGBE)|SDPX|XPDS",
    re.DOTALL,
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # never in text
_LIGHT_START = re.compile(rb"P[fF]\s|\x76\x2f\x31\x01|#\?(?:RADIANCE|RGBE)|SDPX|XPDS")


def is_image(path: Path) -> bool:
    """Whether a file is a supported image, by its suffix, or by its content if the suffix is unknown."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in VIDEO_SUFFIXES + RAW_SUFFIXES + PASSED_SUFFIXES or path.name.endswith("~"):
        return False
    return _IMAGE_START.match(start_of(path)) is not None


def is_bag(path: Path) -> bool:
    """Whether a file or folder is a recording of ROS."""
    if path.is_dir():
        if start_of(path / METADATA).startswith(START_OF_METADATA):
            return True
        files = [file for file in path.iterdir() if file.is_file()]
        return any(map(_is_bag_file, files)) and not any(map(is_image, files))  # the recording was not finished
    return path.is_file() and _is_bag_file(path)


def _is_bag_file(path: Path) -> bool:
    if path.suffix in START_OF_BAG.values():
        return True
    start = start_of(path)
    return any(start.startswith(known) for known, suffix in START_OF_BAG.items() if suffix != ".db3")


def is_text(path: Path) -> bool:
    """Whether a file begins with text."""
    start = start_of(path)
    return bool(start) and not _CONTROL.search(start) and bool(start.decode("utf-8", "ignore"))


def is_light(path: Path) -> bool:
    """Whether a file's format stores linear light instead of levels for a screen; Pillow does not read these."""
    return _LIGHT_START.match(start_of(path)) is not None


def start_of(path: Path) -> bytes:
    """The first bytes of a file, empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(START)
    except OSError:
        return b""
