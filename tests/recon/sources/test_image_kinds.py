"""Images are recognised by content, and deep ones are converted with contrast."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import PIL.Image
import pycolmap
import pytest

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Frame, Image, SkippedFrame
from recon.sources import SourceOptions, open_live_source, open_source
from recon.sources.base import Source
from recon.sources.kinds import is_image
from recon.sources.levels import eight_bit
from tests.cases.case import picture
from tests.cases.videos import squeezed

SIZE = (160, 120)


def sample(index: int = 0) -> Image:
    """A small RGB picture."""
    return squeezed(picture(index)[..., ::-1], *SIZE)


def grey() -> Image:
    return np.asarray(cv2.cvtColor(sample(), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def frames(source: Source | Path) -> list[Frame]:
    opened = open_source(str(source)) if isinstance(source, Path) else source
    return [item for item in opened if isinstance(item, Frame)]


def notices(source: Path) -> list[str]:
    return [item.text for item in open_source(str(source)) if isinstance(item, Notice)]


def alike(found: Image, wanted: Image) -> float:
    """Correlation of two pictures."""
    return float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])


class TestFormats:
    @pytest.mark.parametrize(
        "name", ["a.ppm", "a.bmp", "a.jp2", "a.avif", "a.gif", "a.tga", "a.j2k", "a.jfif", "a.qoi", "a.pnm"]
    )
    def test_colour(self, tmp_path: Path, name: str) -> None:
        options = {".jfif": "JPEG", ".pnm": "PPM"}.get(Path(name).suffix)
        PIL.Image.fromarray(sample()).save(tmp_path / name, format=options)
        (frame,) = frames(tmp_path)
        assert np.abs(frame.image.astype(float) - sample()).mean() < 8
        assert open_source(str(tmp_path)).description.sizes == (SIZE,)

    @pytest.mark.parametrize("name", ["a.pgm", "a.pbm"])
    def test_grey(self, tmp_path: Path, name: str) -> None:
        PIL.Image.fromarray(grey()).convert("1" if name == "a.pbm" else "L").save(tmp_path / name)
        assert alike(frames(tmp_path)[0].image[..., 0], grey()) > 0.4

    @pytest.mark.parametrize(("name", "codec"), [("a.exr", "exr"), ("a.hdr", "hdr"), ("a.pfm", "pfm")])
    def test_light(self, tmp_path: Path, name: str, codec: str) -> None:
        light = (sample() / np.float32(255)) ** np.float32(2.2) * 30
        write_light(tmp_path / name, codec, light)
        (frame,) = frames(tmp_path)
        assert open_source(str(tmp_path)).description.sizes == (SIZE,)
        assert alike(frame.image, sample()) > 0.97
        assert frame.image.mean() == pytest.approx(sample().mean(), rel=0.35)

    def test_damaged_light(self, tmp_path: Path) -> None:
        (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01\2\0\0\0 and nothing that belongs there")
        with pytest.raises(SourceError, match=r"a\.exr: the image is damaged or cut short"):
            frames(tmp_path)

    @pytest.mark.parametrize("name", ["IMG_1", "IMG_1.dat", "IMG_1.jpg_large", "IMG_1.tif", "photo.1"])
    def test_by_content_where_the_suffix_is_wrong(self, tmp_path: Path, name: str) -> None:
        PIL.Image.fromarray(sample()).save(tmp_path / name, format="JPEG", quality=95)
        assert len(frames(tmp_path)) == 1
        assert len(frames(tmp_path / name)) == 1

    def test_other_files_are_ignored_silently(self, tmp_path: Path) -> None:
        PIL.Image.fromarray(sample()).save(tmp_path / "a.jpg")
        for name in ("notes.txt", "a.json", "a.xmp", "a.aae", "Thumbs.db", "gps.gpx", "empty", "P5 notes", "BMW"):
            (tmp_path / name).write_text({"P5 notes": "P5 is a chapter", "BMW": "BMW is a car"}.get(name, "{}"))
        (tmp_path / "empty").write_bytes(b"")
        PIL.Image.fromarray(sample()).save(tmp_path / "GOPR0001.THM", format="JPEG")
        PIL.Image.fromarray(sample()).save(tmp_path / "a.jpg.part", format="JPEG")
        assert [frame.name for frame in frames(tmp_path)] == ["a.jpg"]
        assert notices(tmp_path) == []

    def test_ignored_videos_and_raw_photos_are_reported(self, tmp_path: Path) -> None:
        PIL.Image.fromarray(sample()).save(tmp_path / "a.jpg")
        for name in ("b.MOV", "a.mp4", "IMG_1.CR2"):
            (tmp_path / name).write_bytes(b"II*\0")
        videos, raw = notices(tmp_path)
        assert videos == "Videos in the folder of images are ignored: 2 in all, first a.mp4."
        assert raw == "Raw photos are ignored: 1 in all, first IMG_1.CR2. Convert them to JPEG or TIFF."

    def test_a_folder_of_videos(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"\0")
        with pytest.raises(SourceError, match=r"holds no images, only 1 other file.*To use the video a\.mp4"):
            open_source(str(tmp_path))

    def test_a_raw_photo(self, tmp_path: Path) -> None:
        (tmp_path / "a.nef").write_bytes(b"MM\0*")
        with pytest.raises(SourceError, match=r"a\.nef is a raw photo"):
            open_source(str(tmp_path / "a.nef"))

    def test_an_animation_is_a_video(self, tmp_path: Path) -> None:
        pictures = [PIL.Image.fromarray(sample(index)) for index in (0, 10, 20)]
        pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
        assert open_source(str(tmp_path / "a.gif")).description.kind == "video"
        assert len(frames(tmp_path / "a.gif")) == 3
        assert len(frames(tmp_path)) == 1
        pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=100)
        with pytest.raises(SourceError, match="is an animated WebP, which FFmpeg cannot read"):
            open_source(str(tmp_path / "a.webp"))

    def test_a_large_folder_is_listed_quickly(self, tmp_path: Path) -> None:
        for number in range(3000):
            (tmp_path / f"{number}{'.jpg' if number % 2 else ''}").write_bytes(b"\xff\xd8\xff\xe0")
        start = time.perf_counter()
        assert sum(map(is_image, tmp_path.iterdir())) == 3000
        assert time.perf_counter() - start < 3

    def test_watched_folder(self, tmp_path: Path) -> None:
        PIL.Image.fromarray(sample()).save(tmp_path / "a.pgm")
        PIL.Image.fromarray(sample()).save(tmp_path / "IMG_2", format="PNG")
        (tmp_path / "notes.txt").write_text("hello")
        source = open_live_source(str(tmp_path), SourceOptions(max_frames=2), watch=True)
        assert sorted(frame.name for frame in frames(source)) == ["000000_a.jpg", "000001_IMG_2.png"]


def write_light(path: Path, codec: str, light: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    if codec == "hdr":
        cv2.imwrite(str(path), light[..., ::-1])
        return
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = *SIZE, "gbrpf32le"  # type: ignore[attr-defined]
    context.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(light, "gbrpf32le")
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))  # type: ignore[attr-defined]


class TestLevels:
    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
    @pytest.mark.parametrize(("low", "high"), [(28000, 31000), (100, 900), (60000, 65535)])
    def test_grey_of_16_bit_with_low_contrast_is_stretched(
        self, tmp_path: Path, name: str, low: int, high: int
    ) -> None:
        deep = (low + grey() / 255 * (high - low)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / name), deep)
        (frame,) = frames(tmp_path)
        assert alike(frame.image[..., 0], grey()) > 0.99
        assert np.ptp(frame.image) == 255
        assert frame.name == "a.jpg"

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.ppm"])
    def test_colour_of_16_bit_with_low_contrast_is_stretched(self, tmp_path: Path, name: str) -> None:
        deep = (500 + sample() / 255 * 3000).astype(np.uint16)
        cv2.imwrite(str(tmp_path / name), deep[..., ::-1])
        (frame,) = frames(tmp_path)
        assert alike(frame.image, sample()) > 0.99
        assert np.ptp(frame.image) > 150
        assert frame.name == "a.jpg"

    def test_colour_of_16_bit_with_contrast_is_unchanged(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), (sample()[..., ::-1].astype(np.uint16) * 257))
        (frame,) = frames(tmp_path)
        np.testing.assert_array_equal(frame.image, sample())
        assert frame.name == "a.png"

    def test_an_8_bit_image_with_low_contrast_is_unchanged(self, tmp_path: Path) -> None:
        pixels = (100 + sample() / 255 * 20).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(frames(tmp_path)[0].image, pixels)

    @pytest.mark.parametrize(("low", "high"), [(18.0, 35.0), (-20.0, 15.0), (273.0, 310.0), (-1.0, 1.0), (0.4, 0.5)])
    def test_temperatures(self, tmp_path: Path, low: float, high: float) -> None:
        values = (low + grey() / 255 * (high - low)).astype(np.float32)
        values[5, 5] = np.nan
        PIL.Image.fromarray(values).save(tmp_path / "a.tif")
        (frame,) = frames(tmp_path)
        assert alike(frame.image[..., 0], grey()) > 0.98

    def test_a_few_dead_pixels_do_not_count(self) -> None:
        values = (28000 + grey() / 255 * 3000).astype(np.uint16)
        values[7, 7], values[9, 3] = 0, 65535
        assert alike(eight_bit(values), grey()) > 0.97

    @pytest.mark.parametrize("value", [0.0, 5.0, np.nan, np.inf, -np.inf, 3e38, -3e38])
    def test_one_value_everywhere(self, value: float) -> None:
        found = eight_bit(np.full((4, 5), value, np.float32))
        assert found.shape == (4, 5)
        assert len(np.unique(found)) == 1


class TestNames:
    @pytest.mark.parametrize("folder", ["photos [1]", "a[bc]", "ä ö (2)"])
    def test_a_pattern_in_a_folder_with_brackets(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / folder).mkdir()
        PIL.Image.fromarray(sample()).save(tmp_path / folder / "IMG[2].jpg")
        assert len(frames(tmp_path / folder)) == 1
        assert len(frames(tmp_path / folder / "IMG[2].jpg")) == 1
        assert len(frames(tmp_path / folder / "*.jpg")) == 1
        assert len(frames(tmp_path / folder / "IMG[2].*")) == 1

    def test_brackets_are_a_pattern_where_that_matches(self, tmp_path: Path) -> None:
        for name in ("1.png", "2.png", "3.png"):
            PIL.Image.fromarray(sample()).save(tmp_path / name)
        assert len(frames(tmp_path / "[12].png")) == 2

    def test_brackets_that_match_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"No file matches .*IMG\[9\].*Brackets stand for one of the characters"):
            open_source(str(tmp_path / "IMG[9]*.jpg"))

    def test_names_survive_colmaps_text_files(self, tmp_path: Path) -> None:
        names = ["06 (Größe 1).jpg", "IMG[2].jpg", "a  b\tc.jpg", "日本 1.jpg"]
        (tmp_path / "in").mkdir()
        for name in names:
            PIL.Image.fromarray(sample()).save(tmp_path / "in" / name)
        found = [
            frame.name
            for frame in open_source(str(tmp_path / "in"), None, tmp_path / "out")
            if isinstance(frame, Frame)
        ]
        model = pycolmap.Reconstruction()
        camera = pycolmap.Camera(model="PINHOLE", width=2, height=2, params=[1, 1, 1, 1], camera_id=1)
        model.add_camera_with_trivial_rig(camera)
        for number, name in enumerate(found, start=1):
            image = pycolmap.Image(name=name, keypoints=np.zeros((0, 2)), camera_id=1, image_id=number)
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
        (tmp_path / "text").mkdir()
        model.write_text(tmp_path / "text")
        again = pycolmap.Reconstruction()
        again.read_text(tmp_path / "text")
        assert {image.name for image in again.images.values()} == set(found)
        assert {path.name for path in (tmp_path / "out").iterdir()} == set(found)

    def test_heic_and_jpeg_of_every_photo(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for number in range(3):
            for suffix in ("JPG", "HEIC"):
                PIL.Image.fromarray(sample(number)).save(tmp_path / "in" / f"IMG_{number}.{suffix}")
        items = list(open_source(str(tmp_path / "in"), None, tmp_path / "out"))
        (notice,) = [item.text for item in items if isinstance(item, Notice)]
        assert "3 in all, first IMG_0.HEIC and IMG_0.JPG" in notice
        assert (
            len({item.name for item in items if isinstance(item, Frame)})
            == len(list((tmp_path / "out").iterdir()))
            == 6
        )

    def test_masks_of_any_format(self, tmp_path: Path) -> None:
        for folder in ("in", "masks"):
            (tmp_path / folder).mkdir()
        PIL.Image.fromarray(sample()).save(tmp_path / "in" / "a.jpg")
        PIL.Image.fromarray(np.zeros((120, 160), np.uint8)).save(tmp_path / "masks" / "a.pgm")
        (tmp_path / "masks" / "notes.txt").write_text("hello")
        (frame,) = frames(open_source(str(tmp_path / "in"), SourceOptions(masks=tmp_path / "masks")))
        assert not frame.mask.any()


def test_a_text_with_the_suffix_of_an_image_is_skipped(tmp_path: Path) -> None:
    PIL.Image.fromarray(sample()).save(tmp_path / "a.png")
    for name in ("b.exr", "b.ppm", "b.tga", "b.jp2", "b.avif", "b.psd"):
        (tmp_path / name).write_text("This is no image.\n" * 20)
    reasons = {item.name: item.reason for item in open_source(str(tmp_path)) if isinstance(item, SkippedFrame)}
    assert set(reasons.values()) == {"it is not an image, or its header is damaged"}
