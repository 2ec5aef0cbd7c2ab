"""A small exact map in metres: by tags in its images, GPS tags, files of positions; killed and resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags
from PIL import Image as Pillow
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError, SettingsError, SourceError
from recon.core.geodesy import east_north_up, latitude_longitude_height
from recon.core.metric import Metric
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, Image, PlacedFrame
from recon.exports import export
from recon.frontend import FRONT_ENDS
from recon.metric.observations import given_length
from recon.metric.positions import gps_fix, positions_from_file
from recon.metric.scale import Known, scale_map
from recon.metric.tags import Sighting, find_tags, triangulate
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store.map import MapStore, ReconstructedMap, images_folder, open_map
from tests.support import (
    PLANE_DEPTH,
    ExactFrontEnd,
    colmap_camera,
    hit_plane,
    make_map,
    pixel_centres,
    placed_frame,
    plane_texture,
    render,
)  # fmt: skip

LENS = Camera("SIMPLE_RADIAL", 320, 240, (280.0, 160.0, 120.0, 0.05))
SIDE = 0.6  # of the tags, in map units
TAGS = ((cv2.aruco.DICT_APRILTAG_36h11, 7, (0.4, 0.2), 0.3), (cv2.aruco.DICT_5X5_1000, 3, (-0.7, -0.3), 2.0))


def seen_with_tags(frame: PlacedFrame) -> Image:
    """The original of a frame of ``make_map`` with TAGS on the plane, each of 9 rays a pixel."""
    camera, fine = frame.camera, 3
    pixels = pixel_centres(fine * camera.width, fine * camera.height)[..., :2].reshape(-1, 2) / fine
    rays = np.column_stack([np.asarray(colmap_camera(camera).cam_from_img(pixels)), np.ones(len(pixels))])
    points, _ = hit_plane(frame, rays)
    colours = plane_texture(points)
    for dictionary, number, centre, angle in TAGS:
        marker = np.pad(
            cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(dictionary), number, 80), 10,
            constant_values=255,
        )  # fmt: skip
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        columns, rows = np.floor((points[:, :2] - centre) @ turn.T / SIDE * 80 + 50).astype(int).T
        inside = (columns >= 0) & (rows >= 0) & (columns < 100) & (rows < 100)
        colours[inside] = marker[rows[inside], columns[inside], None]
    blocks = colours.reshape(camera.height, fine, camera.width, fine, 3)
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of six frames that see two tags."""
    folder = tmp_path_factory.mktemp("marked")
    for frame in make_map(folder, cameras=(LENS,)).frames:
        Pillow.fromarray(seen_with_tags(frame)).save(images_folder(folder) / frame.name, quality=95)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_map(tmp_path / "run").folder


def centres(reconstruction: ReconstructedMap) -> Array:
    return np.array([frame.world_from_cam.translation for frame in reconstruction.posed])


def assert_scaled(before: ReconstructedMap, after: ReconstructedMap, change: Sim3) -> None:
    """That poses, depth and points have all moved by a similarity."""
    for was, now in zip(before.frames, after.frames, strict=True):
        assert now.world_from_cam.isclose(change @ was.world_from_cam)
    assert np.allclose(after.points.positions, change.apply(before.points.positions))
    (frame, geometry), *_ = after.geometry()
    plane = change.apply(np.array([0, 0, PLANE_DEPTH]))
    depth = frame.world_from_cam.scale * geometry.depth[30, 40]
    point = frame.world_from_cam.apply(geometry.depth[30, 40] * np.array([0.5 / 70, 0.5 / 70, 1]))
    normal = change.rotation[:, 2]
    assert (point - plane) @ normal == pytest.approx(0, abs=2e-3 * float(depth))


def test_tags_are_found_and_give_a_scale(marked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(marked, copy)
    before = open_map(copy)
    sides = find_tags(before, 1.5)
    assert [side.name for side in sides[::4]] == ["AprilTag 36h11 7, side 1", "ArUco 5x5 3, side 1"]
    assert np.allclose([side.in_map for side in sides], SIDE, rtol=0.004)
    found = scale_map(copy, Known(tag_size=1.5))
    assert found.metric_from_world.scale == pytest.approx(1.5 / SIDE, rel=0.003)
    assert found.error is not None
    assert found.error < 0.015
    assert_scaled(before, open_map(copy), found.metric_from_world)
    with pytest.raises(SettingsError, match="--tag-size needs a positive number"):
        scale_map(copy, Known(tag_size=0.0))


def sightings(count: int, spread: float) -> list[Sighting]:
    """A unit square as seen by cameras in a row, 5 away."""
    square = np.array([[0.0, 0, 5], [1, 0, 5], [1, 1, 5], [0, 1, 5]])
    seen = []
    for x in np.linspace(-spread, spread, count):
        points = square - [x, 0, 0]
        seen.append(Sighting(np.column_stack([np.eye(3), [-x, 0, 0]]), points[:, :2] / points[:, 2:]))
    return seen


def test_only_a_square_on_which_frames_from_different_places_agree_is_a_tag() -> None:
    right = sightings(6, 0.5)
    corners = triangulate(right)
    assert corners is not None
    assert np.allclose(corners, [[0, 0, 5], [1, 0, 5], [1, 1, 5], [0, 1, 5]])
    wrong = [replace(one, corners=one.corners + np.array([0.3, 0.1])) for one in right[:2]]
    with_wrong = triangulate([*wrong, *right[2:]])
    assert with_wrong is not None
    assert np.allclose(with_wrong, corners, atol=0.01)
    assert triangulate(right[:2]) is None
    assert triangulate(sightings(6, 0.001)) is None
    stretched = [replace(one, corners=one.corners * [1.2, 1.0]) for one in right]
    assert triangulate(stretched) is None


def test_no_tag_is_an_error_that_says_so(folder: Path) -> None:
    with pytest.raises(SettingsError, match="No AprilTag or ArUco marker is seen by 3 or more frames"):
        scale_map(folder, Known(tag_size=0.1))


def test_a_kill_leaves_the_old_or_the_new_map(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_map(folder)
    known = Known(lengths=(f"{before.frames[0].name} {before.frames[4].name} 3.2", "0,0,4 1,0,4 2.0"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("recon.store.ledger._write_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            scale_map(folder, known)
    assert_scaled(before, open_map(folder), Sim3.identity())
    assert open_map(folder).metric is None
    found = scale_map(folder, known)
    assert found.metric_from_world.scale == pytest.approx(2.0, rel=0.02)
    assert_scaled(before, open_map(folder), found.metric_from_world)
    assert open_map(folder).metric == Metric(2, found.error)
    again = scale_map(folder, Known(lengths=("0,0,0 1,0,0 1.5",)))
    both = again.metric_from_world @ found.metric_from_world
    assert_scaled(before, open_map(folder), both)


def write_gps(path: Path, latitude: float, longitude: float, height: float) -> None:
    exif = Pillow.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {
            1: "N" if latitude >= 0 else "S",
            2: (int(abs(latitude)), int(abs(latitude) * 60) % 60, abs(latitude) * 3600 % 60),
            3: "E" if longitude >= 0 else "W",
            4: (abs(longitude), 0.0, 0.0),
            5: b"\x01" if height < 0 else b"\x00",
            6: abs(height),
        }
    )
    with Pillow.open(path) as image:
        image.save(path, exif=exif)


def test_gps_tags_put_the_map_east_north_and_up(folder: Path) -> None:
    # Near 45 degrees north, a thousandth of a degree is 111.13 m of latitude and 78.85 m of longitude.
    before = open_map(folder)
    for frame in before.frames:
        east, north, up = 100 * frame.world_from_cam.translation
        write_gps(before.images / frame.name, 45 + north / 111_132, -7.5 + east / 78_847, up - 50)
    with pytest.raises(SettingsError, match="both say where the cameras were"):
        Known(gps=True, positions=folder)
    found = scale_map(folder, Known(gps=True))
    after = open_map(folder)
    assert found.metric_from_world.scale == pytest.approx(100, rel=1e-3)
    assert np.allclose(found.metric_from_world.rotation, np.eye(3), atol=2e-3)
    assert after.metric is not None
    assert after.metric.origin is not None
    east, north, up = 100 * np.median(centres(before), axis=0)
    assert np.allclose(after.metric.origin, (45 + north / 111_132, -7.5 + east / 78_847, up - 50))
    assert np.allclose(np.ptp(centres(after), axis=0), 100 * np.ptp(centres(before), axis=0), rtol=2e-3)
    assert gps_fix(after.images) is None
    south = east_north_up((44.999, -7.5, 3.0), (45.0, -7.5, 3.0))
    assert np.allclose(south, [0, -111.13, 0], atol=0.01)
    for latitude in (-89.9, -33.0, 0.0, 51.5, 89.9):
        origin, place = (latitude, -179.9, 300.0), np.array([12_000.0, -7_000, -150])
        assert np.allclose(east_north_up(latitude_longitude_height(place, origin), origin), place, atol=1e-5)
    export(after, "geojson", folder / "path.geojson")
    (line,) = json.loads((folder / "path.geojson").read_text())["features"]
    longitude, latitude, height = line["geometry"]["coordinates"][3]
    known = gps_fix(before.images / before.frames[3].name)
    assert known is not None
    assert np.allclose((latitude, longitude), known[:2], atol=1e-6)
    assert height == pytest.approx(known[2], abs=0.2)
    with pytest.raises(MapError, match="Use recon scale with --gps or --track"):
        export(before, "geojson", folder / "none.geojson")


def test_positions_come_from_a_file_by_name_or_time(folder: Path, tmp_path: Path) -> None:
    before, path = open_map(folder), tmp_path / "known.csv"
    turned = Sim3(3.0, Rotation.from_rotvec([0, 0, 1]).as_matrix(), np.array([10.0, 0, 0]))
    metres = turned.apply(centres(before))
    path.write_text(
        "name,x,y,z\n" + "".join(f"{f.name},{x},{y},{z}\n" for f, (x, y, z) in zip(before.frames, metres, strict=True))
    )
    assert scale_map(folder, Known(positions=path)).metric_from_world.isclose(turned, atol=1e-6)
    by_name = positions_from_file(path, before)
    rows = [f"{f.timestamp} {x} {y} {z} 0 0 0 1\n" for f, (x, y, z) in zip(before.frames, metres, strict=True)]
    path.write_text("# a comment\n" + "".join(rows) + "99 0 0 0 0 0 0 1\n")
    by_time = positions_from_file(path, before)
    assert [(one.name, *one.metres) for one in by_time] == [(one.name, *one.metres) for one in by_name]
    for content, words in (
        ("image_0000.jpg,1,2\n", "line 1: expected a name and three finite numbers"),
        ("image_0000.jpg,1,2,x\n", "line 1: could not convert string to float"),
    ):
        path.write_text(content)
        with pytest.raises(SourceError, match=words):
            positions_from_file(path, before)
    path.write_text("other.jpg,1,2,3\n")
    with pytest.raises(SettingsError, match=r"0 rows of .*known\.csv belong to frames"):
        positions_from_file(path, before)
    with pytest.raises(SourceError, match="Cannot read the positions"):
        positions_from_file(tmp_path / "nothing", before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,0,0 1,0,0", "takes .* three words"),
        ("0,0,0 1,0,0 far", "takes .* three words"),
        ("0,0,0 1,0,x 1", "is not a point X,Y,Z"),
        ("0,0,0 nowhere.jpg 1", "neither a point X,Y,Z nor a frame with a pose, such as image_0000.jpg"),
        ("0,0,0 0,0,0 1", "two different points"),
        ("0,0,0 0,0,1 -1", "a positive number of metres"),
        ("0,0,0 0,0,inf 1", "is not a point X,Y,Z"),
    ],
)
def test_a_length_that_is_none_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        given_length(text, open_map(folder))


def test_an_unfinished_map_is_refused(folder: Path) -> None:
    made = open_map(folder)
    MapStore(folder).write_places(made.frames, (), made.points, complete=False)
    with pytest.raises(MapError, match="is not finished"):
        scale_map(folder, Known(lengths=("0,0,0 1,0,0 1",)))


def walked(folder: Path, indices: Sequence[int]) -> Path:
    folder.mkdir()
    for index in indices:
        Pillow.fromarray(render(placed_frame(index))).save(folder / f"{index}.jpg")
    return folder


def test_a_map_in_metres_is_extended_in_metres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FRONT_ENDS, "sfm", ExactFrontEnd)
    out, settings = tmp_path / "out", RunSettings(chunk=4, overlap=2)
    source = walked(tmp_path / "images", range(6))
    reconstruct(source, out, settings)
    found = scale_map(out, Known(lengths=("0,0,0 1,0,0 5.0",)))
    before = open_map(out)
    for index in (6, 7):
        Pillow.fromarray(render(placed_frame(index))).save(source / f"{index}.jpg")
    monkeypatch.setattr(ExactFrontEnd, "interrupt", "chunk 2")
    reconstruct(source, out, replace(settings, resume=True))
    assert not open_map(out).complete
    assert open_map(out).metric is None
    monkeypatch.setattr(ExactFrontEnd, "interrupt", "")
    reconstruct(source, out, replace(settings, resume=True))
    after = open_map(out)
    assert len(after.frames) == 8
    assert after.metric == Metric(1, None)
    assert found.metric_from_world.scale == 5.0
    assert np.allclose(centres(after)[:6], centres(before), atol=1e-3)
