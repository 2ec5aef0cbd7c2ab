"""The views of a model are the photographs without distortion: points lie where their colours are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recon.core.errors import SettingsError, SourceError
from recon.core.types import Camera
from recon.exports import export
from recon.lab.splat.gaussians import View
from recon.lab.splat.training import fit
from recon.lab.splat.views import Scene, read_scene
from tests.support import make_map

LENS = Camera("OPENCV", 160, 120, (140.0, 144.0, 86.0, 55.0, 0.25, 0.05, 0.004, -0.003))


def difference(scene: Scene, moved: float = 0.0) -> float:
    """Mean difference of the points' colours from those where they are seen, moved by some pixels."""
    found = []
    for view in scene.views:
        pose = view.cam_from_world.numpy().astype(np.float64)
        x, y, z = (scene.positions @ pose[:3, :3].T + pose[:3, 3]).T
        fx, fy, cx, cy = view.lens
        places = np.column_stack([fx * x / z + cx, fy * y / z + cy])
        inside = ((places > 2) & (places < np.array(view.size) - 2)).all(axis=1)
        across, down = (places[inside] - 0.5 + moved).astype(np.float32).T
        colours = cv2.remap(view.picture.numpy(), across[None], down[None], cv2.INTER_LINEAR)[0]
        found.append(np.abs(colours - scene.colours[inside] / 255).mean())
    return float(np.mean(found))


def test_points_lie_where_their_colours_are(tmp_path: Path) -> None:
    made = make_map(tmp_path / "map", cameras=(LENS,))
    distorted = export(made, "colmap", tmp_path / "distorted")
    undistorted = export(made, "colmap", tmp_path / "undistorted", undistort=True)
    for folder in (distorted, undistorted):
        scene = read_scene(folder, folder / "images", 160)
        assert [view.name for view in scene.views] == [frame.name for frame in made.frames]
        right = difference(scene)
        assert right < 0.6 * min(difference(scene, -1), difference(scene, 1))
        assert scene.views[0].seen.float().mean() > 0.8
    half = read_scene(distorted, distorted / "images", 80)
    assert half.views[0].size == (80, 60)
    assert difference(half) < min(difference(half, -0.7), difference(half, 0.7))


def test_lengths_do_not_depend_on_the_unit(tmp_path: Path) -> None:
    made = make_map(tmp_path / "map")
    export(made, "colmap", tmp_path / "one")
    scene = read_scene(tmp_path / "one", tmp_path / "one" / "images", 80)
    depths = [
        (scene.positions @ view.cam_from_world[2, :3].numpy() + float(view.cam_from_world[2, 3]))
        for view in scene.views
    ]
    assert np.median(np.concatenate(depths)) == pytest.approx(1, rel=0.1)


def test_unusable_models_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no complete COLMAP model"):
        read_scene(tmp_path, tmp_path, 80)
    export(make_map(tmp_path / "map"), "colmap", tmp_path / "model")
    with pytest.raises(SourceError, match="Give its folder with --images"):
        read_scene(tmp_path / "model", tmp_path, 80)
    scene = read_scene(tmp_path / "model", tmp_path / "model" / "images", 80)
    with pytest.raises(SettingsError, match="2 views are too few to hold one in 8 out"):
        fit(replace(scene, views=scene.views[:2]), 0.01)


def test_held_out_views_are_not_trained_on(tmp_path: Path) -> None:
    pose = torch.eye(4)
    pose[2, 3] = 3
    grey, white = torch.full((16, 16, 3), 0.5), torch.ones(16, 16, 3)
    seen = torch.ones(16, 16, dtype=torch.bool)
    views = [View(str(row), pose, (16.0, 16.0, 8.0, 8.0), white if row == 4 else grey, seen) for row in range(9)]
    positions = np.random.default_rng(0).normal(size=(20, 3))
    found, _ = fit(Scene(tuple(views), positions, np.full((20, 3), 128, np.uint8)), 0.003, tell=lambda _: None)
    assert (found.held_out, found.views, found.first) == (1, 9, 20)
    assert found.trained > 20 > 8 > found.psnr
