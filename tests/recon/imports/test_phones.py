"""Captures of iPhone apps have the poses, lenses and images that they were written with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.errors import SourceError
from recon.core.types import Camera
from recon.imports.models import PosedImages, read_model
from recon.store.map import ReconstructedMap
from tests.support import make_map

LENS = Camera("PINHOLE", 160, 120, (140.0, 141.0, 82.0, 59.0))
OPENGL = np.diag([1.0, -1, -1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    return make_map(tmp_path_factory.mktemp("map"), cameras=(LENS,))


def write_polycam(made: ReconstructedMap, folder: Path, kind: str = "") -> Path:
    cameras, images = (folder / "keyframes" / f"{kind}{name}" for name in ("cameras", "images"))
    (folder / "keyframes" / "images").mkdir(parents=True, exist_ok=True)
    images.mkdir(exist_ok=True)
    cameras.mkdir()
    for row, frame in enumerate(made.frames):
        number = str(98 + row)  # in natural, not alphabetical order
        shutil.copy(made.images / frame.name, images / f"{number}.jpg")
        pose = np.column_stack([frame.world_from_cam.rotation @ OPENGL, frame.world_from_cam.translation])
        fields = {f"t_{i}{j}": pose[i, j] for i in range(3) for j in range(4)}
        fields |= dict(zip(("fx", "fy", "cx", "cy"), LENS.params, strict=True)) | {"width": 160, "height": 120}
        (cameras / f"{number}.json").write_text(json.dumps(fields | {"blur_score": 90}))
    return folder


def write_record3d(made: ReconstructedMap, folder: Path) -> Path:
    (folder / "rgb").mkdir(parents=True)
    poses = []
    for row, frame in enumerate(made.frames):
        shutil.copy(made.images / frame.name, folder / "rgb" / f"{8 + row}.jpg")
        turn = Rotation.from_matrix(frame.world_from_cam.rotation @ OPENGL).as_quat()
        poses.append([*turn.tolist(), *frame.world_from_cam.translation.tolist()])
    content = {"K": LENS.matrix().T.ravel().tolist(), "w": 160, "h": 120, "poses": poses, "fps": 30}
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder


def require_same(found: PosedImages, made: ReconstructedMap) -> None:
    assert len(found.images) == len(made.frames)
    for image, frame in zip(found.images, made.frames, strict=True):
        assert image.path.read_bytes() == (made.images / frame.name).read_bytes()
        assert image.camera == LENS
        np.testing.assert_allclose(image.cam_from_world, frame.cam_from_world, atol=1e-9)


def test_polycam(made: ReconstructedMap, tmp_path: Path) -> None:
    require_same(read_model(write_polycam(made, tmp_path)), made)


def test_polycams_own_adjustment_is_preferred(made: ReconstructedMap, tmp_path: Path) -> None:
    write_polycam(made, tmp_path)
    for path in (tmp_path / "keyframes" / "cameras").iterdir():
        path.write_text("{}")
    with pytest.raises(SourceError, match=r"The capture in .* is damaged: .*json has no t_00"):
        read_model(tmp_path)
    require_same(read_model(write_polycam(made, tmp_path, "corrected_")), made)


def test_record3d(made: ReconstructedMap, tmp_path: Path) -> None:
    require_same(read_model(write_record3d(made, tmp_path / "capture")), made)
    next((tmp_path / "capture" / "rgb").iterdir()).unlink()
    with pytest.raises(SourceError, match=f"{len(made.frames)} poses for {len(made.frames) - 1} images"):
        read_model(tmp_path / "capture")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"K": None}, "K in metadata.json is not 9 numbers"),
        ({"K": [1, 2, 3]}, "K in metadata.json is not 9 numbers"),
        ({"K": {"fx": 1}}, "K in metadata.json is not 9 numbers"),
        ({"w": "wide"}, "w in metadata.json is not a number"),
        ({"h": [120]}, "h in metadata.json is not a number"),
        ({"poses": 7}, "poses in metadata.json is no list"),
        ({"poses": []}, "it has 0 poses for"),
        ({"poses": [[0, 0, 0, 1, 0, 0]]}, "poses in metadata.json is not 1 x 7 numbers"),
        ({"poses": [[0, 0, 0, 1, 0, 0, float("nan")]]}, "poses in metadata.json is not 1 x 7 numbers"),
        (None, "metadata.json holds no fields"),
    ],
)
def test_odd_metadata_of_record3d_is_refused_in_plain_words(
    made: ReconstructedMap, tmp_path: Path, change: dict[str, object] | None, reason: str
) -> None:
    path = write_record3d(made, tmp_path / "capture") / "metadata.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps([fields] if change is None else fields | change))
    with pytest.raises(SourceError, match=f"The capture in .* is damaged: {reason}"):
        read_model(tmp_path / "capture")


def test_a_missing_field_and_a_pose_without_rotation_are_named(made: ReconstructedMap, tmp_path: Path) -> None:
    path = write_record3d(made, tmp_path / "capture") / "metadata.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields)[:-20])
    with pytest.raises(SourceError, match=r"metadata\.json is no JSON, or cut short"):
        read_model(tmp_path / "capture")
    path.write_text(json.dumps({name: value for name, value in fields.items() if name != "K"}))
    with pytest.raises(SourceError, match=r"metadata\.json has no K"):
        read_model(tmp_path / "capture")
    fields["poses"][1][:4] = [0, 0, 0, 0]
    path.write_text(json.dumps(fields))
    with pytest.raises(SourceError, match=r"the pose of 9\.jpg in metadata\.json has no rotation"):
        read_model(tmp_path / "capture")
