"""Known camera positions: from a file, or from the GPS tags of the images."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from recon.core.errors import ReconError, SettingsError, SourceError
from recon.core.geodesy import east_north_up, middle
from recon.core.metric import Origin
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.exports.trajectory import read_tum
from recon.metric.observations import Position
from recon.sources import open_source
from recon.sources.base import Source
from recon.sources.decoding import UnreadableImage, opened_image
from recon.store.journal import Part, read_parts
from recon.store.ledger import Ledger
from recon.store.map import ReconstructedMap

HEADINGS = ("name", "image", "frame", "file", "filename")
SAME_TIME = 0.01  # s, or frames of a folder
Tags = Mapping[int, Any]


def positions_from_file(path: Path, reconstruction: ReconstructedMap) -> list[Position]:
    """Positions of the map's frames from rows ``NAME,X,Y,Z``, or from a TUM trajectory by their timestamps.

    Raises SourceError for a file that is neither, SettingsError if fewer than three rows belong to a frame.
    """
    try:
        first = next(
            (line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip() and line[0] != "#"), ""
        )
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SourceError(f"Cannot read the positions in {path}: {reason}.") from error
    read = _by_name if "," in first else _by_time
    found = read(path, reconstruction.posed)
    if len(found) < 3:
        raise SettingsError(
            f"{len(found)} rows of {path} belong to frames of {reconstruction.folder}; at least 3 must. Name frames "
            "as in its poses.txt by time, or as in colmap/images by name."
        )
    return found


def _by_name(path: Path, frames: Sequence[PlacedFrame]) -> list[Position]:
    named = {frame.name: frame for frame in frames}
    found = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or row[0].startswith("#") or (number == 1 and row[0].lower() in HEADINGS):
                continue
            try:
                name, place = row[0], np.array([float(value) for value in row[1:]])
            except ValueError as error:
                raise SourceError(f"{path}, line {number}: {error}, expected NAME,X,Y,Z.") from error
            if place.shape != (3,) or not np.isfinite(place).all():
                raise SourceError(f"{path}, line {number}: expected a name and three finite numbers: NAME,X,Y,Z.")
            if name in named:
                found.append(_position(named[name], place))
    return found


def _by_time(path: Path, frames: Sequence[PlacedFrame]) -> list[Position]:
    known = read_tum(path)
    found = []
    for frame in frames:
        row = int(np.abs(known.timestamps - frame.timestamp).argmin())
        if abs(known.timestamps[row] - frame.timestamp) <= SAME_TIME:
            found.append(_position(frame, known.world_from_cam[row, :3, 3]))
    return found


def positions_from_gps(reconstruction: ReconstructedMap) -> tuple[list[Position], Origin]:
    """Positions from the GPS tags of the images, east, north and up of the origin: the median of all.

    Tags are read from the source, if it still exists, since an image that was turned upright has lost them; else from
    the image in the map. Raises SettingsError if fewer than three images have tags with a height.
    """
    fixes = {frame: fix for frame, path in files_of(reconstruction).items() if (fix := gps_fix(path))}
    if len(fixes) < 3:
        raise SettingsError(
            f"{len(fixes)} images of {reconstruction.folder} have a GPS position with a height; at least 3 must."
        )
    origin = middle(np.array(list(fixes.values())))
    return [_position(frame, east_north_up(fix, origin)) for frame, fix in fixes.items()], origin


def gps_fix(path: Path) -> Origin | None:
    """Latitude, longitude [deg] and height [m] from an image's EXIF tags; None without all three."""
    with suppress(UnreadableImage, OSError), opened_image(path) as image:
        return _fix(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    return None


def _fix(tags: Tags) -> Origin | None:
    names = ExifTags.GPS
    try:
        degrees = [
            sum(float(part) / 60**power for power, part in enumerate(tags[angle]))
            * (-1 if str(tags[side]).strip("\0 ").upper() == negative else 1)
            for angle, side, negative in (
                (names.GPSLatitude, names.GPSLatitudeRef, "S"),
                (names.GPSLongitude, names.GPSLongitudeRef, "W"),
            )
        ]
        below = tags.get(names.GPSAltitudeRef, 0) in (1, b"\x01", "1")
        height = float(tags[names.GPSAltitude]) * (-1 if below else 1)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    sound = np.isfinite([*degrees, height]).all() and abs(degrees[0]) <= 90 and abs(degrees[1]) <= 180
    return (degrees[0], degrees[1], height) if sound and any(degrees) else None  # 0, 0 means no fix


def files_of(reconstruction: ReconstructedMap) -> dict[PlacedFrame, Path]:
    """The file that each frame with a pose comes from."""
    parts = read_parts(reconstruction.folder) if Ledger(reconstruction.folder).has("parts") else ()
    sources = [(part, _opened(part)) for part in reversed(parts)]
    files = {}
    for frame in reconstruction.posed:
        part, source = next(((part, one) for part, one in sources if part.first <= frame.index), (None, None))
        original = source.file_of(frame.index - part.first) if part and source else None
        files[frame] = original or reconstruction.images / frame.name
    return files


def _opened(part: Part) -> Source | None:
    try:
        return open_source(part.source, part.settings.source)
    except ReconError:  # it is gone, or was a camera
        return None


def _position(frame: PlacedFrame, metres: Array) -> Position:
    return Position(frame.name, frame.world_from_cam.translation, np.asarray(metres, dtype=np.float64))
