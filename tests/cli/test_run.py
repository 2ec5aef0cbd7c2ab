"""The commands of a whole session on a few frames of the sample: plan, run, check, evaluate, export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from cli.options import calibrated_camera
from cli.progress import ProgressBar
from cli.run import prepare
from recon.core.errors import SettingsError
from recon.core.events import Progress
from recon.core.machine import Machine
from recon.core.quantities import duration, size
from recon.core.types import Camera
from recon.exports.ply import read_points
from recon.sources import SourceDescription
from recon.store import report
from tests.bags import Messages, write_bag
from tests.cli.conftest import SAMPLE, Recon, make_images
from tests.panoramas import walk, write_panoramas

FEW = ("--every", "2", "--max-frames", "6", "--size", "320")
DESCRIPTION = SourceDescription("folder", 60, ((640, 480),), 0.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a recording."""
    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.raises(SystemExit) as ended:
        main(["run", str(SAMPLE / "images"), "--out", str(out), "--intrinsics", str(SAMPLE / "intrinsics.txt"), *FEW])
    assert not ended.value.code
    return out


def test_plan_estimates_a_run_and_writes_nothing(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("plan", make_images(tmp_path / "photos"), "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "3, 160x120, processed at 160x120" in outcome.out
    for row in ("chunks", "time", "memory", "GPU memory", "disk"):
        assert f"  {row} " in outcome.out
    assert not (tmp_path / "out").exists()


def test_plan_reports_the_settings_that_it_lowers(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.plan.look_at_machine", lambda _: Machine(1_400_000_000, 10**12, 2))
    outcome = recon("plan", SAMPLE / "images", "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "note: --chunk was reduced from 60 to" in outcome.out


def test_run_writes_everything_that_it_names(finished: Path) -> None:
    for name in ("cloud.ply", "colmap/sparse/0/images.bin", "poses.txt", "recording.rrd", "map/map.db"):
        assert (finished / name).stat().st_size > 0
    run = report.read(finished / "report.json")
    assert (run.frames_read, run.frames_placed, run.interrupted) == (6, 6, False)
    assert run.settings.source.every == 2
    assert run.settings.intrinsics == Camera("PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0))


def test_check_finds_nothing_wrong(recon: Recon, finished: Path) -> None:
    outcome = recon("check", finished)
    assert outcome.code == 0
    assert outcome.out.count("  ok  ") == 16
    assert "FAILED" not in outcome.out


def test_check_fails_with_1(recon: Recon, finished: Path) -> None:
    cloud = finished / "cloud.ply"
    content = cloud.read_bytes()
    cloud.write_bytes(content[: len(content) // 2])
    try:
        outcome = recon("check", finished)
    finally:
        cloud.write_bytes(content)
    assert outcome.code == 1
    assert "FAILED  " in outcome.out
    assert "cloud.ply is truncated" in outcome.out


def test_eval_measures_against_the_reference_and_draws(recon: Recon, finished: Path) -> None:
    outcome = recon("eval", finished, "--reference", SAMPLE / "poses.txt")
    assert outcome.code == 0
    rows = dict(line.strip().split("  ", 1) for line in outcome.out.splitlines()[1:])
    assert rows["matched poses"].strip() == "6 of 60"
    assert float(rows["ATE RMSE"]) < 0.01  # metres, of a path of 0.6 m
    assert (finished / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_eval_measures_depth_and_cloud(recon: Recon, finished: Path) -> None:
    truth = ("--depth", SAMPLE / "depth", "--intrinsics", SAMPLE / "intrinsics.txt")
    outcome = recon("eval", finished, "--reference", SAMPLE / "poses.txt", *truth)
    assert outcome.code == 0
    rows = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in outcome.out.splitlines()[1:])
    assert rows["depth images"] == "2"  # of frames 0 and 6; the run took 0, 2, ..., 10
    for row, limit in (("depth error", 2.0), ("with frames scaled", 2.0)):
        assert float(rows[row].split("%")[0]) < limit
    assert float(rows["depth kept"].split("%")[0]) > 30
    assert float(rows["cloud to surface"].split()[0]) < 0.1  # metres


def test_the_true_lens_is_accepted_only_with_true_depth(recon: Recon, finished: Path) -> None:
    outcome = recon("eval", finished, "--reference", SAMPLE / "poses.txt", "--intrinsics", "500,500,320,240")
    assert outcome.code == 2
    assert "add --depth" in outcome.err


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (("--to", "tum"), "poses.txt"),
        (("--to", "kitti"), "poses_kitti.txt"),
        (("--to", "mesh"), "mesh.ply"),
        (("--to", "nerfstudio"), "nerfstudio/transforms.json"),
        (("--to", "colmap", "--undistort"), "colmap_undistorted/sparse/0/cameras.bin"),
    ],
)
def test_export_writes_into_the_folder_by_default(
    recon: Recon, finished: Path, options: tuple[str, ...], written: str
) -> None:
    outcome = recon("export", finished, *options)
    assert outcome.code == 0
    assert outcome.out == f"Wrote {finished / Path(written).parts[0]}\n"
    assert (finished / written).is_file()


def test_export_writes_to_the_given_path(recon: Recon, finished: Path, tmp_path: Path) -> None:
    assert recon("export", finished, "--to", "ply", "--out", tmp_path / "a" / "scene.ply").code == 0
    assert (tmp_path / "a" / "scene.ply").read_bytes() == (finished / "cloud.ply").read_bytes()


def test_export_thins_and_cleans_on_request(recon: Recon, finished: Path, tmp_path: Path) -> None:
    sizes = {}
    for name, options in {"default": (), "few": ("--max-points", "2000"), "raw": ("--no-clean",)}.items():
        out = tmp_path / f"{name}.ply"
        assert recon("export", finished, "--to", "ply", "--out", out, *options).code == 0
        sizes[name] = len(read_points(out).positions)
    assert 200 < sizes["few"] <= 2000 < sizes["default"] < sizes["raw"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "tum", "--voxel", "0.1"), "do not apply to"),
        (("--to", "ply", "--voxel", "0"), "must be positive"),
        (("--to", "ply", "--max-points", "7"), "must be at least 8"),
        (("--to", "ply", "--no-clean", "--no-sky"), "Omit --no-clean"),
        (("--to", "mesh", "--out", "mesh.obj"), "got mesh.obj"),
    ],
)
def test_export_refuses_meaningless_options(recon: Recon, finished: Path, options: tuple[str, ...], words: str) -> None:
    outcome = recon("export", finished, *options)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--viewer", "none", "--viewer", "web"), "cannot be combined with other viewers"),
        (("--web-host", "127.0.0.2"), "add --viewer web"),
        (("--viewer", "web", "--web-host", "0.0.0.0"), "not a wildcard"),
        (("--viewer", "web", "--web-host", "192.0.2.1"), "is not an address of this machine"),
    ],
)
def test_run_refuses_impossible_viewers(recon: Recon, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tmp_path / "out").exists()


def test_only_colmap_has_undistorted_images(recon: Recon, finished: Path) -> None:
    outcome = recon("export", finished, "--to", "ply", "--undistort")
    assert outcome.code == 2
    assert "to colmap only" in outcome.err


def test_view_without_a_display_names_the_file(recon: Recon, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewer.launch.has_display", lambda: False)
    outcome = recon("view", finished)
    assert outcome.code == 2
    assert str(finished / "recording.rrd") in outcome.err


def test_ctrl_c_keeps_finished_work(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show = ProgressBar.__call__

    def interrupt(self: ProgressBar, event: object) -> None:
        show(self, event)  # type: ignore[arg-type]
        if isinstance(event, Progress) and event.stage == "frames":
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "__call__", interrupt)
    options = ("--chunk", "5", "--overlap", "2", "--viewer", "none", *FEW)
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", *options)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "Interrupted. Finished chunks are kept, and every file is complete."
    run = report.read(tmp_path / "out" / "report.json")
    assert run.interrupted
    assert run.frames_placed == 5
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 1 + 5


def test_calibration_with_distortion_becomes_opencv() -> None:
    camera = calibrated_camera("500,501,320,240,0.1", None, DESCRIPTION.sizes)
    assert camera == Camera("OPENCV", 640, 480, (500.0, 501.0, 320.0, 240.0, 0.1, 0.0, 0.0, 0.0))


def test_calibration_of_a_fisheye_may_leave_out_its_distortion() -> None:
    camera = calibrated_camera("500,501,320,240", "fisheye", DESCRIPTION.sizes)
    assert camera == Camera("OPENCV_FISHEYE", 640, 480, (500.0, 501.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0))


def test_calibration_file_may_have_comments_and_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "camera.txt"
    path.write_text("# fx fy cx cy\n500 501, 320 240\n0.1 0.2 # k1 k2\n")
    camera = calibrated_camera(str(path), "opencv", DESCRIPTION.sizes)
    assert camera.params == (500.0, 501.0, 320.0, 240.0, 0.1, 0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (150, "2.5 min"), (3000, "50 min"), (7500, "2 h 05 min")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "0 MB"), (12_400_000, "12 MB"), (1_230_000_000, "1.2 GB")])
def test_sizes_are_short(amount: int, text: str) -> None:
    assert size(amount) == text


def test_a_ros_bag_brings_its_lens_and_its_topics(recon: Recon, tmp_path: Path) -> None:
    messages, pixels = Messages(2), np.full((48, 64, 3), 90, np.uint8)
    rows = [
        ("/left/image_raw", 1, messages.image(1, pixels)),
        ("/left/image_raw", 2, messages.image(2, pixels)),
        ("/left/camera_info", 1, messages.camera_info(1, (64, 48), (50, 0, 31.5, 0, 50, 23.5, 0, 0, 1))),
    ]
    bag = write_bag(tmp_path / "one", rows, messages)
    assert prepare(str(bag), tmp_path).settings.intrinsics == Camera("PINHOLE", 64, 48, (50.0, 50.0, 32.0, 24.0))
    assert prepare(str(bag), tmp_path, camera_model="radial").settings.intrinsics is None
    assert prepare(str(bag), tmp_path, cameras="one").settings.intrinsics is None
    assert prepare(str(bag), tmp_path, intrinsics="40,40,32,24").settings.intrinsics == Camera(
        "PINHOLE", 64, 48, (40.0, 40.0, 32.0, 24.0)
    )
    two = write_bag(tmp_path / "two", [*rows, ("/right/image_raw", 3, messages.image(1, pixels))], messages)
    outcome = recon("run", two, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.err == (
        f"recon: {two} has 2 image topics: /left/image_raw (2 images), /right/image_raw (1 image). "
        "Choose one with --topic.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lens", [{"camera_model": "radial"}, {"intrinsics": "500,500,320,240"}])
def test_a_lens_cannot_be_given_for_panoramas(tmp_path: Path, lens: dict[str, Any]) -> None:
    folder = write_panoramas(tmp_path / "walk", walk(2), 64)
    with pytest.raises(
        SettingsError, match=r"--(camera-model|intrinsics) cannot be combined with 360-degree panoramas"
    ):
        prepare(str(folder), tmp_path / "out", **lens)
    prepared = prepare(str(folder), tmp_path / "out", chunk=13, overlap=4)
    assert (prepared.settings.chunk, prepared.settings.overlap, prepared.settings.intrinsics) == (
        18, 6, prepared.description.lens,
    )  # fmt: skip
