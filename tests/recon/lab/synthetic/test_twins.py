"""Scenes with twins: what looks alike, what does not, and the files of a scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from recon.lab.synthetic import twins
from recon.lab.synthetic.twins import FRAMES, HEIGHT, TWINS, WIDTH, equal_rooms, photograph, write_twins


def alike(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Share of the pixels with nearly the same colour."""
    return float((np.abs(first - second).max(axis=2) < 0.05).mean())


def test_every_view_of_a_room_has_a_twin_in_the_other_and_none_in_the_control() -> None:
    here, there = 12, 12 + FRAMES // 2
    pictures = {
        (same, index): photograph(scene, poses[index], shrink=2)
        for same in (True, False)
        for scene, poses in [equal_rooms(1, alike=same)]
        for index in (here, there)
    }
    colours = {key: picture.colour[0, 0].numpy() for key, picture in pictures.items()}
    assert alike(colours[True, here], colours[True, there]) > 0.8
    assert alike(colours[False, here], colours[False, there]) < 0.5
    depths = [pictures[True, index].depth for index in (here, there)]
    assert np.allclose(*depths, rtol=1e-3)


@pytest.mark.parametrize("name", TWINS)
def test_a_seed_gives_a_scene_of_its_own_with_all_poses(name: str) -> None:
    (scene, poses), (other, moved) = (TWINS[name](seed, alike=True) for seed in (0, 1))
    assert poses.shape == (FRAMES, 4, 4)
    assert not np.allclose(poses, moved)
    control, _ = TWINS[name](0, alike=False)
    numbers = [len(set(one.seed[0].tolist())) for one in (scene, other, control)]
    assert numbers[0] == numbers[1] < numbers[2] == len(control.shapes)


def test_the_files_of_a_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, poses = TWINS["mug"](0, alike=False)
    monkeypatch.setattr(twins, "TWINS", {"mug": lambda seed, alike: (scene, poses[seed : seed + 1])})
    write_twins(tmp_path, 1, alike=False)
    (folder,) = tmp_path.iterdir()
    assert folder.name == "mug-0-control"
    with Image.open(folder / "images" / "000000.jpg") as image:
        assert image.size == (WIDTH, HEIGHT)
    row = np.loadtxt(folder / "poses.txt")
    assert row[:4] == pytest.approx([0, *poses[0, :3, 3].tolist()], abs=1e-6)
    assert np.loadtxt(folder / "intrinsics.txt").tolist() == [250, 250, WIDTH / 2, HEIGHT / 2]
