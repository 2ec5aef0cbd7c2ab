import dataclasses
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import open3d
import pycolmap
import pytest
import rerun
from PIL import Image

from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.evaluate.check import _check_files, _Outputs, check_folder, repair_folder
from recon.exports import export
from recon.exports.readers import CheckError
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store.archive import load_arrays
from recon.store.journal import Journal
from recon.store.legacy import AGAIN
from recon.store.map import MapStore, ReconstructedMap, move_map, open_map
from recon.store.report import ChunkReport, RunReport, write
from tests.support import ExactFrontEnd, change_ledger, make_map, placed_frame, render


def write_outputs(reconstruction: ReconstructedMap) -> Path:
    folder = reconstruction.folder
    export(reconstruction, "ply", folder / "cloud.ply")
    export(reconstruction, "colmap", folder / "colmap")
    export(reconstruction, "tum", folder / "poses.txt")
    recording = rerun.RecordingStream("test")
    recording.save(folder / "recording.rrd")
    recording.log("points", rerun.Points3D(reconstruction.points.positions))
    recording.disconnect()
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_outputs(make_map(tmp_path_factory.mktemp("finished")))


@pytest.fixture
def folder(finished, tmp_path):
    """A copy without the recording, whose check takes a second."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "recording.rrd").unlink()
    return tmp_path / "run"


def failures(folder: Path) -> dict[str, str]:
    return {item.name: item.sentence for item in check_folder(folder).items if not item.ok}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_good_folder_passes_with_figures(finished):
    report = check_folder(finished)
    assert report.ok, report
    sentences = {item.name: item.sentence for item in report.items}
    assert sentences["colmap"] == "COLMAP reads 6 of 6 images posed, 425 points, 1 camera."
    assert "camera-to-world and equals the 6 COLMAP poses" in sentences["convention"]
    assert "mean 0.00, median 0.00 px" in sentences["reprojection"]
    assert "98.5% of the cloud's points" in sentences["cloud in cameras"]  # the lens sees less than the depth maps
    assert "verifies recording.rrd" in sentences["recording"]


def test_an_empty_folder_fails_with_a_sentence_for_every_file_that_a_run_must_write(tmp_path):
    report = check_folder(tmp_path)
    assert not report.ok
    assert len(report.items) == 16
    files, found, places, journal, *others, recording, sanity, folds = report.items
    assert not files.ok
    assert not found.ok
    assert files.sentence == found.sentence
    assert found.sentence.startswith(f"{tmp_path} contains no map: ")
    assert (places.ok, places.sentence) == (True, "There is no places.npz; recon locate makes it.")
    assert (journal.ok, journal.sentence) == (True, "The map has no record of a run, so it cannot be resumed.")
    assert all(not item.ok and "is missing" in item.sentence for item in others)
    assert recording.ok  # a run need not write one
    assert recording.sentence.startswith("There is no recording")
    assert sanity.sentence == "There is no report.json to say whether the map is doubtful."
    assert folds.sentence == found.sentence


def test_a_damaged_journal_fails(folder):
    Journal.begin(folder, "photos", RunSettings())
    assert {item.name: item.sentence for item in check_folder(folder).items}["journal"].endswith("with 0 frames.")
    change_ledger(folder, "parts", lambda rows: rows[0].update(settings=1))
    expected = f"{folder}/map/map.db is damaged: expected `object`, got `int` - at `parts[0].settings`."
    assert failures(folder)["journal"].startswith(expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: (path / "submap_0000.npz").unlink(), r"submap_0000\.npz is missing, with the depth of a chunk"),
        (
            lambda path: change_ledger(path.parent, "chunks", lambda rows: rows.pop(0)),
            r"map\.db lacks chunk 0, although later chunks are finished",
        ),
        (lambda path: truncate(path / "features.db"), r"features\.db is damaged \(.*, so the run cannot be resumed"),
        (lambda path: (path / "features.db").write_bytes(b"no database" * 9), r"features\.db is damaged \(file is not"),
        (lambda path: (path / "features.db").write_bytes(b""), r"features\.db is damaged \(no such table: images"),
    ],
)
def test_what_a_resumed_run_would_miss_fails(tmp_path, monkeypatch, change, words):
    monkeypatch.setitem(FRONT_ENDS, "sfm", ExactFrontEnd)
    for index in range(6):
        Image.fromarray(render(placed_frame(index))).save(tmp_path / f"{index}.jpg")
    out = tmp_path / "out"
    reconstruct(tmp_path, out, RunSettings(chunk=4, overlap=2))
    (out / "map" / "features.db").unlink()
    with closing(sqlite3.connect(out / "map" / "features.db")) as connection, connection:
        connection.execute("CREATE TABLE images (name TEXT)")
        connection.executemany("INSERT INTO images VALUES (?)", [("x" * 999,)] * 99)
    assert "journal" not in failures(out)
    change(out / "map")
    assert re.search(words, failures(out)["journal"])


def test_a_report_that_is_a_folder_fails(folder):
    (folder / "report.json").mkdir()
    assert failures(folder)["sanity"] == f"Cannot read {folder}/report.json: Is a directory. {AGAIN}"


def test_doubts_of_parts_are_said(folder):
    part = ChunkReport(1, 40, 99, 60, 60, 0.0, 1.0, warnings=("its scale jumps by 78%",))
    report = RunReport("x", RunSettings(), {}, 6, 6, (), (part,), (), 1.0, 1, (), interrupted=False)
    write(report, folder / "report.json")
    said = {item.name: item.sentence for item in check_folder(folder).items}["sanity"]
    expected = "Nothing about the whole map is doubtful, but parts of it are: frames 40 to 99: its scale jumps by 78%."
    assert said == expected
    write(dataclasses.replace(report, suspicions=("it is nearly flat",)), folder / "report.json")
    assert failures(folder)["sanity"] == "The map is doubtful: it is nearly flat."


def test_damaged_depth_fails(folder):
    path = folder / "map" / "submap_0001.npz"
    truncate(path)
    assert failures(folder).keys() == {"files", "map", "folds", "colours"}
    assert failures(folder)["map"].startswith(f"{path} is missing or damaged")


@pytest.mark.parametrize("name", ["submap_0000.npz", "points.npz"])
def test_one_flipped_bit_is_found_wherever_it_is(folder, name):
    path = folder / "map" / name
    whole = path.read_bytes()
    for place in (0, 10, len(whole) // 3, len(whole) - 40, len(whole) - 1):
        path.write_bytes(bytes(byte ^ (number == place) for number, byte in enumerate(whole)))
        with pytest.raises(CheckError, match=rf"^{path} is damaged: its checksum is \w+, expected \w+\. {AGAIN}$"):
            _check_files(_Outputs(folder))
    path.write_bytes(whole[:-1])
    assert failures(folder)["files"] == f"{path} has {len(whole) - 1} bytes, expected {len(whole)}. {AGAIN}"
    path.unlink()
    assert failures(folder)["files"] == f"{path} cannot be read: No such file or directory. {AGAIN}"


def test_files_without_known_checksums_are_counted(folder):
    change_ledger(folder, "files", lambda rows: rows[0].update(crc32=None))
    said = _check_files(_Outputs(folder))
    assert said.startswith(
        "2 files with depth and points have the checksums in the ledger; 1 are of an earlier version"
    )


def changed(reconstruction, **changes) -> str:
    """What the check of the map says after some of its content has changed."""
    made = dataclasses.replace(reconstruction, **changes)
    MapStore(made.folder).write_places(made.frames, made.skipped, made.points, complete=True)
    return failures(made.folder)["map"]


def test_frames_lenses_and_points_that_do_not_fit_together_fail(folder):
    made = open_map(folder)
    lens = dataclasses.replace(made.frames[2].camera, params=(-140.0, 80.0, 60.0, 0.05))
    frames = (*made.frames[:2], dataclasses.replace(made.frames[2], camera=lens), *made.frames[3:])
    assert "is impossible" in changed(made, frames=frames)
    assert "seen by frame 10, which has no pose" in changed(made, frames=made.frames[:-1])
    nowhere = np.where(np.arange(425)[:, None] == 7, np.nan, made.points.positions)
    assert "Not every point" in changed(made, points=dataclasses.replace(made.points, positions=nowhere))
    MapStore(folder).write_arrays(2, load_arrays(folder / "map" / "submap_0000.npz"))
    assert "Two submaps hold the depth of frame 0 (image_0000.jpg)" in changed(made)


def test_what_the_map_can_rebuild_is_repaired(folder):
    truncate(folder / "cloud.ply")
    (folder / "poses.txt").unlink()
    (folder / "map" / "places.npz").write_bytes(b"no archive")
    report = check_folder(folder)
    assert {item.name for item in report.items if not item.ok} >= {"places", "cloud", "poses", "convention"}
    assert repair_folder(report) == ()
    assert failures(folder) == {}
    assert not (folder / "map" / "places.npz").exists()
    truncate(folder / "map" / "submap_0001.npz")
    (folder / "poses.txt").unlink()
    repair_folder(check_folder(folder))  # nothing can be rebuilt from a damaged map
    assert not (folder / "poses.txt").exists()


def test_outputs_of_an_earlier_state_of_the_map_fail(folder):
    move_map(folder, Sim3(2.0, np.eye(3), np.zeros(3)), Metric(1, None))
    assert failures(folder).keys() == {"cloud", "convention", "colours"}
    assert "of another state of the map" in failures(folder)["convention"]
    repair_folder(check_folder(folder))
    assert failures(folder) == {}
    assert (folder / "poses.txt").read_text().splitlines()[1].startswith("# metres (not checked")


def test_a_missing_model_is_repaired(folder):
    shutil.rmtree(folder / "colmap" / "sparse")
    report = check_folder(folder)
    assert not report.ok
    assert repair_folder(report) == ()
    assert check_folder(folder).ok


def test_a_cloud_in_another_unit_fails(folder):
    cloud = (folder / "cloud.ply").read_bytes()
    (folder / "cloud.ply").write_bytes(cloud.replace(b"comment ", b"comment metres\ncomment ", 1))
    assert "another unit" in failures(folder)["cloud"]


@pytest.mark.parametrize("content", [b"", b"no recording"])
def test_a_file_that_is_not_a_recording_fails(folder, content):
    (folder / "recording.rrd").write_bytes(content)
    assert "Rerun cannot verify" in failures(folder)["recording"]


@pytest.mark.parametrize("name", ["images.bin", "points3D.bin", "frames.bin", "rigs.bin"])
def test_a_truncated_model_fails(folder, name):
    truncate(folder / "colmap" / "sparse" / "0" / name)
    failed = failures(folder)
    assert {"colmap", "reprojection", "convention", "cloud in cameras"} <= failed.keys()
    assert {"cloud", "images"}.isdisjoint(failed)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_cloud_fails(folder, damage):
    path = folder / "cloud.ply"
    if damage == "truncated":
        truncate(path)
    else:
        path.write_bytes(b"garbage" if damage == "garbage" else b"")
    assert "cloud.ply is truncated or not a binary PLY file" in failures(folder)["cloud"]


@pytest.mark.parametrize("content", ["", "0 1 2\n", "0 0 0 0 0 0 0 x\n"])
def test_a_damaged_trajectory_fails(folder, content):
    (folder / "poses.txt").write_text(content)
    failed = failures(folder)
    assert "poses.txt has other rows than of 8 numbers" in failed["poses"]
    assert "poses.txt has other rows than of 8 numbers" in failed["convention"]


def rewrite_poses(folder: Path, change) -> None:
    rows = np.loadtxt(folder / "poses.txt")
    np.savetxt(folder / "poses.txt", change(rows))


def test_poses_in_the_other_convention_are_recognised(folder):
    model = pycolmap.Reconstruction(folder / "colmap" / "sparse" / "0")
    rows = [
        [0.1 * number, *image.cam_from_world().translation, *image.cam_from_world().rotation.quat]
        for number, (_, image) in enumerate(sorted(model.images.items()))
    ]
    rewrite_poses(folder, lambda _: rows)
    assert "world-to-camera, expected camera-to-world" in failures(folder)["convention"]


def test_poses_that_differ_from_the_model_fail(folder):
    rewrite_poses(folder, lambda rows: rows + np.eye(8)[2] * 0.01)
    assert "differs from the COLMAP poses by up to 0.01" in failures(folder)["convention"]
    rewrite_poses(folder, lambda rows: rows[1:])
    assert "5 rows, the map 6 frames with a pose" in failures(folder)["convention"]


def test_quaternions_that_are_not_unit_fail(folder):
    rewrite_poses(folder, lambda rows: rows * [1, 1, 1, 1, 2, 2, 2, 2])
    assert "expected 1" in failures(folder)["poses"]


def test_a_missing_or_resized_image_fails(folder):
    path = folder / "colmap" / "images" / "image_0004.jpg"
    Image.new("RGB", (80, 60)).save(path)
    assert "80x60, its camera 160x120" in failures(folder)["images"]
    path.unlink()
    assert "image_0004.jpg of the map is missing" in failures(folder)["images"]


def test_wrong_pixels_raise_the_reprojection_error(tmp_path):
    reconstruction = make_map(tmp_path)
    reconstruction.points.pixels[:] += [3.0, 4.0]
    export(reconstruction, "colmap", tmp_path / "colmap")
    assert "mean 5.00, median 5.00 px" in failures(tmp_path)["reprojection"]


@pytest.mark.parametrize(("scale", "failed"), [(0.7, "cloud on points"), (5.0, "cloud in cameras")])
def test_a_cloud_of_another_scale_fails(folder, scale, failed):
    cloud = open3d.io.read_point_cloud(str(folder / "cloud.ply"))
    cloud.points = open3d.utility.Vector3dVector(np.asarray(cloud.points) * [scale, scale, scale**0.5])
    open3d.io.write_point_cloud(str(folder / "cloud.ply"), cloud)
    assert failed in failures(folder)


def test_a_cloud_without_colours_or_with_infinite_points_fails(folder):
    positions = np.ones((5, 3))
    positions[2, 1] = np.inf
    plain = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(positions))
    open3d.io.write_point_cloud(str(folder / "cloud.ply"), plain)
    assert "1 of them not finite" in failures(folder)["cloud"]
    plain.points = open3d.utility.Vector3dVector(np.ones((5, 3)))
    open3d.io.write_point_cloud(str(folder / "cloud.ply"), plain)
    assert "no colours" in failures(folder)["cloud"]
