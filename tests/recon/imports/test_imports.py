"""``recon import``: models of COLMAP and nerfstudio as maps, with their poses and lenses, and with dense depth."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from cli.main import main
from recon.core.errors import OutputError, SettingsError, SourceError
from recon.core.similarity import Sim3
from recon.core.types import Camera
from recon.evaluate.check import check_folder
from recon.exports import export
from recon.imports.build import import_model
from recon.imports.models import read_model
from recon.store import report
from recon.store.map import ReconstructedMap, move_map, open_map
from recon.store.summary import summarise
from tests import support
from tests.support import OPENCV, PLANE_DEPTH, make_map

WORLD = Sim3(3.0, np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.array([5.0, -2, 1]))


def detailed(points: np.ndarray) -> np.ndarray:
    """Colours of the plane with details that SIFT and the plane sweep find."""
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64, 3))
    cells = np.floor(points[..., :2] * 8).astype(int) % 64
    return noise[cells[..., 1], cells[..., 0]].astype(np.uint8)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    """A map of a plane with details, in a world of its own unit and axes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "plane_texture", detailed)
        made = make_map(tmp_path_factory.mktemp("walk"))
    move_map(made.folder, WORLD, None)
    return open_map(made.folder)


@pytest.fixture(scope="module")
def models(walk: ReconstructedMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for target in ("colmap", "nerfstudio"):
        export(walk, target, folder / target)
    return folder


@pytest.fixture(scope="module")
def imported(models: Path, tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    out = tmp_path_factory.mktemp("imported")
    import_model(models / "colmap", out, depth="classical")
    return open_map(out)


def test_poses_lenses_and_points_of_a_colmap_model_stay(walk: ReconstructedMap, imported: ReconstructedMap) -> None:
    assert [frame.name for frame in imported.frames] == [frame.name for frame in walk.frames]
    for found, true in zip(imported.frames, walk.frames, strict=True):
        assert np.allclose(found.cam_from_world, true.cam_from_world, atol=1e-9)
        assert found.camera == true.camera
    assert np.allclose(imported.points.positions, walk.points.positions)
    assert np.array_equal(imported.points.point_ids.shape, walk.points.point_ids.shape)
    assert np.array_equal(imported.points.colours, walk.points.colours)
    assert imported.complete and imported.metric is None


def test_depth_is_that_of_the_scene(imported: ReconstructedMap) -> None:
    for frame, geometry in imported.geometry():
        known = geometry.depth > 0
        assert known.mean() > 0.5
        seen = frame.world_from_cam.scale * geometry.depth
        flat = WORLD.inverse() @ frame.world_from_cam  # where the plane is
        rows, columns = np.nonzero(known)
        pixels = np.column_stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
        points = flat.apply(pixels @ np.linalg.inv(geometry.intrinsics).T * geometry.depth[known][:, None])
        assert np.median(np.abs(points[:, 2] / PLANE_DEPTH - 1)) < 0.01
        assert 0.2 < np.median(seen[known]) / (3 * PLANE_DEPTH) < 5


def test_the_map_says_what_it_is(models: Path, imported: ReconstructedMap) -> None:
    found = report.read(imported.folder / "report.json")
    assert (found.source, found.frames_read, found.frames_placed) == (str(models / "colmap"), 6, 6)
    assert summarise(imported.folder).made_by == "import"


def test_a_model_as_text_and_images_elsewhere(models: Path, imported: ReconstructedMap, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    pycolmap.Reconstruction(models / "colmap" / "sparse" / "0").write_text(tmp_path / "text")
    for name in ("rigs.txt", "frames.txt"):  # models of COLMAP before 3.12 have none
        (tmp_path / "text" / name).unlink()
    with pytest.raises(
        SourceError, match=r"no images/image_0000\.jpg\. Text .* with spaces\. Give their folder with --images"
    ):
        read_model(tmp_path / "text")
    found = read_model(tmp_path / "text", models / "colmap" / "images")
    for image, frame in zip(found.images, imported.frames, strict=True):
        assert np.allclose(image.cam_from_world, frame.cam_from_world, atol=1e-6)
    assert np.allclose(found.points.pixels, imported.points.pixels)


def test_smaller_images_take_the_lens_with_them(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "colmap", tmp_path / "half")
    for path in (tmp_path / "half" / "images").iterdir():
        with Image.open(path) as image:
            half = image.resize((80, 60), Image.Resampling.BOX)
        path.unlink()  # it is a link
        half.save(path)
    found = read_model(tmp_path / "half")
    whole = read_model(models / "colmap")
    assert found.images[0].camera == Camera("SIMPLE_RADIAL", 80, 60, (70.0, 40.0, 30.0, 0.05))
    assert np.allclose(found.points.pixels, whole.points.pixels / 2)
    assert OPENCV.resized(320, 240).params == (280.0, 290.0, 158.0, 122.0, *OPENCV.params[4:])
    Image.new("RGB", (90, 60)).save(tmp_path / "half" / "images" / "image_0000.jpg")
    with pytest.raises(SourceError, match="90x60 when upright, its camera 160x120"):
        read_model(tmp_path / "half")


def test_points_of_transforms_are_triangulated_anew(walk: ReconstructedMap, models: Path, tmp_path: Path) -> None:
    import_model(models / "nerfstudio", tmp_path / "map", depth="classical")
    found = open_map(tmp_path / "map")
    for one, true in zip(found.frames, walk.frames, strict=True):
        assert np.allclose(one.cam_from_world, true.cam_from_world, atol=1e-9)
        assert np.allclose(one.camera.matrix(), true.camera.matrix())
    heights = WORLD.inverse().apply(found.points.positions)[:, 2]
    assert len(heights) > 100
    assert np.median(np.abs(heights / PLANE_DEPTH - 1)) < 0.01
    assert found.points.colours.std(axis=0).min() > 20
    assert "colmap" not in {item.name for item in check_folder(found.folder).items if not item.ok}
    assert not (tmp_path / "map" / "map" / "features.db").exists()


def changed_transforms(models: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    shutil.copytree(models / "nerfstudio", folder)
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_poses_in_another_convention_are_refused_and_leave_nothing(models: Path, tmp_path: Path) -> None:
    def invert(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = np.linalg.inv(frame["transform_matrix"]).tolist()

    source = changed_transforms(models, tmp_path / "inverted", invert)
    with pytest.raises(
        SourceError, match=r"do not fit its images: \d+% of the matches between images agree with them\. They may be"
    ):
        import_model(source, tmp_path / "map", depth="classical")
    assert not (tmp_path / "map" / "map").exists() and not (tmp_path / "map" / "colmap").exists()


def test_a_model_of_other_images_is_refused(models: Path, tmp_path: Path) -> None:
    """Its points and poses fit each other, but not the images, which are upside down."""
    shutil.copytree(models / "colmap", tmp_path / "turned")
    for path in (tmp_path / "turned" / "images").iterdir():
        with Image.open(path) as image:
            turned = image.rotate(180)
        path.unlink()  # it is a link
        turned.save(path)
    with pytest.raises(SourceError, match=r"do not fit its images: \d+% of the matches between images agree"):
        import_model(tmp_path / "turned", tmp_path / "map", depth="classical")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("frames"), r"is no transforms\.json of nerfstudio: 'frames'"),
        (lambda content: content["frames"][0].pop("transform_matrix"), r"nerfstudio: 'transform_matrix'"),
        (lambda content: content["frames"][1].update(transform_matrix=np.zeros((4, 4)).tolist()), "is not a rotation"),
        (
            lambda content: content["frames"][1].update(transform_matrix=np.diag([-1.0, 1, 1, 1]).tolist()),
            "is not a rot",
        ),
        (lambda content: content["frames"][1]["transform_matrix"][0].__setitem__(3, np.nan), "is not a rotation"),
        (lambda content: content["frames"][1].update(file_path="images/none.jpg"), r"none\.jpg of the model cannot be"),
        (lambda content: content.update(camera_model="EQUIRECTANGULAR"), "camera_model EQUIRECTANGULAR is not known"),
        (lambda content: content.update(frames=content["frames"][:1]), "has 1 image with a pose; a map needs two"),
    ],
)
def test_transforms_that_cannot_be_used(models: Path, tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises((SourceError, SettingsError), match=words):
        read_model(changed_transforms(models, tmp_path / "changed", change))


def test_models_that_cannot_be_used(models: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none does not exist"):
        read_model(tmp_path / "none")
    with pytest.raises(SourceError, match="holds neither a COLMAP model"):
        read_model(tmp_path)
    with pytest.raises(OutputError, match="is not empty"):
        import_model(models / "colmap", models)
    model = pycolmap.Reconstruction(models / "colmap" / "sparse" / "0")
    shutil.copytree(models / "colmap", tmp_path / "wide")
    for camera in model.cameras.values():
        camera.model = pycolmap.CameraModelId.FULL_OPENCV
        camera.params = [140.0, 140, 80, 60, *(0.0,) * 8]
    model.write(tmp_path / "wide" / "sparse" / "0")
    with pytest.raises(
        SourceError, match=r"model FULL_OPENCV, but the program knows only .*Undistort the images first"
    ):
        read_model(tmp_path / "wide")
    for camera in model.cameras.values():
        camera.model = pycolmap.CameraModelId.PINHOLE
        camera.params = [0.0, 140, 80, 60]
    model.write(tmp_path / "wide" / "sparse" / "0")
    with pytest.raises(SourceError, match="has no usable focal length"):
        read_model(tmp_path / "wide")
    images = tmp_path / "wide" / "sparse" / "0" / "images.bin"
    images.write_bytes(images.read_bytes()[:-50])
    with pytest.raises(SourceError, match="missing or truncated"):
        read_model(tmp_path / "wide")


def test_the_command_makes_a_map_in_which_photos_are_found(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECON_WORKERS", "0")
    for words in (
        ["import", models / "colmap", "--out", tmp_path / "map", "--depth", "classical"],
        ["locate", tmp_path / "map", models / "colmap" / "images" / "image_0004.jpg"],
        ["export", tmp_path / "map", "--to", "kitti", "--check"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert not ended.value.code, words
    said = capsys.readouterr().out
    assert re.search(r"frames +6 of 6 placed", said)
    assert "image_0004.jpg" in said and "kitti follows its convention" in said
    assert (tmp_path / "map" / "report.html").is_file()
