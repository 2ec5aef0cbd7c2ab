"""Exports that prove themselves: each is broken in every usual way, and its check must notice."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import laspy
import numpy as np
import open3d
import pycolmap
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from cli.main import main
from recon.core.errors import MapError, SettingsError
from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.core.types import Camera, SparsePoints
from recon.evaluate.check import check_folder
from recon.evaluate.exported import READERS
from recon.evaluate.proof import Comparison, Figure, Rival, prove
from recon.exports import EXPORTS, export
from recon.exports.readers import CheckError
from recon.store.map import MapStore, ReconstructedMap, move_map, open_map
from tests.support import forget_depth, make_map

LENS = Camera("OPENCV", 160, 120, (140.0, 140.0, 80.0, 60.0, 0.05, 0.01, 0.002, -0.001))
Break = Callable[[Path], None]
TURNED = np.diag([1.0, -1.0, -1.0])
SYDNEY = (-33.8567844, 151.2152967, 22.0)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    """A map that is neither centred nor level, seen through a distorted lens."""
    made = make_map(tmp_path_factory.mktemp("walk"), cameras=(LENS,))
    move_map(
        made.folder, Sim3(1.3, Rotation.from_euler("xyz", [0.3, 0.4, -0.5]).as_matrix(), np.array([2.0, 1, 3])), None
    )
    return open_map(made.folder)


@pytest.fixture(scope="module")
def written(walk: ReconstructedMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every export that needs no place on the Earth."""
    out = tmp_path_factory.mktemp("exports")
    for name, one in EXPORTS.items():
        if name != "geojson":
            export(walk, name, out / one.path)
    return out


def broken(written: Path, tmp_path: Path, target: str, damage: Break) -> Path:
    """A copy of an export, damaged."""
    path = tmp_path / EXPORTS[target].path
    if EXPORTS[target].is_folder:
        shutil.copytree(written / path.name, path)
    else:
        shutil.copy(written / path.name, path)
    damage(path)
    return path


NEEDS_USD = pytest.mark.skipif(find_spec("pxr") is None, reason="usd-core is not installed: pip install '.[usd]'")
CHECKED = [pytest.param(name, marks=NEEDS_USD if name == "usd" else ()) for name in EXPORTS if name != "geojson"]


@pytest.mark.parametrize("target", CHECKED)
def test_every_export_passes_by_a_clear_margin(walk: ReconstructedMap, written: Path, target: str) -> None:
    found = prove(walk, target, written / EXPORTS[target].path)
    assert found.ok, found
    assert re.match(
        rf"{target} follows its convention \(read by (pycolmap|numpy|open3d|laspy|rosbags|OpenCV|usd-core)", str(found)
    )
    for sentence in found.sentences:
        right, wrong = (float(figure) for figure in re.findall(r"([\d.]+) dB", sentence))
        assert right > wrong + 1.5, sentence
    assert ("half a pixel" in found.sentences[0]) == (
        target in ("tum", "kitti", "euroc", "rosbag2", "colmap", "nerfstudio", "usd")
    )


def test_fisheye_lenses_undistorted_images_and_glb_pass(tmp_path: Path) -> None:
    made = make_map(tmp_path / "walk", cameras=(replace(LENS, model="OPENCV_FISHEYE"),))
    assert prove(made, "nerfstudio", export(made, "nerfstudio", tmp_path / "nerfstudio")).ok
    assert prove(made, "colmap", export(made, "colmap", tmp_path / "pinhole", undistort=True)).ok
    path = export(made, "mesh", tmp_path / "mesh.glb")
    assert prove(made, "mesh", path).ok
    shutil.copy(path, tmp_path / "mesh.ply")  # Open3D reads a PLY file by its content alone, so this must be one
    mesh = open3d.io.read_triangle_mesh(path)
    open3d.io.write_triangle_mesh(tmp_path / "mesh.ply", mesh)  # with glTF's axes
    assert not prove(made, "mesh", tmp_path / "mesh.ply").ok


def changed_model(change: Callable[[pycolmap.Reconstruction], None]) -> Break:
    def damage(folder: Path) -> None:
        model = pycolmap.Reconstruction(folder / "sparse" / "0")
        change(model)
        model.write(folder / "sparse" / "0")

    return damage


def changed_poses(change: Callable[[np.ndarray], np.ndarray]) -> Break:
    """Every cam_from_world (4, 4) of a model changed."""

    def damage(model: pycolmap.Reconstruction) -> None:
        for frame in model.frames.values():
            pose = np.vstack([frame.rig_from_world.matrix(), [0, 0, 0, 1]])
            frame.rig_from_world = pycolmap.Rigid3d(change(pose)[:3])

    return changed_model(damage)


def transposed(pose: np.ndarray) -> np.ndarray:
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3].T
    return turned


def at_the_same_place(pose: np.ndarray) -> np.ndarray:
    turned = transposed(pose)
    turned[:3, 3] = -turned[:3, :3] @ np.linalg.inv(pose)[:3, 3]
    return turned


def shift_lenses(model: pycolmap.Reconstruction) -> None:
    for camera in model.cameras.values():
        camera.principal_point_x += 0.5
        camera.principal_point_y += 0.5


def mirror_images(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        with Image.open(path) as image:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path.unlink()  # it may be a link
        mirrored.save(path, quality=95)


def turn_points(model: pycolmap.Reconstruction) -> None:
    for point in model.points3D.values():
        point.xyz = TURNED @ point.xyz


def exchange_colours(model: pycolmap.Reconstruction) -> None:
    for point in model.points3D.values():
        point.color = point.color[::-1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(changed_poses(lambda pose: np.diag([1.0, -1, -1, 1]) @ pose), "nothing is seen", id="OpenGL axes"),
        pytest.param(changed_poses(np.linalg.inv), "inverted poses", id="inverted"),
        pytest.param(changed_poses(transposed), "", id="transposed"),
        pytest.param(changed_poses(at_the_same_place), "transposed rotations", id="transposed in place"),
        pytest.param(changed_model(shift_lenses), "half a pixel less", id="half a pixel"),
        pytest.param(mirror_images, "mirrored images", id="mirrored images"),
        pytest.param(changed_model(turn_points), "nothing is seen", id="points with other axes"),
        pytest.param(changed_model(exchange_colours), "blue before red", id="blue before red"),
    ],
)  # fmt: skip
def test_a_broken_model_is_found_out(
    walk: ReconstructedMap, written: Path, tmp_path: Path, damage: Break, words: str
) -> None:
    found = prove(walk, "colmap", broken(written, tmp_path, "colmap", damage))
    assert not found.ok, found
    assert "does NOT follow its convention" in str(found)
    assert words in str(found)


def changed_transforms(change: Callable[[dict[str, Any]], None]) -> Break:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "transforms.json").read_text())
        change(content)
        (folder / "transforms.json").write_text(json.dumps(content))

    return damage


def changed_matrices(change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def damage(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return changed_transforms(damage)


def points_of_another_world(folder: Path) -> None:
    cloud = open3d.io.read_point_cloud(folder / "sparse_pc.ply")
    cloud.points = open3d.utility.Vector3dVector(np.asarray(cloud.points) @ TURNED)
    open3d.io.write_point_cloud(folder / "sparse_pc.ply", cloud)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(changed_matrices(lambda pose: pose @ np.diag([1.0, -1, -1, 1])), id="OpenCV axes"),
        pytest.param(changed_matrices(np.linalg.inv), id="inverted"),
        pytest.param(changed_matrices(np.transpose), id="by columns"),
        pytest.param(changed_matrices(transposed), id="transposed rotation"),
        pytest.param(changed_matrices(lambda pose: np.diag([1.0, -1, -1, 1]) @ pose), id="another world"),
        pytest.param(changed_transforms(lambda lens: lens.update(cx=79.5, cy=59.5)), id="half a pixel"),
        pytest.param(changed_transforms(lambda lens: lens.update(k1=0.0, k2=0.0, p1=0.0, p2=0.0)), id="no distortion"),
        pytest.param(points_of_another_world, id="points of another world"),
        pytest.param(mirror_images, id="mirrored images"),
    ],
)  # fmt: skip
def test_broken_transforms_are_found_out(walk: ReconstructedMap, written: Path, tmp_path: Path, damage: Break) -> None:
    assert not prove(walk, "nerfstudio", broken(written, tmp_path, "nerfstudio", damage)).ok


def changed_rows(change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def damage(path: Path) -> None:
        np.savetxt(path, np.array([change(row) for row in np.loadtxt(path)]))

    return damage


def test_quaternions_in_another_order_are_found_out_in_euroc(
    walk: ReconstructedMap, written: Path, tmp_path: Path
) -> None:
    def roll(path: Path) -> None:
        rows = np.loadtxt(path, delimiter=",")
        np.savetxt(path, np.column_stack([rows[:, :4], np.roll(rows[:, 4:], -1, axis=1)]), delimiter=",")

    assert not prove(walk, "euroc", broken(written, tmp_path, "euroc", roll)).ok


def inverted_tum(row: np.ndarray) -> np.ndarray:
    back = Rotation.from_quat(row[4:]).inv()
    return np.array([row[0], *-back.apply(row[1:4]), *back.as_quat()])


def inverted_kitti(row: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.vstack([row.reshape(3, 4), [0, 0, 0, 1]]))[:3].ravel()


def transposed_kitti(row: np.ndarray) -> np.ndarray:
    return np.column_stack([row.reshape(3, 4)[:, :3].T, row.reshape(3, 4)[:, 3]]).ravel()


@pytest.mark.parametrize(
    ("target", "change"),
    [
        pytest.param("tum", inverted_tum, id="TUM inverted"),
        pytest.param("tum", lambda row: np.r_[row[:4], np.roll(row[4:], 1)], id="TUM with w first"),
        pytest.param("tum", lambda row: row * [1, 1, 1, 1, -1, -1, -1, 1], id="TUM with inverse rotations"),
        pytest.param("tum", lambda row: np.round(row, 2), id="TUM rounded"),
        pytest.param("kitti", inverted_kitti, id="KITTI inverted"),
        pytest.param("kitti", transposed_kitti, id="KITTI by columns"),
        pytest.param("kitti", lambda row: (TURNED @ row.reshape(3, 4)).ravel(), id="KITTI in another world"),
    ],
)
def test_broken_trajectories_are_found_out(
    walk: ReconstructedMap, written: Path, tmp_path: Path, target: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert not prove(walk, target, broken(written, tmp_path, target, changed_rows(change))).ok


def changed_cloud(places: np.ndarray, channels: tuple[int, ...] = (0, 1, 2)) -> Break:
    def damage(path: Path) -> None:
        if path.suffix == ".las":
            las = laspy.read(path)
            las.x, las.y, las.z = places @ np.asarray(las.xyz).T
            las.red, las.green, las.blue = (np.array(las[("red", "green", "blue")[one]]) for one in channels)
            las.write(path)
        elif path.name == "mesh.ply":
            mesh = open3d.io.read_triangle_mesh(path)
            mesh.vertices = open3d.utility.Vector3dVector(np.asarray(mesh.vertices) @ places.T)
            mesh.vertex_colors = open3d.utility.Vector3dVector(np.asarray(mesh.vertex_colors)[:, channels])
            open3d.io.write_triangle_mesh(path, mesh)
        else:
            cloud = open3d.io.read_point_cloud(path)
            cloud.points = open3d.utility.Vector3dVector(np.asarray(cloud.points) @ places.T)
            cloud.colors = open3d.utility.Vector3dVector(np.asarray(cloud.colors)[:, channels])
            open3d.io.write_point_cloud(path, cloud)

    return damage


def flipped_offsets(text: str) -> str:
    """The lens's axis to the other side of the image's centre."""
    offsets = r"(ApertureOffset.timeSamples = \{[^}]*\})"
    return re.sub(offsets, lambda found: re.sub(r": (-?)", lambda sign: ": " + "-" * (not sign[1]), found[1]), text)


@NEEDS_USD
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace('upAxis = "Y"', 'upAxis = "Z"'), id="another axis up"),
        pytest.param(
            lambda text: text.replace("(0, -1, 0, 0), (0, 0, -1, 0)", "(0, 1, 0, 0), (0, 0, 1, 0)"), id="y down"
        ),
        pytest.param(flipped_offsets, id="another centre of the image"),
        pytest.param(
            lambda text: text.replace("horizontalAperture = 0.36", "horizontalAperture = 0.35"), id="a longer lens"
        ),
    ],
)
def test_a_broken_scene_is_found_out(tmp_path: Path, change: Callable[[str], str]) -> None:
    made = make_map(tmp_path / "made", cameras=(replace(LENS, params=(140.0, 150.0, 84.0, 57.0, *LENS.params[4:])),))
    path = export(made, "usd", tmp_path / "map.usda")
    assert prove(made, "usd", path).ok
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    assert not prove(made, "usd", path).ok


@pytest.mark.parametrize("target", ["ply", "las", "mesh"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(changed_cloud(TURNED), id="y and z turned round"),
        pytest.param(changed_cloud(np.diag([-1.0, 1, 1])), id="x mirrored"),
        pytest.param(changed_cloud(np.eye(3)[[0, 2, 1]]), id="y and z exchanged"),
        pytest.param(changed_cloud(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])), id="z up"),
        pytest.param(changed_cloud(np.eye(3), (2, 1, 0)), id="blue before red"),
    ],
)
def test_broken_points_are_found_out(
    walk: ReconstructedMap, written: Path, tmp_path: Path, target: str, damage: Break
) -> None:
    assert not prove(walk, target, broken(written, tmp_path, target, damage)).ok


def test_places_on_the_earth(walk: ReconstructedMap, tmp_path: Path) -> None:
    placed = replace(walk, metric=Metric(4, 0.5, SYDNEY))
    path = export(placed, "geojson", tmp_path / "path.geojson")
    found = prove(placed, "geojson", path)
    assert found.ok and re.search(r"6 places, at most 0\.000\d+ m from the cameras", str(found)), found
    content = json.loads(path.read_text())
    line = content["features"][0]["geometry"]["coordinates"]
    path.write_text(json.dumps(content).replace("151.2", "151.3", 1))
    assert not prove(placed, "geojson", path).ok
    content["features"][0]["geometry"]["coordinates"] = [[place[1], place[0], place[2]] for place in line]
    path.write_text(json.dumps(content))
    assert not prove(placed, "geojson", path).ok  # latitude first
    with pytest.raises(CheckError, match="nothing says where"):
        prove(walk, "geojson", path)
    cloud = export(placed, "las", tmp_path / "cloud.las")
    assert prove(placed, "las", cloud).ok
    assert not prove(replace(placed, metric=Metric(4, 0.5, (-33.0, 151.2, 22.0))), "las", cloud).ok


def test_exports_of_another_map_and_formats_without_a_check_are_refused(
    walk: ReconstructedMap, written: Path, tmp_path: Path
) -> None:
    fewer = replace(walk, frames=walk.frames[:-1])
    with pytest.raises(CheckError, match=r"do not have the same images, such as image_0010\.jpg"):
        prove(fewer, "colmap", written / "colmap")
    with pytest.raises(CheckError, match="has 6 poses, the map 5 frames"):
        prove(fewer, "tum", written / "poses.txt")
    with pytest.raises(SettingsError, match=r"There is no check of the format table\. Choose one of tum, colmap"):
        prove(walk, "table", written / "poses.txt")
    empty = make_map(tmp_path)
    forget_depth(tmp_path)
    with pytest.raises(MapError, match="has no depth"):
        prove(empty, "tum", export(empty, "tum", tmp_path / "poses.txt"))
    assert set(READERS) == set(EXPORTS)


def test_a_right_reading_must_be_clearly_the_best() -> None:
    right, inverted = Figure(65.0, 0.9, 0.95), {"inverted poses": Rival(4000.0, 65.0, 4100.0)}
    assert Comparison("6 cameras", right, inverted, 0.9).ok
    assert not Comparison("6 cameras", right, inverted | {"half a pixel more": Rival(66.0, 65.0, 20.0)}, 0.9).ok
    assert Comparison(
        "6 cameras", right, inverted | {"half a pixel more": Rival(66.0, 65.0, 1.0)}, 0.9
    ).ok  # too little
    few = Comparison("6 cameras", replace(right, agreeing=0.85), inverted, 0.9)
    assert (few.ok, few.sentence.endswith("with inverted poses, 12.1 dB; 90% must be alike.")) == (False, True)
    assert not Comparison("6 cameras", Figure(np.inf, 0.0, 0.0), {}).ok
    plain = Comparison("6 cameras", right, {"half a pixel more": Rival(65.0, 65.0, 0.0)})
    assert (plain.ok, plain.sentence.endswith("the pictures are too plain to tell.")) == (False, True)


def test_the_command_checks_what_it_writes(
    walk: ReconstructedMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> int | str | None:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code

    command = ["export", walk.folder, "--to", "nerfstudio", "--check", "--out"]
    assert not run(*command, tmp_path / "right")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"Wrote {tmp_path / 'right'}"
    assert said[1].startswith("Checked: nerfstudio follows its convention")
    monkeypatch.setattr("recon.exports.nerfstudio.OPENCV_FROM_OPENGL", np.eye(4))
    assert run(*command, tmp_path / "wrong") == 1
    assert "FAILED: nerfstudio does NOT follow its convention" in capsys.readouterr().out


def test_recon_check_proves_models_clouds_and_transforms(tmp_path: Path) -> None:
    made = make_map(tmp_path)
    for target in ("ply", "colmap", "tum", "nerfstudio"):
        export(made, target, tmp_path / EXPORTS[target].path)
    items = {item.name: item for item in check_folder(tmp_path).items}
    assert items["colours"].ok and items["nerfstudio colours"].ok
    changed_matrices(lambda pose: pose @ np.diag([1.0, -1, -1, 1]))(tmp_path / "nerfstudio")
    changed_poses(np.linalg.inv)(tmp_path / "colmap")
    items = {item.name: item for item in check_folder(tmp_path).items}
    assert not items["colours"].ok and not items["nerfstudio colours"].ok


def test_a_map_without_sparse_points_has_cameras_to_check(tmp_path: Path) -> None:
    made = make_map(tmp_path)
    MapStore(tmp_path).write_places(made.frames, made.skipped, SparsePoints.empty(), complete=True)
    bare = open_map(tmp_path)
    for target in ("colmap", "nerfstudio"):
        found = prove(bare, target, export(bare, target, tmp_path / "out" / target))
        assert found.ok and len(found.sentences) == 1
