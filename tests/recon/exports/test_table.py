"""The table of exports: every registered format is written, found, replaced and checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recon import exports
from recon.core.errors import OutputError, SettingsError
from recon.evaluate.check import check_folder
from recon.exports import EXPORTS, Export, export, written_names
from recon.exports.readers import CheckError
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap
from tests.support import make_map

COUNT = "count.txt"


def write_count(reconstruction: ReconstructedMap, path: Path) -> None:
    path.write_text(f"{len(reconstruction.frames)}")


def read_count(path: Path) -> int:
    text = path.read_text()
    if not text.isdecimal():
        raise CheckError(f"{path} holds {text}, expected a number.")
    return int(text)


@pytest.fixture
def finished(tmp_path: Path) -> ReconstructedMap:
    return make_map(tmp_path / "run")


@pytest.fixture
def with_count() -> Iterator[None]:
    EXPORTS["count"] = Export(COUNT, write_count, read_count, "number of frames")
    yield
    del EXPORTS["count"]


def added_checks(folder: Path) -> dict[str, tuple[bool, str]]:
    items = check_folder(folder).items
    return {item.name: (item.ok, item.sentence) for item in items if item.name in EXPORTS and item.name != "colmap"}


@pytest.mark.usefixtures("with_count")
def test_a_format_from_outside_is_written_and_checked(finished: ReconstructedMap) -> None:
    path = export(finished, "count", finished.folder / exports.default_path("count"))
    assert path.read_text() == str(len(finished.frames))
    assert COUNT in written_names(by_every_run=False)
    assert added_checks(finished.folder) == {"count": (True, f"{COUNT} opens and is complete.")}
    path.write_text("many")
    assert added_checks(finished.folder) == {"count": (False, f"{path} holds many, expected a number.")}
    with pytest.raises(SettingsError, match="Cleaning and thinning do not apply to count"):
        export(finished, "count", path, cloud=CloudSettings(voxel=0.1))


def test_the_map_itself_is_never_overwritten(finished: ReconstructedMap) -> None:
    before = (finished.folder / "map" / "map.db").read_bytes()
    with pytest.raises(OutputError, match="is part of the map itself"):
        export(finished, "tum", finished.folder / "map" / "map.db")
    assert (finished.folder / "map" / "map.db").read_bytes() == before


def test_the_export_to_one_format_does_not_replace_that_to_another(finished: ReconstructedMap) -> None:
    cloud = finished.folder / "cloud.ply"
    cloud.write_text("the cloud")
    with pytest.raises(OutputError, match=r"cloud\.ply is where the run has its export to ply\."):
        export(finished, "mesh", cloud)
    assert cloud.read_text() == "the cloud"


def test_what_a_run_writes_and_replaces() -> None:
    assert written_names(by_every_run=True) == ("poses.txt", "colmap", "cloud.ply")
    assert set(written_names(by_every_run=False)) == {
        "cloud.las",
        "mesh.ply",
        "map.usda",
        "poses_kitti.txt",
        "poses_euroc.csv",
        "rosbag2",
        "nerfstudio",
        "path.geojson",
        "colmap_undistorted",
    }


def test_added_exports_are_checked(finished: ReconstructedMap) -> None:
    assert added_checks(finished.folder) == {}
    for name in ("kitti", "nerfstudio"):
        export(finished, name, finished.folder / EXPORTS[name].path)
    assert {name: ok for name, (ok, _) in added_checks(finished.folder).items()} == {"kitti": True, "nerfstudio": True}
    image = next((finished.folder / "nerfstudio" / "images").iterdir())
    image.unlink()
    assert added_checks(finished.folder)["nerfstudio"] == (False, f"{image} is missing.")


def test_an_unknown_format_is_refused_with_a_list_of_formats(finished: ReconstructedMap) -> None:
    with pytest.raises(
        SettingsError,
        match=r"no format obj\. Choose one of tum, colmap, ply, las, mesh, usd, kitti, euroc, rosbag2, nerfstudio",
    ):
        export(finished, "obj", finished.folder / "scene.obj")
    with pytest.raises(SettingsError, match="to colmap only, not to ply"):
        export(finished, "ply", finished.folder / "cloud.ply", undistort=True)
