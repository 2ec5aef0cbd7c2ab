"""Exports that prove themselves: a camera in another convention does not see the colours of its image."""

import json

import numpy as np
import pytest

from recon.evaluate.appearance import ExportedView, agreement, model_views, nerfstudio_views
from recon.evaluate.check import check_folder
from recon.exports import export
from recon.exports.ply import read_points
from recon.exports.readers import CheckError, read_model, read_nerfstudio
from recon.store.map import ReconstructedMap
from tests.support import FISHEYE, make_map


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    reconstruction = make_map(tmp_path_factory.mktemp("walk"), cameras=(FISHEYE,))
    export(reconstruction, "ply", reconstruction.folder / "cloud.ply")
    export(reconstruction, "colmap", reconstruction.folder / "colmap")
    export(reconstruction, "nerfstudio", reconstruction.folder / "nerfstudio")
    return reconstruction


@pytest.fixture(scope="module")
def views(walk: ReconstructedMap) -> list[ExportedView]:
    return model_views(read_model(walk.folder / "colmap"), walk.images)


def measured(walk: ReconstructedMap, views: list[ExportedView]) -> tuple[float, float]:
    cloud = read_points(walk.folder / "cloud.ply")
    found = agreement(cloud.positions, np.asarray(cloud.colours) / 255, views)
    return found.correlation, found.turned


def test_both_formats_show_the_images_colours(walk: ReconstructedMap, views: list[ExportedView]) -> None:
    folder = walk.folder / "nerfstudio"
    right = measured(walk, views)
    assert right[0] > 0.98 > 0.7 > right[1]
    assert measured(walk, nerfstudio_views(read_nerfstudio(folder), folder)) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(np.diag([1.0, -1.0, -1.0, 1.0]), id="OpenGL axes"),
        pytest.param(np.diag([-1.0, -1.0, 1.0, 1.0]), id="upside down"),
        pytest.param(np.diag([-1.0, 1.0, 1.0, 1.0]), id="mirrored"),
    ],
)
def test_another_convention_is_found_out(walk: ReconstructedMap, views: list[ExportedView], turn: np.ndarray) -> None:
    wrong = [ExportedView(view.image, view.camera, turn @ view.cam_from_world) for view in views]
    cloud = read_points(walk.folder / "cloud.ply")
    with pytest.raises(CheckError):
        agreement(cloud.positions, np.asarray(cloud.colours) / 255, wrong).require("this export")


def test_inverted_poses_are_found_out(walk: ReconstructedMap, views: list[ExportedView]) -> None:
    wrong = [ExportedView(view.image, view.camera, np.linalg.inv(view.cam_from_world)) for view in views]
    right, inverted = measured(walk, views), measured(walk, wrong)
    assert inverted[0] < right[0] - 0.05


def test_check_compares_colours_of_every_format_with_cameras(walk: ReconstructedMap) -> None:
    export(walk, "tum", walk.folder / "poses.txt")
    items = {item.name: item for item in check_folder(walk.folder).items}
    assert items["colours"].ok
    assert items["nerfstudio colours"].ok
    path = walk.folder / "nerfstudio" / "transforms.json"
    content = json.loads(path.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1])).tolist()
    path.write_text(json.dumps(content))
    items = {item.name: item for item in check_folder(walk.folder).items}
    assert not items["nerfstudio colours"].ok
