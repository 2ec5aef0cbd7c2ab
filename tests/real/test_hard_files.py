"""Files of real cameras that break readers: every EXIF orientation, HEIC, broken EXIF, truncated and empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from recon.core.types import Frame, SkippedFrame
from recon.sources import SourceOptions, open_source


@pytest.fixture(scope="module")
def hard_files(real_data: Path) -> Path:
    return real_data / "hard-files"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "images"


@pytest.fixture(scope="module")
def items(hard_files: Path, images: Path) -> dict[str, Frame | SkippedFrame]:
    """The items of the whole folder, by the stem of the file."""
    return {Path(item.name).stem: item for item in open_source(str(hard_files), SourceOptions(size=512), images)}


def frame(items: dict[str, Frame | SkippedFrame], stem: str) -> Frame:
    (item,) = (item for name, item in items.items() if name.endswith(stem))
    assert isinstance(item, Frame), item
    return item


def test_only_the_three_broken_files_are_skipped(items: dict[str, Frame | SkippedFrame]) -> None:
    skipped = {item.name: item.reason for item in items.values() if isinstance(item, SkippedFrame)}
    assert set(skipped) == {"empty.jpg", "truncated_60pct.jpg", "truncated_header.jpg"}
    assert skipped["empty.jpg"] == "the file is empty"
    assert "cut short" in skipped["truncated_60pct.jpg"]
    assert len(items) == 34


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("shape", ["landscape", "portrait"])
def test_every_orientation_comes_out_upright(
    items: dict[str, Frame | SkippedFrame], images: Path, shape: str, orientation: int
) -> None:
    upright = frame(items, f"exif_{shape}_1")
    turned = frame(items, f"exif_{shape}_{orientation}")
    assert turned.original_size == upright.original_size == ((1800, 1200) if shape == "landscape" else (1200, 1800))
    # The tag's number is painted into each picture; everything else is the same.
    assert np.abs(turned.image.astype(float) - upright.image).mean() < 6
    with PIL.Image.open(images / turned.name) as original:
        assert original.size == turned.original_size
        assert original.getexif().get(0x0112, 1) in (0, 1)
        small = np.asarray(original.convert("RGB").resize(turned.image.shape[1::-1], PIL.Image.Resampling.BOX))
    assert np.abs(small.astype(float) - turned.image).mean() < 3


@pytest.mark.parametrize(
    ("stem", "size"),
    [
        ("HMD_Nokia_8.3_5G", (3456, 4608)),
        ("IMG_5195", (2566, 3313)),
        ("iphone_13_pro_max", (3024, 4032)),
        ("libheif_example", (1280, 854)),
    ],
)
def test_heic_is_rotated_once(
    items: dict[str, Frame | SkippedFrame], images: Path, stem: str, size: tuple[int, int]
) -> None:
    found = frame(items, stem)
    assert found.original_size == size
    assert found.image.std() > 20
    with PIL.Image.open(images / found.name) as original:
        assert (original.format, original.size) == ("JPEG", size)


def test_focal_length_from_exif(items: dict[str, Frame | SkippedFrame]) -> None:
    phone = frame(items, "iphone_13_pro_max")
    assert phone.focal == pytest.approx(26 / 43.27 * np.hypot(3024, 4032))
    assert phone.lens == "Apple iPhone 13 Pro Max 5.7mm 3028px 3024x4032"
    assert frame(items, "DSCN0010").focal == pytest.approx(112 / 43.27 * 800)
    assert frame(items, "exif_landscape_1").focal == 0


def test_upright_photographs_are_not_rewritten(
    items: dict[str, Frame | SkippedFrame], images: Path, hard_files: Path
) -> None:
    name = frame(items, "DSCN0010").name
    assert (images / name).read_bytes() == (hard_files / "DSCN0010.jpg").read_bytes()


def test_video_of_an_aeroplane(real_data: Path) -> None:
    path = real_data / "videos" / "great_wall.mp4"
    options = SourceOptions(every=36, size=320)
    source = open_source(str(path), options)
    assert source.description.frames == 8
    assert source.description.sizes == ((640, 360),)
    found = list(source)
    assert [item.index for item in found] == list(range(0, 288, 36))
    times = [item.timestamp for item in found if isinstance(item, Frame)]
    np.testing.assert_allclose(times, np.arange(8) * 1.5, atol=1e-3)
