"""USD: usd-core finds the cloud, and the camera where the map has it at every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import OutputError
from recon.core.metric import Metric
from recon.exports import export
from recon.exports.ply import CloudPoints, write_points
from recon.exports.readers import CheckError, read_cloud, read_usd
from recon.exports.usd import stated_unit
from recon.store.map import ReconstructedMap
from tests.support import make_map

ON_EARTH = Metric(4, 0.02, (47.0, 8.5, 420.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    return make_map(tmp_path_factory.mktemp("made"))


def test_a_cloud_without_points_is_not_called_truncated(tmp_path: Path) -> None:
    path, nothing = tmp_path / "cloud.ply", np.zeros((0, 3))
    with path.open("wb") as file:
        write_points(file, CloudPoints(nothing, nothing, np.zeros(0), nothing))
    with pytest.raises(CheckError, match="has no points: the map has no depth"):
        read_cloud(path)
    path.write_bytes(path.read_bytes().replace(b"vertex 0", b"vertex 9"))
    with pytest.raises(CheckError, match="is truncated"):
        read_cloud(path)


@pytest.mark.parametrize("metric", [None, ON_EARTH])
def test_usd_core_sees_what_the_map_holds(made: ReconstructedMap, tmp_path: Path, metric: Metric | None) -> None:
    pytest.importorskip("pxr")
    from pxr import Gf, Usd, UsdGeom  # noqa: PLC0415 - optional

    stage = read_usd(export(replace(made, metric=metric), "usd", tmp_path / "map.usda"))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == ("Z" if metric else "Y")
    turned = np.ones(3) if metric else np.array([1.0, -1, -1])
    cloud = UsdGeom.Points(stage.GetPrimAtPath("/Map/Cloud"))
    own = read_cloud(export(made, "ply", tmp_path / "cloud.ply"))
    points = np.array(cloud.GetPointsAttr().Get())
    assert np.allclose(points, np.asarray(own.points), atol=1e-5)
    assert np.allclose(cloud.GetExtentAttr().Get(), [points.min(axis=0), points.max(axis=0)], atol=1e-5)
    assert (
        cloud.GetDisplayColorPrimvar().GetInterpolation() == "vertex" and cloud.GetWidthsInterpolation() == "constant"
    )
    linear = np.array(cloud.GetDisplayColorAttr().Get())
    expected = np.asarray(own.colors)
    assert np.allclose(linear, np.where(expected > 0.04045, ((expected + 0.055) / 1.055) ** 2.4, expected / 12.92))
    camera = UsdGeom.Camera(stage.GetPrimAtPath("/Map/Camera"))
    assert stage.GetEndTimeCode() == len(made.frames) - 1
    for time, frame in enumerate(made.frames):
        frustum = camera.GetCamera(Usd.TimeCode(time)).frustum
        assert np.allclose(frustum.position, frame.world_from_cam.translation * turned, atol=1e-9)
        assert np.allclose(frustum.ComputeViewDirection(), frame.world_from_cam.rotation[:, 2] * turned, atol=1e-6)
        assert np.allclose(frustum.ComputeUpVector(), -frame.world_from_cam.rotation[:, 1] * turned, atol=1e-6)
        right = Gf.Vec3d(*(frame.world_from_cam.apply(np.array([[0.5, 0.2, 2.0]]))[0] * turned))
        shown = (frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()).Transform(right)
        u, v, _ = frame.camera.matrix() @ [0.25, 0.1, 1.0]
        assert shown[0] == pytest.approx(2 * u / frame.camera.width - 1, abs=1e-6)
        assert shown[1] == pytest.approx(1 - 2 * v / frame.camera.height, abs=1e-6)
        assert camera.GetPrim().GetAttribute("recon:image").Get(Usd.TimeCode(time)) == frame.name


def test_the_unit_is_stated(made: ReconstructedMap, tmp_path: Path) -> None:
    assert stated_unit(export(made, "usd", tmp_path / "map.usda")) == ""
    assert stated_unit(export(replace(made, metric=ON_EARTH), "usd", tmp_path / "map.usda")) == str(ON_EARTH)


def test_half_a_scene_and_another_suffix_are_refused(made: ReconstructedMap, tmp_path: Path) -> None:
    path = export(made, "usd", tmp_path / "map.usda")
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(CheckError, match="is truncated, or not USD in plain text"):
        read_usd(path)
    with pytest.raises(OutputError, match=r"in plain text ends in .usda, got .*map.usdz. Use --out .*map.usda"):
        export(made, "usd", tmp_path / "map.usdz")
    assert [one.name for one in tmp_path.iterdir()] == ["map.usda"]
