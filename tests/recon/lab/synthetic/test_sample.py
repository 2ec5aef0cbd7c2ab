"""The bundled sample agrees with the code that makes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_colour
from recon.lab.synthetic.sample import (
    DEPTH_EVERY,
    FRAMES,
    HEIGHT,
    WIDTH,
    furnished_room,
    render_millimetres,
    sample_intrinsics,
    walk,
)

SAMPLE = Path(__file__).parents[4] / "data" / "sample"


def test_all_files_are_there_and_small() -> None:
    images = sorted(path.name for path in (SAMPLE / "images").iterdir())
    assert images == [f"{index:06d}.jpg" for index in range(FRAMES)]
    depths = sorted(path.name for path in (SAMPLE / "depth").iterdir())
    assert depths == [f"{index:06d}.png" for index in range(0, FRAMES, DEPTH_EVERY)]
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 6e6


def test_poses_and_intrinsics_on_disk_are_those_of_the_walk() -> None:
    rows = np.loadtxt(SAMPLE / "poses.txt")
    poses = walk().numpy()
    assert np.array_equal(rows[:, 0], np.arange(FRAMES))
    assert np.allclose(rows[:, 1:4], poses[:, :3, 3], atol=1e-8)
    assert np.allclose(Rotation.from_quat(rows[:, 4:]).as_matrix(), poses[:, :3, :3], atol=1e-7)
    fx, fy, cx, cy = np.loadtxt(SAMPLE / "intrinsics.txt")
    assert np.allclose([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], sample_intrinsics())


def test_the_walk_returns_to_its_start_in_even_steps() -> None:
    centres = walk()[:, :3, 3]
    steps = (centres.roll(-1, 0) - centres).norm(dim=1)
    assert steps.max() < 1.1 * steps.min()
    assert 0.1 < steps.mean() < 0.3


@pytest.mark.parametrize("index", [6, 41])
def test_a_fresh_render_equals_the_image_up_to_jpeg(index: int) -> None:
    image = Image.open(SAMPLE / "images" / f"{index:06d}.jpg")
    assert image.size == (WIDTH, HEIGHT)
    left, top, width, height = 240, 160, 160, 120
    window = sample_intrinsics()
    window[:2, 2] -= torch.tensor([left, top])
    cam_from_world = inverse_rigid(walk()[index]).float()[None, None]
    colour = 255 * render_colour(furnished_room(), cam_from_world, window, height, width)[0, 0].numpy()
    stored = np.asarray(image, dtype=np.float32)[top : top + height, left : left + width]
    difference = np.abs(stored - colour)
    # JPEG halves the resolution of colour, which costs about 4 grey levels here; the next frame would give 38.
    assert difference.mean() < 6
    assert abs((stored - colour).mean()) < 0.5


def test_fresh_depth_equals_the_file() -> None:
    index = 6
    stored = np.asarray(Image.open(SAMPLE / "depth" / f"{index:06d}.png"))
    fresh = render_millimetres(furnished_room(), walk()[index])
    assert stored.dtype == np.uint16
    assert stored.shape == (HEIGHT // 2, WIDTH // 2)
    # At an outline, the last bit of a ray decides what is hit; elsewhere only rounding differs.
    assert (np.abs(stored.astype(int) - fresh.astype(int)) > 1).mean() < 1e-3
    assert stored.min() > 300
