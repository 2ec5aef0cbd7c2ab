"""Positions from a track: GPX, KML with times, a ROS bag, or the SRT file that a DJI drone writes beside its video.

The clocks of the track and of the frames need not agree: the time between them is the one at which the track has the
shape of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags

from recon.core.errors import SettingsError, SourceError
from recon.core.geodesy import east_north_up, middle
from recon.core.metric import Origin
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.mapping.alignment import fit_similarity
from recon.metric.observations import Position
from recon.metric.positions import files_of
from recon.sources.decoding import UnreadableImage, opened_image
from recon.sources.kinds import is_bag
from recon.store.map import ReconstructedMap

MOST_STEPS, FINEST = 4000, 0.05  # trials of the time between the clocks, and their last distance [s]
LEAST_STEP = 0.5  # s, of the first trials
INSIDE = 0.8  # share of the frames that must have been taken while the track lasts
KEPT = 0.7  # share of the positions, the nearest ones, that decide
AS_GOOD, AS_GOOD_SHARE = 1.2, 0.005  # misfit of trials that fit as well: a factor, and a share of the path's size
MOST_UNSURE = 0.05  # span of such trials, as a share of the time that the frames take
LEAST_UNSURE = 2.0  # s, span that is always allowed
DAY = 86_400.0  # s
REACH = 1.0  # s between the clocks of a track and of frames that have nearly the same
CAPTION = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d+)\s*-->.*?\n(.*?)(?=\n\s*\n|\Z)", re.DOTALL)
NUMBER = r"\s*[:=]?\s*\(?\s*(-?\d+(?:\.\d+)?)"
LATITUDE, LONGITUDE, *HEIGHTS = (
    re.compile(rf"\b{name}{NUMBER}", re.IGNORECASE)
    for name in ("latitude", "longt?itude", "abs_alt", "altitude", "rel_alt")  # some drones misspell the second
)


@dataclass(frozen=True, eq=False)
class Track:
    """times: (n,) [s], increasing. fixes: (n, 3) latitude, longitude [deg], height [m]. has_clock_of_frames: whether
    the frames have nearly the same clock, as in a drone's video and a bag.
    """

    times: Array
    fixes: Array
    has_clock_of_frames: bool = False

    def metres(self, origin: Origin) -> Array:
        """Positions (n, 3) east, north and up of an origin."""
        return np.array([east_north_up((fix[0], fix[1], fix[2]), origin) for fix in self.fixes.tolist()])


@dataclass(frozen=True, eq=False)
class TrackFit:
    """positions: of the frames taken during the track. offset: time of the track less that of the frames [s]. first:
    when the first frame was taken, by the clock of the track [s].
    """

    positions: list[Position]
    origin: Origin
    offset: float
    first: float

    def __str__(self) -> str:
        """A sentence about the clocks. Times in the files are since 1970, or since the start of a drone's video."""
        when = f"{self.first:.1f} s after its start"
        if self.first > DAY:
            when = f"at {datetime.fromtimestamp(self.first, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"By the clock of the track, the first frame was taken {when} (--track-offset {self.offset:.1f})."


def read_track(path: Path) -> Track:
    """Raises SourceError for a file that cannot be read, or without three places with a time and a height."""
    try:
        rows, has_clock = _rows(path)
    except (OSError, UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is damaged ({error})"
        raise SourceError(f"Cannot read the track {path}: {reason}.") from error
    table = np.array(sorted({row[0]: row for row in rows if _is_place(row)}.values())).reshape(-1, 4)
    if len(table) < 3:
        raise SourceError(
            f"{path} has {len(table)} places with a time, latitude, longitude and height, at least 3 are needed. It "
            "has to be GPX, KML with a gx:Track, a ROS bag with NavSatFix messages, or the SRT file of a DJI drone."
        )
    return Track(table[:, 0], table[:, 1:], has_clock)


def _rows(path: Path) -> tuple[list[tuple[float, ...]], bool]:
    """Rows of time, latitude, longitude and height, and whether the frames have their clock."""
    if is_bag(path):
        from recon.sources.bag import fixes  # noqa: PLC0415 - optional

        return list(fixes(path)), True
    text = path.read_text(encoding="utf-8-sig")
    is_xml = text.lstrip().startswith("<")
    return list(_of_xml(text) if is_xml else _of_captions(text)), not is_xml


def _is_place(row: Sequence[float]) -> bool:
    _, latitude, longitude, _ = row
    inside = abs(latitude) <= 90 and abs(longitude) <= 180
    return bool(np.isfinite(row).all()) and inside and (latitude, longitude) != (0, 0)  # 0, 0 means no fix


def _of_xml(text: str) -> Iterator[tuple[float, ...]]:
    """Rows of time, latitude, longitude, height of GPX or KML. Raises ValueError and ElementTree.ParseError."""
    root = ElementTree.fromstring(text)  # noqa: S314  expat refuses exponential entities
    for element in root.iter():
        children = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        kind = element.tag.rpartition("}")[2]
        if kind == "trkpt" and {"ele", "time"} <= children.keys():
            latitude, longitude = (float(element.get(name, "nan")) for name in ("lat", "lon"))
            yield _seconds(children["time"]), latitude, longitude, float(children["ele"])
        elif kind == "Track":
            texts = {
                name: [child.text or "" for child in element if child.tag.rpartition("}")[2] == name]
                for name in ("when", "coord")
            }
            for when, coordinates in zip(texts["when"], texts["coord"], strict=True):
                longitude, latitude, height = map(float, coordinates.split())
                yield _seconds(when), latitude, longitude, height


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _of_captions(text: str) -> Iterator[tuple[float, ...]]:
    """The same of a drone's captions; times count from the start of the video."""
    for hours, minutes, seconds, fraction, caption in CAPTION.findall(text.replace("\r\n", "\n")):
        time = 3600 * int(hours) + 60 * int(minutes) + float(f"{seconds}.{fraction}")
        latitude, longitude = LATITUDE.search(caption), LONGITUDE.search(caption)
        height = next((found for found in (pattern.search(caption) for pattern in HEIGHTS) if found), None)
        if latitude and longitude and height:
            yield time, *(float(found[1]) for found in (latitude, longitude, height))


def positions_from_track(path: Path, reconstruction: ReconstructedMap, offset: float | None) -> TrackFit:
    """Positions east, north and up of the track's median place. offset: None to estimate it.

    Raises SourceError for a file that is no track, SettingsError if it does not say when the frames were taken.
    """
    track, times = read_track(path), _times(reconstruction)
    origin = middle(track.fixes)
    metres, frames = track.metres(origin), list(times)
    moments = np.array(list(times.values()))
    if offset is None:
        offset = _offset(track, metres, moments, np.array([frame.world_from_cam.translation for frame in frames]))
    inside = _inside(track, moments + offset)
    if inside.sum() < 3:
        raise SettingsError(f"{inside.sum()} frames were taken during the track {path}. Check --track-offset.")
    places = _at(track, metres, moments + offset)
    positions = [
        Position(frame.name, frame.world_from_cam.translation, place)
        for frame, place, taken in zip(frames, places, inside, strict=True)
        if taken
    ]
    return TrackFit(positions, origin, offset, float(moments.min()) + offset)


def _times(reconstruction: ReconstructedMap) -> Mapping[PlacedFrame, float]:
    """When frames were taken [s]: by the date in the photos, else by the timestamps of the video."""
    dated = {frame: time for frame, path in files_of(reconstruction).items() if (time := _date(path)) is not None}
    return dated if len(dated) >= 3 else {frame: frame.timestamp for frame in reconstruction.posed}


def _date(path: Path) -> float | None:
    """When a photo was taken, by its EXIF tags, as if its clock showed UTC; None without them."""
    try:
        with opened_image(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        text, part = str(tags[ExifTags.Base.DateTimeOriginal]), str(tags.get(ExifTags.Base.SubsecTimeOriginal, "0"))
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        return moment.timestamp() + float(f"0.{part.strip()}")
    except (UnreadableImage, OSError, KeyError, ValueError):
        return None


def _inside(track: Track, moments: Array) -> Array:
    return np.asarray((moments >= track.times[0]) & (moments <= track.times[-1]))


def _at(track: Track, metres: Array, moments: Array) -> Array:
    """Positions (n, 3) on the track at some moments (n,)."""
    return np.stack([np.interp(moments, track.times, axis) for axis in metres.T], axis=1)


def _offset(track: Track, metres: Array, moments: Array, centres: Array) -> float:
    """The time of the track less that of the frames at which both have the same shape.

    Raises SettingsError if the shapes never fit, or at quite different times.
    """
    low, high = track.times[0] - moments.min(), track.times[-1] - moments.max()
    slack = (1 - INSIDE) * float(np.ptp(moments))
    if track.has_clock_of_frames:
        low, high, slack = 0.0, 0.0, REACH
    if high + slack < low - slack:
        raise SettingsError("The track is shorter than the recording. If that is right, give --track-offset.")
    step = max(LEAST_STEP, (high - low + 2 * slack) / MOST_STEPS)
    trials = np.arange(low - slack, high + slack + step, step)
    misfits = np.array([_misfit(_at(track, metres, moments + trial), centres) for trial in trials])
    best = float(trials[misfits.argmin()])
    while step > FINEST:
        fine = best + step * np.linspace(-1, 1, 9)
        best = float(fine[np.argmin([_misfit(_at(track, metres, moments + trial), centres) for trial in fine])])
        step /= 4
    least = _misfit(_at(track, metres, moments + best), centres)
    if not np.isfinite(least):
        raise SettingsError("The track does not move while the frames were taken. Check that it belongs to them.")
    as_good = trials[misfits <= AS_GOOD * least + AS_GOOD_SHARE]
    span = float(np.ptp(as_good)) if len(as_good) else 0.0
    if not track.has_clock_of_frames and span > max(LEAST_UNSURE, MOST_UNSURE * float(np.ptp(moments))):
        raise SettingsError(
            f"The track has the shape of the path at times that differ by {span:.0f} s, from an offset of "
            f"{as_good.min():.1f} to {as_good.max():.1f} s. Give --track-offset."
        )
    return best


def _misfit(places: Array, centres: Array) -> float:
    """RMS distance of the nearest KEPT positions after the best similarity, as a share of their spread."""
    weights = np.ones(len(places))
    try:
        for _ in range(2):
            distance = np.linalg.norm(places - fit_similarity(centres, places, weights).apply(centres), axis=1)
            weights = (distance <= np.quantile(distance, KEPT)).astype(np.float64)
    except ValueError:  # the track stands still, or mirrors the path
        return np.inf
    kept = weights > 0
    spread = float(np.linalg.norm(np.std(places[kept], axis=0)))
    return float(np.sqrt((distance[kept] ** 2).mean())) / spread if spread > 0 else np.inf
