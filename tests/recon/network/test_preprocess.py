"""Images to network input; the public rules are compared with stored pictures in test_reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recon.core.errors import SourceError
from recon.network.preprocess import as_batch, fitted_size, load_public, resize, resize_mask


def save(path: Path, size: tuple[int, int], mode: str = "RGB", colour: int | tuple[int, ...] = 100) -> Path:
    Image.new(mode, size, colour).save(path)
    return path


@pytest.mark.parametrize(
    ("size", "crop", "pad"),
    [
        ((130, 90), (364, 518), (518, 518)),
        ((75, 140), (518, 518), (518, 518)),
        ((160, 50), (168, 518), (518, 518)),
        ((518, 511), (504, 518), (518, 518)),  # 36.5 patches: Python rounds halves to even
    ],
)
def test_sizes_of_the_public_rules(
    tmp_path: Path, size: tuple[int, int], crop: tuple[int, int], pad: tuple[int, int]
) -> None:
    path = save(tmp_path / "image.png", size)
    assert tuple(load_public([path], "crop").shape) == (1, 3, *crop)
    assert tuple(load_public([path], "pad").shape) == (1, 3, *pad)


def test_padding_is_white_and_larger_at_the_bottom(tmp_path: Path) -> None:
    padded = load_public([save(tmp_path / "image.png", (518, 503), colour=(0, 0, 0))], "pad")[0, 0]
    dark = (padded[:, 0] == 0).nonzero().flatten()
    assert (int(dark[0]), 517 - int(dark[-1])) == (7, 7)
    assert torch.equal(padded[:7], torch.ones(7, 518))
    odd = as_batch([np.zeros((4, 4, 3), np.uint8), np.zeros((7, 6, 3), np.uint8)])[0, 0]
    assert odd[:, 2].tolist() == [1, 0, 0, 0, 0, 1, 1]
    assert odd[2].tolist() == [1, 0, 0, 0, 0, 1]


def test_transparency_becomes_white_and_a_palette_becomes_colour(tmp_path: Path) -> None:
    clear = load_public([save(tmp_path / "clear.png", (40, 40), "RGBA", (10, 20, 30, 0))], "crop")
    assert torch.equal(clear, torch.ones_like(clear))
    palette = Image.new("RGB", (40, 40), (200, 100, 0)).quantize()
    palette.save(tmp_path / "palette.png")
    colours = load_public([tmp_path / "palette.png"], "crop")[0, :, 0, 0] * 255
    np.testing.assert_allclose(colours, [200, 100, 0], atol=4)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"broken\.png cannot be read as an image"):
        load_public([tmp_path / "broken.png"], "crop")
    with pytest.raises(SourceError, match=r"thin\.png is 600 x 4 px, too narrow"):
        load_public([save(tmp_path / "thin.png", (600, 4))], "crop")


@given(st.integers(14, 4000), st.integers(14, 4000), st.integers(196, 500_000))
def test_fitted_size_keeps_within_the_budget(width: int, height: int, pixels: int) -> None:
    columns, rows = fitted_size(width, height, pixels)
    assert columns % 14 == rows % 14 == 0
    assert 14 <= columns <= width + 14
    assert 14 <= rows <= height + 14
    assert columns * rows <= pixels


@given(st.integers(300, 4000), st.integers(300, 4000))
def test_fitted_size_keeps_the_aspect_and_uses_the_budget(width: int, height: int) -> None:
    pixels = 518 * 392
    columns, rows = fitted_size(width, height, pixels)
    assert abs(np.log(columns / rows * height / width)) < 14 / min(columns, rows) * 1.5
    if width * height > pixels:
        assert columns * rows > pixels - 14 * 2 * max(columns, rows)


def test_fitted_size_of_usual_frames() -> None:
    assert fitted_size(640, 480, 518 * 392) == (518, 392)
    assert fitted_size(1920, 1080, 518 * 392) == (602, 336)
    assert fitted_size(140, 112, 518 * 392) == (140, 112)


def test_frames_smaller_than_a_patch_and_budgets_below_one_are_refused() -> None:
    with pytest.raises(SourceError, match="13 x 200 px are smaller than a patch"):
        fitted_size(13, 200, 10_000)
    with pytest.raises(SourceError, match="100 pixels do not hold one patch"):
        fitted_size(200, 200, 100)


def test_resize() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert resize(image, (40, 30)) is image
    assert resize(image, (20, 15)).shape == (15, 20, 3)
    mask = image[..., 0] > 100
    assert np.array_equal(resize_mask(mask, (20, 15)), mask[1::2, 1::2])
