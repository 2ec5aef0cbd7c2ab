"""Every example of docs/extending.md, registered from outside the packages and run on a small sample."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from recon.core.errors import SettingsError
from recon.exports import EXPORTS
from recon.frontend import FRONT_ENDS
from recon.network.architectures import ARCHITECTURES
from recon.network.known_weights import FOLDER_VARIABLE, KNOWN
from recon.pipeline import reconstruct
from recon.settings import PlaceSettings, RunSettings
from recon.sfm.colmap_file import ID_LIMIT
from recon.sfm.database import MatchDatabase
from recon.sfm.matching import MATCHERS
from recon.sources import SOURCES, SourceOptions, open_source
from recon.store import report
from recon.store.map import open_map
from retrieval.describer import PLACE_DESCRIPTORS
from tests.support import half_size_sample, make_map

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
SOURCE, EXPORT, MATCHER, IMAGE_MATCHER, PLACES, NETWORK = BLOCKS
FRAMES = 6


@pytest.fixture(autouse=True)
def registries_as_they_were() -> Iterator[None]:
    registries = (SOURCES, EXPORTS, MATCHERS, PLACE_DESCRIPTORS, FRONT_ENDS, KNOWN, ARCHITECTURES)
    before = [(registry, dict(registry)) for registry in registries]
    yield
    for registry, choices in before:
        registry.clear()
        registry.update(choices)


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small sample at its usual place and the folder of weights."""
    half_size_sample(tmp_path / "data" / "sample", FRAMES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "weights"))
    return tmp_path


def run(block: str) -> dict[str, Any]:
    """The names that a block of the page defines."""
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names


def inliers(folder: Path) -> dict[tuple[int, int], int]:
    """The number of verified matches of every pair of frames in the database of a run."""
    with closing(sqlite3.connect(folder / "map" / "features.db")) as connection:
        rows = connection.execute("SELECT pair_id, rows FROM two_view_geometries").fetchall()
    return {(number // ID_LIMIT - 1, number % ID_LIMIT - 1): count for number, count in rows}


def centres(folder: Path) -> np.ndarray:
    return np.array([frame.world_from_cam.translation for frame in open_map(folder).frames])


def test_a_source(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(SOURCE)
    assert names["report"].frames_placed == 3
    assert [frame.name for frame in open_map(checkout / "out" / "from-stack").frames] == [
        "000000.jpg", "000001.jpg", "000002.jpg",
    ]  # fmt: skip
    opened = open_source("out/stack.npy", SourceOptions(every=2))
    frames = list(opened)
    assert (opened.description.kind, opened.description.frames, opened.description.sizes) == ("stack", 2, ((320, 240),))
    assert [frame.index for frame in frames] == [0, 2]
    assert np.array_equal(frames[1].image, names["np"].load("out/stack.npy")[2])
    with pytest.raises(SystemExit) as ended:
        main(["plan", "out/stack.npy"])
    assert not ended.value.code
    assert "3, 320x240" in capsys.readouterr().out


def test_an_export(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_map(checkout / "out" / "demo")
    run(EXPORT)
    rows = (checkout / "out" / "demo" / "centres.csv").read_text().splitlines()
    assert rows[0] == "name,x,y,z" and len(rows) == 1 + len(made.frames)
    assert np.allclose([float(value) for value in rows[1].split(",")[1:]], made.frames[0].world_from_cam.translation)
    assert "table True centres.csv opens and is complete." in capsys.readouterr().out
    (checkout / "out" / "demo" / "centres.csv").write_text("name,x\nimage_0000.jpg,0\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", "out/demo"])
    assert ended.value.code == 1
    assert re.search(r"table\s+FAILED\s+Cannot be read, KeyError: .y.", capsys.readouterr().out)


def test_a_matcher_whose_descriptors_survive_a_resumed_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sorted((checkout / "data" / "sample" / "images").iterdir())
    later = [shutil.move(path, checkout / path.name) for path in images[3:]]
    names, out = run(MATCHER), checkout / "out" / "patches"
    assert report.read(out / "report.json").settings.matcher == "patches"
    settings = replace(names["settings"], overwrite=False, resume=True)
    with pytest.raises(SettingsError, match=r"made by the matcher patches, not sift\. Use the same one to resume it"):
        reconstruct("data/sample/images", out, replace(settings, matcher="sift"))

    shutil.move(later[0], images[0].parent)
    described: list[int] = []
    describe = names["Patches"].describe
    monkeypatch.setattr(names["Patches"], "describe", lambda own, f: described.append(f.index) or describe(own, f))
    resumed = reconstruct("data/sample/images", out, settings)
    assert (resumed.frames_placed, described) == (4, [3])
    assert min(inliers(out)[pair] for pair in ((0, 1), (0, 2), (2, 3))) > 200

    database = MatchDatabase(out / "map" / "features.db", names["Patches"](), "SIMPLE_RADIAL", None, range(4))
    for frame in open_source("data/sample/images", names["options"]):
        database.add(frame)
        stored, fresh = database.features(frame.index), describe(names["Patches"](), frame)
        assert (stored.descriptors.dtype, stored.descriptors.shape) == (np.float16, (len(stored.keypoints), 96))
        assert np.array_equal(stored.descriptors, fresh.descriptors)
        assert np.array_equal(stored.keypoints, fresh.keypoints)
        assert stored.size == fresh.size == (320, 240)
    database.close()


def test_an_image_matcher(checkout: Path) -> None:
    names, out = run(IMAGE_MATCHER), checkout / "out" / "flow"
    assert names["report"].frames_placed == 4
    found = inliers(out)
    assert min(found[first, first + 1] for first in range(3)) > 500 and found[0, 3] > 300
    truth = np.loadtxt(checkout / "data" / "sample" / "poses.txt")[:4, 1:4]
    steps, true_steps = (np.linalg.norm(np.diff(places, axis=0), axis=1) for places in (centres(out), truth))
    assert np.allclose(steps / steps.sum(), true_steps / true_steps.sum(), atol=0.05)


def test_a_place_descriptor(checkout: Path) -> None:
    names = run(PLACES)
    settings = report.read(checkout / "out" / "thumbnail" / "report.json").settings
    assert settings.places == PlaceSettings("thumbnail")
    assert names["recogniser"].name == "thumbnail 16x12"
    assert len(names["recogniser"]._index) == 6
    with pytest.raises(SettingsError, match="name a place descriptor, but there is no recogniser"):
        reconstruct("data/sample/images", checkout / "none", names["settings"])
    with pytest.raises(
        SettingsError, match=r"no place descriptor x\. Choose one of vlad, xfeat-vlad, ImAge, thumbnail"
    ):
        names["open_recogniser"](PlaceSettings("x"))
    with pytest.raises(SettingsError, match="vlad has no weights, got ImAge"):
        names["open_recogniser"](PlaceSettings("vlad", "ImAge"))


def test_a_network(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(NETWORK)
    assert names["report"].frames_placed == FRAMES
    placed = open_map(checkout / "out" / "sideways").frames
    assert [frame.camera.params[0] for frame in placed] == pytest.approx([0.8 * 320] * FRAMES)
    with pytest.raises(SystemExit):
        main(["weights", "list"])
    listed = capsys.readouterr().out
    assert f"installed: {checkout / 'weights' / 'Sideways' / 'sideways.safetensors'}" in listed
    assert "https://huggingface.co/me/sideways" in listed
    for words in (["verify", "Sideways"], ["import", "weights/Sideways/sideways.safetensors", "--name", "sideways"]):
        with pytest.raises(SystemExit) as ended:
            main(["weights", *words])
        assert not ended.value.code
    said = capsys.readouterr().out
    assert re.search(r"kind +a focal length of 0\.80 widths\n", said)
    assert "Imported as weights/Sideways/Sideways.safetensors" in said.replace(f"{checkout}/", "")


def test_a_matcher_that_is_not_registered_is_refused_before_anything_is_written(checkout: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no matcher sfit\. Choose one of sift"):
        reconstruct("data/sample/images", checkout / "out", RunSettings(matcher="sfit"))
    assert not (checkout / "out").exists()
