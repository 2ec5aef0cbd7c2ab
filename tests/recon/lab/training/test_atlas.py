"""Tiles, their smaller versions, and how surfaces are painted with them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recon.core.errors import ReconError
from recon.lab.training.atlas import SIDE, Atlas, procedural_tiles, read_photos


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    return torch.rand((3, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))


def test_a_sharp_look_up_returns_the_texel(tiles: torch.Tensor) -> None:
    atlas = Atlas.of(tiles)
    rows, columns = torch.tensor([0, 17, 127]), torch.tensor([5, 64, 127])
    position = torch.stack([(columns + 0.5) / SIDE, (rows + 0.5) / SIDE], 1)
    found = atlas.look_up(torch.tensor([0, 1, 2]), position, torch.full((3,), 1 / SIDE))
    assert torch.allclose(found, tiles[[0, 1, 2], rows, columns], atol=0.5 / 255 + 1e-4)


def test_tiles_are_mirrored_beyond_their_edges(tiles: torch.Tensor) -> None:
    atlas, inside = Atlas.of(tiles), torch.tensor([[0.3, 0.6]])
    beyond = torch.tensor([[2 - 0.3, -0.6]])
    footprint, tile = torch.tensor([1 / SIDE]), torch.tensor([1])
    assert torch.allclose(atlas.look_up(tile, inside, footprint), atlas.look_up(tile, beyond, footprint), atol=1e-4)


def test_a_wide_footprint_sees_the_mean(tiles: torch.Tensor) -> None:
    atlas = Atlas.of(tiles)
    found = atlas.look_up(torch.tensor([2]), torch.tensor([[0.5, 0.5]]), torch.tensor([1.0]))
    assert torch.allclose(found[0], tiles[2].mean((0, 1)), atol=0.05)


def test_white_margins_of_photographs_are_cut_off(tmp_path: Path) -> None:
    image = np.full((96, 112, 3), 255, np.uint8)
    image[16:80, 32:96] = (10, 60, 200)  # BGR
    cv2.imwrite(str(tmp_path / "wood-001.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    photos = read_photos(tmp_path)
    assert photos.shape == (1, SIDE, SIDE, 3)
    assert (photos[0] - torch.tensor([200, 60, 10]) / 255).abs().mean() < 0.02


def test_missing_and_broken_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"has no \.jpg files"):
        read_photos(tmp_path)
    (tmp_path / "wood-001.jpg").write_bytes(b"nothing")
    with pytest.raises(ReconError, match=r"wood-001\.jpg is not a readable image"):
        read_photos(tmp_path)


def test_procedural_tiles_differ_and_repeat_with_the_seed() -> None:
    first, again = (procedural_tiles(torch.Generator().manual_seed(1), 2) for _ in range(2))
    assert torch.equal(first, again)
    assert ((first >= 0) & (first <= 1)).all()
    assert not torch.equal(first[0], first[1])
