"""Rigs: what their files say, which images belong together, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.typed_json import typed
from recon.core.types import Frame, PassedFrame, SkippedFrame
from recon.settings import RunSettings
from recon.sources import SourceOptions, open_source
from recon.sources.base import KeyframeChoice
from recon.sources.rigs import read_rig
from recon.store.journal import FrameRecord, record
from tests.rigs import CAMERAS, LENSES, SIZE, cam_from_rig, colmap_config, write_colmap_config, write_kalibr


def write_shots(folder: Path, names: list[str], cameras: tuple[str, ...] = CAMERAS) -> Path:
    """Images of one colour; the first camera's is the shot's number, the second's 100 more."""
    for number, camera in enumerate(cameras):
        (folder / camera).mkdir(parents=True)
        for shot, name in enumerate(names):
            PillowImage.new("L", SIZE, 100 * number + shot).convert("RGB").save(folder / camera / name)
    return folder


def options_of(path: Path, **more: Any) -> SourceOptions:
    return SourceOptions(rig=path, **more)


def sizes(_: str) -> tuple[int, int]:
    return SIZE


def test_colmap_and_kalibr_describe_the_same_rig(tmp_path: Path) -> None:
    by_colmap = read_rig(write_colmap_config(tmp_path / "rig_config.json"), sizes)
    by_kalibr = read_rig(write_kalibr(tmp_path / "camchain.yaml"), sizes)
    assert [camera.prefix for camera in by_colmap] == ["left/", "right/"]
    assert [camera.prefix for camera in by_kalibr] == ["cam0/", "cam1/"]
    for cameras in (by_colmap, by_kalibr):
        for camera, lens, pose in zip(cameras, LENSES, cam_from_rig(), strict=True):
            assert (camera.lens.model, camera.lens.params) == ("PINHOLE", lens)
            assert np.allclose(camera.cam_from_rig, pose, atol=1e-12)


def test_a_third_camera_of_kalibr_follows_from_the_second(tmp_path: Path) -> None:
    path = write_kalibr(tmp_path / "camchain.yaml")
    second = path.read_text().split("cam1:", 1)[1]
    path.write_text(f"{path.read_text()}cam2:{second}")
    *_, first, last = read_rig(path, sizes)
    assert np.allclose(last.cam_from_rig, first.cam_from_rig @ first.cam_from_rig)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"camera_params": [1, 2]}, "camera_params of the camera right/ must be 4 numbers"),
        ({"camera_model_name": "FOV"}, "the camera right/ needs its lens"),
        ({"cam_from_rig_rotation": [1, 1, 0, 0]}, "must be a quaternion w, x, y, z of length 1"),
        ({"cam_from_rig_translation": None}, "cam_from_rig_translation of the camera right/ must be 3 numbers"),
        ({"ref_sensor": True}, '"ref_sensor" is true for 2 cameras; it must be for one'),
        ({"image_prefix": ""}, 'a camera has no "image_prefix"'),
        ({"image_prefix": "left/"}, "several cameras have the prefix left/, but each needs its own"),
        ({"camera_params": [-300, 300, 240, 180]}, "the focal length of the camera right/ must be positive"),
        ({"camera_params": [300, 0, 240, 180]}, "the focal length of the camera right/ must be positive"),
        ({"camera_params": "5555"}, "camera_params of the camera right/ must be 4 numbers, got 5555"),
        ({"cam_from_rig_translation": [1e300, 0, 0]}, "a translation is too long to be that of a rig"),
    ],
)
def test_a_fault_of_the_file_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content: Any = colmap_config()
    content[0]["cameras"][1].update(change)
    path = tmp_path / "rig_config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=f"--rig: {path}: .*{said}"):
        read_rig(path, sizes)


def test_files_that_describe_no_rig_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rig"
    for text, said in (
        ("[", "Expecting value"),
        ("[" * 200_000, "it is nested too deeply"),
        ("[]", "it has 0 rigs"),
        (json.dumps(2 * colmap_config()), "it has 2 rigs, but one run takes one"),
        ("cam0: {intrinsics: [1, 1, 0, 0]}", "it has 1 camera, and a rig needs two"),
        ("cam0: {intrinsics: [1, 1, 0, 0]}\ncam1: {intrinsics: [1, 1, 0, 0]}", "cam1 has no T_cn_cnm1"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=said):
            read_rig(path, sizes)
    path.write_text(write_kalibr(path).read_text().replace("0.01", "x"))
    with pytest.raises(SettingsError, match="T_cn_cnm1 of cam1 must be four rows of four numbers"):
        read_rig(path, sizes)
    with pytest.raises(SettingsError, match="cannot be read as text"):
        read_rig(tmp_path / "none", sizes)


def test_images_of_one_name_are_a_shot(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", ["2.png", "10.png"])
    source = open_source(str(folder), options_of(write_colmap_config(tmp_path / "rig.json")), tmp_path / "out")
    assert (source.description.frames, source.description.views, source.description.unit) == (4, 2, "shot")
    frames = [item for item in source if isinstance(item, Frame)]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert [frame.name[7:] for frame in frames] == ["2_left.png", "2_right.png", "10_left.png", "10_right.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [frame.name for frame in frames]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 100, 1, 101]
    assert [frame.shot for frame in frames] == [0, 0, 2, 2]
    for frame, lens, pose in zip(frames, 2 * LENSES, 2 * cam_from_rig(), strict=True):
        assert frame.mount and frame.mount.camera.params == lens
        assert np.allclose(frame.mount.cam_from_rig, pose)
    kept = json.loads(json.dumps(asdict(record(frames[1]))))
    assert typed(kept, FrameRecord, tmp_path, "").mount == frames[1].mount


def test_another_rig_has_another_name(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", ["0.png"])
    path = write_colmap_config(tmp_path / "rig.json")
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace("-0.25", "-0.26"))
    names = []
    for file in (path, path, other):
        (first, second) = (item for item in open_source(str(folder), options_of(file)) if isinstance(item, Frame))
        assert first.mount and second.mount and first.mount.rig == second.mount.rig
        names.append(first.mount.rig)
    assert names[0] == names[1] != names[2]


def test_every_and_max_frames_count_shots(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", [f"{number}.png" for number in range(6)])
    path = write_colmap_config(tmp_path / "rig.json")
    source = open_source(str(folder), options_of(path, every=2, max_frames=2))
    assert [item.index for item in source if isinstance(item, Frame)] == [0, 1, 4, 5]
    assert source.description.frames == 4


def test_keyframes_are_chosen_by_shot(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", [f"{number}.png" for number in range(4)])
    source = open_source(str(folder), options_of(write_colmap_config(tmp_path / "rig.json")))
    source.keyframes = KeyframeChoice(select=True)  # blank images show nothing new
    items = list(source)
    assert [item.index for item in items if isinstance(item, Frame)][:2] == [0, 1]
    passed = [item for item in items if isinstance(item, PassedFrame)]
    assert [(item.index, item.name) for item in passed[-2:]] == [(6, "3_left.png"), (7, "3_right.png")]


def test_incomplete_and_unreadable_shots_are_left_out(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", ["0.png", "1.png", "2.png"])
    (folder / "right" / "1.png").unlink()
    (folder / "left" / "2.png").write_bytes(b"damage")
    items = list(open_source(str(folder), options_of(write_colmap_config(tmp_path / "rig.json"))))
    assert [item.text for item in items if isinstance(item, Notice)] == [
        "1 shot left out, as not every camera has it, the first 1."
    ]
    assert [item.name for item in items if isinstance(item, Frame)] == ["0_left.png", "0_right.png"]
    (skipped,) = (item for item in items if isinstance(item, SkippedFrame))
    assert skipped.name == "2.png" and skipped.reason.endswith("the other images of its shot are left out, too")


def test_folders_that_hold_no_shots_are_refused(tmp_path: Path) -> None:
    path = write_colmap_config(tmp_path / "rig.json")
    folder = write_shots(tmp_path / "images", ["0.png"])
    with pytest.raises(SourceError, match=r"holds no images cam0/\*"):
        open_source(str(folder), options_of(write_kalibr(tmp_path / "camchain.yaml")))
    with pytest.raises(SourceError, match="is not a folder"):
        open_source(str(folder / "left" / "0.png"), options_of(path))
    with pytest.raises(SettingsError, match="--masks cannot be combined with --rig"):
        open_source(str(folder), options_of(path, masks=folder))
    with pytest.raises(SettingsError, match="--fps does not apply to the images of --rig"):
        options_of(path, fps=2.0)
    (folder / "right" / "0.png").rename(folder / "right" / "1.png")
    with pytest.raises(SourceError, match="has the same name for all cameras"):
        open_source(str(folder), options_of(path))
    PillowImage.new("RGB", (100, 100)).save(folder / "right" / "0.png")
    (folder / "right" / "1.png").unlink()
    kalibr = write_kalibr(tmp_path / "camchain.yaml")
    for number, name in enumerate(CAMERAS):
        (folder / name).rename(folder / f"cam{number}")
    with pytest.raises(SettingsError, match="of cam1/ are 100x100, but it was calibrated at 480x360"):
        open_source(str(folder), options_of(kalibr))


@pytest.mark.parametrize(
    ("params", "said"),
    [([1200, 1200, 960, 720], "lies outside, but the images are 480x360"), ([0.6, 0.8, 0.5, 0.5], "is a share of the")],
)
def test_a_lens_for_other_images_is_refused(tmp_path: Path, params: list[float], said: str) -> None:
    content: Any = colmap_config()
    content[0]["cameras"][1]["camera_params"] = params
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=f"--rig: {path}: right/: .*{said}"):
        open_source(str(write_shots(tmp_path / "images", ["0.png"])), options_of(path))


def test_a_prefix_that_is_a_whole_name_leaves_nothing(tmp_path: Path) -> None:
    content: Any = colmap_config()
    content[0]["cameras"][1]["image_prefix"] = "right/0.png"
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=r"holds no images right/0\.png\*"):
        open_source(str(write_shots(tmp_path / "images", ["0.png"])), options_of(path))


def test_settings_of_a_rig_refuse_another_lens(tmp_path: Path) -> None:
    folder = write_shots(tmp_path / "images", ["0.png"])
    source = open_source(str(folder), options_of(write_colmap_config(tmp_path / "rig.json"))).description
    settings = RunSettings(chunk=7, overlap=3).of_rig(source)
    assert (settings.chunk, settings.overlap) == (8, 4)
    with pytest.raises(SettingsError, match="--cameras cannot be combined with --rig: its file says"):
        RunSettings(SourceOptions(cameras="per-image")).of_rig(source)
