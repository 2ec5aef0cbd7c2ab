"""The height of the camera above the ground, and tracks of the camera, on paths that exist in memory only."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import SettingsError, SourceError
from recon.core.similarity import Array, Sim3
from recon.core.types import PlacedFrame, SparsePoints
from recon.metric.fit import fit_metric
from recon.metric.ground import camera_heights
from recon.metric.scale import Known
from recon.metric.track import positions_from_track, read_track
from recon.store.map import ReconstructedMap
from tests.support import RADIAL

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
UNIT = 2.5  # metres
LATE = 37.3  # s, of the track's clock
DEGREE = 111_132.0  # metres of latitude, near 45 degrees north
SPARSE = SparsePoints.empty()


def path_map(centres: Array, points: SparsePoints = SPARSE, every: float = 1.0) -> ReconstructedMap:
    """A map of upright cameras that look along z."""
    frames = tuple(
        PlacedFrame(row, row * every, f"{row}.jpg", RADIAL, Sim3(1.0, np.eye(3), centre))
        for row, centre in enumerate(centres)
    )
    return ReconstructedMap(Path("nowhere"), frames, (), points, complete=True)


def curve(count: int = 60) -> Array:
    """Centres (count, 3) of a walk that turns: y is down."""
    along = np.arange(count) / 4
    return np.stack([along, 0.3 * np.sin(along / 2), 2 * np.sin(along / 3) + 0.02 * along**2], axis=1)


def seen(positions: Array, frames: int) -> SparsePoints:
    """Points that every frame sees."""
    ids = np.tile(np.arange(len(positions)), frames)
    indices = np.repeat(np.arange(frames), len(positions))
    return SparsePoints(positions, np.zeros((len(positions), 3), np.uint8), ids, indices, np.zeros((len(ids), 2)))


def test_the_ground_below_a_table_gives_the_scale_and_its_error() -> None:
    rng = np.random.default_rng(1)
    centres = curve(20) * [1, 0, 1] + np.array([0.0, 0.03, 0]) * np.sin(np.arange(20))[:, None]
    table, floor, wall = rng.uniform(-3, 3, (300, 3)), rng.uniform(-3, 3, (200, 3)), rng.uniform(-3, 3, (150, 3))
    table[:, 1], floor[:, 1], wall[:, 2] = 0.3, 0.6, 3.0
    wall[:, 1] = rng.uniform(-3, 0.6, 150)
    floor[:, 1] += 0.004 * rng.normal(size=200)
    lengths = camera_heights(path_map(centres, seen(np.concatenate([table, floor, wall]), 20)), 1.5)
    found = fit_metric(lengths, [])
    assert len(lengths) == found.used == 20
    assert found.metric_from_world.scale == pytest.approx(1.5 / 0.6, rel=0.01)
    assert found.error == pytest.approx(1.5 / 0.6 * 0.03 / np.sqrt(2), rel=0.1)
    with pytest.raises(SettingsError, match="No ground is seen"):
        camera_heights(path_map(centres, seen(wall, 20)), 1.5)
    with pytest.raises(SettingsError, match="No ground is seen"):
        camera_heights(path_map(centres), 1.5)
    with pytest.raises(SettingsError, match="needs a positive number"):
        camera_heights(path_map(centres), -1.0)


def fixes(metres: Array) -> list[tuple[float, float, float]]:
    """Latitude, longitude and height of places (n, 3) east, north, up."""
    return [(45 + n / DEGREE, 7 + e / 78_847, 100 + u) for e, n, u in metres.tolist()]


def gpx(path: Path, times: Sequence[float], metres: Array) -> Path:
    rows = [
        f'<trkpt lat="{latitude:.9f}" lon="{longitude:.9f}"><ele>{height:.3f}</ele>'
        f"<time>{(START + timedelta(seconds=time)).isoformat()}</time></trkpt>"
        for time, (latitude, longitude, height) in zip(times, fixes(metres), strict=True)
    ]
    xml = '<?xml version="1.0" encoding="UTF-8"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>'
    path.write_text(xml + "".join(rows) + "</trkseg></trk></gpx>")
    return path


def walked(times: Array) -> Array:
    """Places (n, 3) east, north and up of the walk in metres, standing before and after it."""
    metres = UNIT * curve()[:, [0, 2, 1]] * [1, 1, -1]
    return np.stack([np.interp(times, np.arange(len(metres)), axis) for axis in metres.T], axis=1)


def test_a_track_with_another_clock_gives_scale_and_place(tmp_path: Path) -> None:
    times, rng = np.arange(-40.0, 100, 1.5), np.random.default_rng(2)
    noisy = walked(times) + 0.2 * rng.normal(size=(len(times), 3))
    noisy[rng.choice(len(times), 6, replace=False)] += 50
    path = gpx(tmp_path / "walk.gpx", (times + LATE).tolist(), noisy)
    reconstruction = path_map(curve())
    found = positions_from_track(path, reconstruction, None)
    assert found.offset - START.timestamp() == pytest.approx(LATE, abs=0.5)
    assert str(found).startswith("By the clock of the track, the first frame was taken at 2024-05-01 12:00:3")
    assert len(found.positions) == 60
    fitted = fit_metric([], found.positions)
    assert fitted.metric_from_world.scale == pytest.approx(UNIT, rel=0.02)
    assert fitted.used < 60
    assert fitted.error is not None
    assert fitted.error < 0.6
    given = positions_from_track(path, reconstruction, START.timestamp() + LATE)
    assert np.allclose(given.origin[0], 45, atol=1e-3)


def test_a_track_that_does_not_tell_the_time_is_refused(tmp_path: Path) -> None:
    times = np.arange(0.0, 300, 1.5)
    straight = np.stack([times, 0.01 * times, 0 * times], axis=1)
    line = path_map(np.stack([np.arange(20.0), np.zeros(20), np.zeros(20)], axis=1))
    with pytest.raises(SettingsError, match=r"at times that differ by \d+ s.* Give --track-offset"):
        positions_from_track(gpx(tmp_path / "line.gpx", times.tolist(), straight), line, None)
    with pytest.raises(SettingsError, match="does not move"):
        positions_from_track(gpx(tmp_path / "still.gpx", times.tolist(), 0 * straight), line, None)
    with pytest.raises(SettingsError, match="is shorter than the recording"):
        positions_from_track(gpx(tmp_path / "short.gpx", times[:4].tolist(), straight[:4]), line, None)
    with pytest.raises(SettingsError, match="0 frames were taken during the track"):
        positions_from_track(tmp_path / "line.gpx", line, 5.0)
    with pytest.raises(SettingsError, match="--gps and --track both say where the cameras were"):
        Known(gps=True, track=tmp_path)
    with pytest.raises(SettingsError, match="add --track"):
        Known(track_offset=1.0)
    for content, words in (
        ("<gpx><trk>", "it is damaged"),
        ("<gpx></gpx>", "has 0 places with a time"),
        ("1\n", "has 0 places with a time"),
    ):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(SourceError, match=words):
            read_track(tmp_path / "bad")


def test_a_drone_and_a_phone_write_other_formats(tmp_path: Path) -> None:
    captions = [
        f"{row + 1}\n00:00:{row:02d},500 --> 00:00:{row:02d},533\n<font>FrameCnt: {row}\n[iso: 100] "
        f"[latitude: {lat:.6f}] [longitude: {lon:.6f}] [rel_alt: 1.300 abs_alt: {height:.3f}] </font>\n\n"
        for row, (lat, lon, height) in enumerate(fixes(walked(np.arange(60.0) + 0.5)))
    ]
    (tmp_path / "drone.srt").write_text("".join(captions))
    track = read_track(tmp_path / "drone.srt")
    assert track.has_clock_of_frames
    assert track.times[:2].tolist() == [0.5, 1.5]
    found = positions_from_track(tmp_path / "drone.srt", path_map(curve()), None)
    assert found.offset == pytest.approx(0, abs=0.15)
    assert "s after its start (--track-offset " in str(found)
    rows = "".join(
        f"<when>2024-05-01T12:00:{row:02d}Z</when><gx:coord>{7 + row} 45 {row}</gx:coord>" for row in range(4)
    )
    (tmp_path / "phone.kml").write_text(f'<kml xmlns:gx="x"><Placemark><gx:Track>{rows}</gx:Track></Placemark></kml>')
    phone = read_track(tmp_path / "phone.kml")
    assert phone.fixes[3].tolist() == [45, 10, 3]
    assert phone.times[3] == START.timestamp() + 3
