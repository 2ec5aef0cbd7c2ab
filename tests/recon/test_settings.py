"""Settings that a program may get wrong, and the pipeline called as a library."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.errors import ReconstructionError, SettingsError
from recon.core.events import Event
from recon.core.helping import STRICT
from recon.pipeline import reconstruct
from recon.settings import CloudSettings, NetworkSettings, PlaceSettings, RunSettings
from recon.sources import SourceOptions
from recon.store.map import open_map
from tests.recon.test_pipeline import FRAMES, SETTINGS, front_end, photos

__all__ = ["front_end", "photos"]


@pytest.mark.parametrize(
    ("make", "field", "sentence"),
    [
        (RunSettings, {"depth": "wrong"}, "RunSettings.depth must be filled or classical, got 'wrong'."),
        (RunSettings, {"refine": "all"}, "RunSettings.refine must be auto or none, got 'all'."),
        (RunSettings, {"refine": ["auto"]}, "RunSettings.refine must be auto or none, got ['auto']."),
        (RunSettings, {"chunk": "60"}, "RunSettings.chunk must be a whole number, got '60'."),
        (RunSettings, {"chunk": 60.5}, "RunSettings.chunk must be a whole number, got 60.5."),
        (RunSettings, {"chunk": True}, "RunSettings.chunk must be a whole number, got True."),
        (RunSettings, {"chunk": 12}, "--chunk must be larger than --overlap, got 12 and 12 (the default)."),
        (RunSettings, {"overlap": None}, "RunSettings.overlap must be a whole number, got None."),
        (RunSettings, {"overlap": 0}, "--overlap must be at least 1, got 0."),
        (
            RunSettings,
            {"camera_model": "radial"},
            "RunSettings.camera_model must be SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV or "
            "OPENCV_FISHEYE, got 'radial'.",
        ),
        (RunSettings, {"intrinsics": "500"}, "RunSettings.intrinsics must be a Camera or None, got '500'."),
        (RunSettings, {"source": "photos"}, "RunSettings.source must be a SourceOptions, got 'photos'."),
        (RunSettings, {"overwrite": "no"}, "RunSettings.overwrite must be True or False, got 'no'."),
        (
            RunSettings,
            {"overwrite": True, "resume": True},
            "--resume continues a run that --overwrite would delete. Use only one of them.",
        ),
        (
            SourceOptions,
            {"cameras": "two"},
            "SourceOptions.cameras must be auto, one, per-image or per-folder, got 'two'.",
        ),
        (SourceOptions, {"keyframes": "some"}, "SourceOptions.keyframes must be auto, all or select, got 'some'."),
        (SourceOptions, {"size": "320"}, "SourceOptions.size must be a whole number, got '320'."),
        (SourceOptions, {"size": 63}, "--size must be 64 to 16384 pixels, got 63."),
        (SourceOptions, {"fps": "2"}, "SourceOptions.fps must be a number or None, got '2'."),
        (SourceOptions, {"masks": "masks"}, "SourceOptions.masks must be a Path or None, got 'masks'."),
        (CloudSettings, {"voxel": "fine"}, "CloudSettings.voxel must be a number or None, got 'fine'."),
        (PlaceSettings, {"weights": None}, "PlaceSettings.weights must be a text, got None."),
        (
            NetworkSettings,
            {"weights": "VGGT-1B", "arithmetic": "v3"},
            "NetworkSettings.arithmetic must be dense, v1, v2 or None, got 'v3'.",
        ),
    ],
)
def test_a_value_that_cannot_work_names_its_field(make: Callable[..., Any], field: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(sentence)}$"):
        make(**field)


@pytest.mark.parametrize("name", ["front_end", "matcher"])
def test_a_name_that_is_not_registered_leaves_nothing(photos: Path, tmp_path: Path, name: str, monkeypatch) -> None:
    monkeypatch.undo()  # the real front end
    kind = name.replace("_", " ")
    with pytest.raises(SettingsError, match=rf"^There is no {kind} wrong\. Choose one of .*sift|sfm"):
        reconstruct(str(photos), tmp_path / "out", RunSettings(**{name: "wrong"}))
    assert not (tmp_path / "out").exists()


def test_runs_in_threads_and_again_in_the_same_process(photos: Path, tmp_path: Path) -> None:
    def run(name: str) -> np.ndarray:
        report = reconstruct(photos, str(tmp_path / name), SETTINGS)
        assert (report.frames_placed, report.interrupted) == (FRAMES, False)
        return np.array([frame.world_from_cam.translation for frame in open_map(tmp_path / name).frames])

    with ThreadPoolExecutor(2) as threads:
        centres = [*threads.map(run, ("one", "two")), run("three"), run("four")]
    assert all((found == centres[0]).all() for found in centres)


def test_listeners_that_raise_do_not_end_a_run(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(STRICT, raising=False)
    events: list[Event] = []

    def breaks(_: Event) -> None:
        raise SettingsError("mine")

    report = reconstruct(str(photos), tmp_path / "out", SETTINGS, [breaks, events.append, None])
    assert report.frames_placed == FRAMES
    assert report.notices == (
        f"The run continues without the listener breaks, which failed (SettingsError: mine), see {tmp_path}/out/"
        "error.txt.",
        "The run continues without the listener NoneType, which failed (TypeError: 'NoneType' object is not "
        f"callable), see {tmp_path}/out/error.txt.",
    )
    assert type(events[-1]).__name__ == "Finished"


@pytest.mark.parametrize(
    ("asked", "frames", "live", "decided"),
    [
        ({}, 100, False, "all"),
        ({}, 101, False, "select"),
        ({}, 0, False, "select"),  # a file that does not say
        ({"refine": "none"}, 101, False, "all"),
        ({"front_end": "own"}, 101, False, "all"),
        ({"network": NetworkSettings("VGGT-1B")}, 101, False, "all"),
        ({"network": NetworkSettings("VGGT-1B")}, 0, True, "select"),
        ({"source": SourceOptions(keyframes="select")}, 3, False, "select"),
        ({"source": SourceOptions(keyframes="all")}, 0, True, "all"),
    ],
)
def test_keyframes_are_selected_from_long_sources_whose_other_frames_get_poses(
    asked: Any, frames: int, live: bool, decided: str
) -> None:
    assert RunSettings(**asked).decided(frames, live=live).source.keyframes == decided


def test_a_camera_that_stands_still_gives_a_sentence(tmp_path: Path, front_end: Any) -> None:
    for index in range(5):
        PillowImage.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / f"{index}.png")
    with pytest.raises(ReconstructionError, match="The picture hardly changes in the 5 frames of"):
        reconstruct(str(tmp_path), tmp_path / "out", RunSettings(SourceOptions(keyframes="select")))
