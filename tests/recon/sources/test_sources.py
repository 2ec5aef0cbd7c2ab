"""Small image files and videos made here; tests/real reads the files of real cameras."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from PIL import ExifTags

from recon.core.errors import OutputError, SettingsError, SourceError
from recon.core.events import Notice
from recon.core.types import Frame, Image, SkippedFrame
from recon.sources import SourceOptions, decoding, open_source

WIDTH, HEIGHT = 96, 64


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """Blocks of 8 x 8 pixels in random, faintly coloured greys, which JPEG and H.264 change by a few levels."""
    rng = np.random.default_rng(seed)
    grid = (height // 8, width // 8)
    blocks = rng.integers(20, 236, (*grid, 1)) + rng.integers(-20, 21, (*grid, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def save(path: Path, pixels: Image | None = None, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options = {"quality": 95, "subsampling": 0} | options
    PIL.Image.fromarray(picture() if pixels is None else pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def frames_of(spec: object, options: SourceOptions | None = None, images_folder: Path | None = None) -> list[Frame]:
    found = open_source(str(spec), options, images_folder)
    items = [item for item in found if not isinstance(item, Notice)]
    assert all(isinstance(item, Frame) for item in items), items
    return [item for item in items if isinstance(item, Frame)]


def difference(one: Image, other: Image) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other).mean())


class TestOptions:
    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"every": 0}, "--every must be at least 1, got 0"),
            ({"fps": 0.0}, "--fps must be a positive number, got 0"),
            ({"fps": float("nan")}, "--fps must be a positive number, got nan"),
            ({"every": 2, "fps": 1.0}, "--every and --fps"),
            ({"max_frames": 0}, "--max-frames must be at least 2, as a map needs two frames, got 0"),
            ({"size": 10}, "--size must be 64 to 16384 pixels, got 10"),
        ],
    )
    def test_impossible_values(self, values: dict[str, int], reason: str) -> None:
        with pytest.raises(SettingsError, match=reason):
            SourceOptions(**values)  # type: ignore[arg-type]

    def test_fps_needs_a_video(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png")
        with pytest.raises(SettingsError, match="--fps applies to videos only"):
            open_source(str(tmp_path), SourceOptions(fps=2))


class TestWhatIsNoSource:
    def refused(self, spec: object, *parts: str) -> None:
        with pytest.raises(SourceError) as caught:
            list(open_source(str(spec)))
        assert "\n" not in str(caught.value)
        for part in (str(spec), *parts):
            assert part in str(caught.value)

    def test_missing_path(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nothing", "does not exist")

    @pytest.mark.parametrize("spec", ["https://example.org/walk.mp4?raw=1", "rtsp://camera/stream", "0", "/dev/video0"])
    def test_live_source(self, spec: str) -> None:
        self.refused(spec, "use recon live")

    def test_folder_with_a_number_for_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        save(tmp_path / "0" / "a.png")
        assert open_source("0").description.frames == 1

    def test_empty_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "contains no files")

    def test_folder_without_images(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        (tmp_path / "poses.csv").write_text("1,2")
        self.refused(tmp_path, "holds no images, only 2 other files", " jpe jpeg jpg ")

    def test_unsupported_file(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")
        self.refused(tmp_path / "notes.txt", "unsupported type", "jpg", "mp4")

    def test_text_named_mp4(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_text("hello\n" * 50)
        self.refused(tmp_path / "a.mp4", "its content is not a video")

    def test_empty_mp4(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").touch()
        self.refused(tmp_path / "a.mp4", "the file is empty")

    def test_glob_without_matches(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "*.jpg", "No file matches")

    def test_no_readable_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").touch()
        (tmp_path / "b.jpg").write_text("hello")
        items = iter(open_source(str(tmp_path)))
        assert [next(items).name, next(items).name] == ["a.jpg", "b.jpg"]
        with pytest.raises(SourceError, match=r"No frame of .* can be read\. The first, a\.jpg: the file is empty\."):
            next(items)


class TestFolder:
    def test_natural_order_of_the_images_alone(self, tmp_path: Path) -> None:
        for number in (10, 2, 1):
            save(tmp_path / f"IMG_{number}.PNG", picture(number))
        (tmp_path / ".IMG_0.png").write_bytes((tmp_path / "IMG_1.PNG").read_bytes())
        (tmp_path / "notes.txt").write_text("hello")
        save(tmp_path / "sub" / "IMG_0.png")
        found = frames_of(tmp_path)
        assert [(frame.index, frame.timestamp) for frame in found] == [(0, 0.0), (1, 1.0), (2, 2.0)]
        for frame, number in zip(found, (1, 2, 10), strict=True):
            np.testing.assert_array_equal(frame.image, picture(number))
            assert frame.mask.shape == (HEIGHT, WIDTH)
            assert frame.mask.all()
            assert frame.original_size == (WIDTH, HEIGHT)

    def test_every_and_max_frames_keep_positions(self, tmp_path: Path) -> None:
        for number in range(8):
            save(tmp_path / f"{number}.png")
        (tmp_path / "2.png").write_bytes(b"")
        source = open_source(str(tmp_path), SourceOptions(every=2, max_frames=3))
        assert source.description.frames == 3
        assert [(item.index, item.name) for item in source] == [(0, "0.png"), (2, "2.png"), (4, "4.png")]

    def test_description_without_decoding(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png")
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        for name in ("b.jpg", "c.jpg"):
            path = save(tmp_path / name, exif=exif)
            path.write_bytes(path.read_bytes()[:-200])  # the header is enough
        (tmp_path / "d.jpg").touch()
        description = open_source(str(tmp_path)).description
        assert description.kind == "folder"
        assert description.frames == 4
        assert description.sizes == ((HEIGHT, WIDTH), (WIDTH, HEIGHT))
        assert description.rate == 0

    def test_files_that_cannot_be_read_are_skipped(self, tmp_path: Path) -> None:
        whole = save(tmp_path / "a.jpg").read_bytes()
        (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "c.jpg").touch()
        (tmp_path / "d.jpg").write_text("hello")
        png = save(tmp_path / "e.png").read_bytes()
        (tmp_path / "f.png").write_bytes(png[: len(png) // 2])
        items = list(open_source(str(tmp_path)))
        skipped = {item.name: item.reason for item in items if isinstance(item, SkippedFrame)}
        assert [item.index for item in items] == list(range(6))
        assert list(skipped) == ["b.jpg", "c.jpg", "d.jpg", "f.png"]
        assert "damaged or cut short" in skipped["b.jpg"]
        assert skipped["c.jpg"] == "the file is empty"
        assert skipped["d.jpg"] == "it is not an image, or its header is damaged"
        assert "damaged or cut short" in skipped["f.png"]

    def test_working_image_is_shrunk_and_never_enlarged(self, tmp_path: Path) -> None:
        pixels = np.zeros((96, 192, 3), dtype=np.uint8)
        pixels[:, 1::2] = 200
        save(tmp_path / "a.png", pixels)
        small = frames_of(tmp_path, SourceOptions(size=96))[0]
        assert small.image.shape == (48, 96, 3)
        assert small.original_size == (192, 96)
        assert small.mask.shape == (48, 96)
        np.testing.assert_array_equal(small.image, 100)  # the mean of each 2 x 2 area
        assert frames_of(tmp_path, SourceOptions(size=4000))[0].image.shape == (96, 192, 3)

    def test_iterations_are_independent(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png")
        source = open_source(str(tmp_path))
        next(iter(source))
        assert len(list(source)) == len(list(source)) == 1

    def test_one_file(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png")
        assert open_source(str(path)).description.kind == "image"
        assert [frame.name for frame in frames_of(path)] == ["a.png"]

    def test_glob_across_folders(self, tmp_path: Path) -> None:
        for folder, number in (("cam10", 3), ("cam2", 1), ("cam2", 2)):
            save(tmp_path / folder / f"{number % 2}.png", picture(number))
        (tmp_path / "cam2" / "notes.txt").touch()
        assert open_source(str(tmp_path / "*" / "*")).description.kind == "glob"
        found = frames_of(tmp_path / "*" / "*")
        assert [frame.name for frame in found] == ["000000_0.png", "000001_1.png", "000002_1.png"]
        for frame, number in zip(found, (2, 1, 3), strict=True):
            np.testing.assert_array_equal(frame.image, picture(number))

    def test_frames_of_one_folder_and_size_share_a_lens_where_the_user_says_so(self, tmp_path: Path) -> None:
        for name in ("a/1.png", "a/2.png", "b/1.png"):
            save(tmp_path / name)
        save(tmp_path / "a" / "3.png", picture(0, HEIGHT, WIDTH))
        lenses = {
            cameras: [frame.lens for frame in open_source(f"{tmp_path}/*/*.png", options) if isinstance(frame, Frame)]
            for cameras, options in (("auto", SourceOptions()), ("per-folder", SourceOptions(cameras="per-folder")))
        }
        assert len(set(lenses["auto"])) == 2
        first, same, turned, other = lenses["per-folder"]
        assert first == same
        assert len({first, turned, other}) == 3

    def test_folder_whose_name_looks_like_a_pattern(self, tmp_path: Path) -> None:
        save(tmp_path / "walk [1]" / "a.png")
        assert len(frames_of(tmp_path / "walk [1]")) == 1


class TestPixels:
    def read(self, path: Path) -> Image:
        return frames_of(path)[0].image

    @pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.heic", "a.tif", "a.bmp", "a.JPEG"])
    def test_formats(self, tmp_path: Path, name: str) -> None:
        assert difference(self.read(save(tmp_path / name)), picture()) < 3

    @pytest.mark.parametrize("white", [255, 4095, 65535])
    def test_16_bit_grey(self, tmp_path: Path, white: int) -> None:
        ramp = np.tile(np.linspace(0, white, WIDTH).astype(np.uint16), (HEIGHT, 1))
        found = self.read(save(tmp_path / "a.png", ramp))
        np.testing.assert_allclose(found[0, :, 1], np.linspace(0, 255, WIDTH), atol=1)

    def test_float_grey(self, tmp_path: Path) -> None:
        ramp = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))
        ramp[3, 3] = np.nan
        found = self.read(save(tmp_path / "a.tif", ramp))
        np.testing.assert_allclose(found[0, :, 2], np.linspace(0, 255, WIDTH), atol=1)
        assert found[3, 3, 0] == 0

    def test_transparency_over_black(self, tmp_path: Path) -> None:
        rgba = np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)])
        rgba[:32, :, 3] = 0
        found = self.read(save(tmp_path / "a.png", rgba))
        np.testing.assert_array_equal(found[:32], 0)
        np.testing.assert_array_equal(found[32:], picture()[32:])

    def test_palette_bilevel_and_cmyk(self, tmp_path: Path) -> None:
        pixels = np.where(picture() > 127, 255, 0).astype(np.uint8)
        image = PIL.Image.fromarray(pixels)
        image.convert("P", palette=PIL.Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
        np.testing.assert_array_equal(self.read(tmp_path / "palette.png"), pixels)
        image.convert("CMYK").save(tmp_path / "cmyk.tif")
        np.testing.assert_array_equal(self.read(tmp_path / "cmyk.tif"), pixels)
        image.convert("L").convert("1", dither=PIL.Image.Dither.NONE).save(tmp_path / "bilevel.png")
        assert set(np.unique(self.read(tmp_path / "bilevel.png"))) == {0, 255}

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "heic"])
    @pytest.mark.parametrize("orientation", range(9))
    def test_orientation(self, tmp_path: Path, suffix: str, orientation: int) -> None:
        turn_back = {
            2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
            3: PIL.Image.Transpose.ROTATE_180,
            4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
            5: PIL.Image.Transpose.TRANSPOSE,
            6: PIL.Image.Transpose.ROTATE_90,
            7: PIL.Image.Transpose.TRANSVERSE,
            8: PIL.Image.Transpose.ROTATE_270,
        }
        image = PIL.Image.fromarray(picture())
        stored = image.transpose(turn_back[orientation]) if orientation in turn_back else image
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f"a.{suffix}"
        stored.save(path, exif=exif.tobytes(), quality=95)  # as bytes, HEIC stores it as its own rotation
        assert open_source(str(path)).description.sizes == ((WIDTH, HEIGHT),)
        assert difference(self.read(path), picture()) < 8

    def test_deep_images_are_turned_too(self, tmp_path: Path) -> None:
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = 3
        ramp = np.tile(np.linspace(0, 65535, WIDTH).astype(np.uint16), (HEIGHT, 1))
        found = self.read(save(tmp_path / "a.png", ramp, exif=exif))
        np.testing.assert_allclose(found[0, :, 0], np.linspace(255, 0, WIDTH), atol=1)

    def test_more_pixels_than_pillow_would_open(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save(tmp_path / "a.png")
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
        assert self.read(path).shape == (HEIGHT, WIDTH, 3)
        assert PIL.Image.MAX_IMAGE_PIXELS == 1000

    def test_too_many_pixels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(tmp_path / "a.png")
        save(tmp_path / "b.png", picture(width=WIDTH + 8))
        monkeypatch.setattr(decoding, "MAX_PIXELS", WIDTH * HEIGHT)
        _, second = open_source(str(tmp_path))
        assert isinstance(second, SkippedFrame)
        assert second.reason == "104 x 64 pixels are more than 6,144"


class TestLens:
    def read(self, tmp_path: Path, tags: dict[int, object], main: dict[int, object] | None = None) -> Frame:
        exif = PIL.Image.Exif()
        exif.update(main or {})
        exif.get_ifd(ExifTags.IFD.Exif).update(tags)
        return frames_of(save(tmp_path / "a.jpg", exif=exif))[0]

    def test_35_mm_equivalent_first(self, tmp_path: Path) -> None:
        base = ExifTags.Base
        main = {base.Make: "Maker", base.Model: "Camera 5\0"}
        frame = self.read(
            tmp_path, {base.FocalLength: 4.5, base.FocalLengthIn35mmFilm: 43, base.FocalPlaneXResolution: 9.0}, main
        )
        focal = 43 / 43.27 * np.hypot(WIDTH, HEIGHT)
        assert frame.focal == pytest.approx(focal)
        assert frame.lens == f"Maker Camera 5 4.5mm {focal:.0f}px 96x64"

    @pytest.mark.parametrize(("unit", "millimetres"), [(2, 25.4), (3, 10), (4, 1), (None, 25.4)])
    def test_sensor_resolution(self, tmp_path: Path, unit: int | None, millimetres: float) -> None:
        base = ExifTags.Base
        tags = {base.FocalLength: 5.0, base.FocalPlaneXResolution: 20.0 * millimetres}
        if unit is not None:
            tags[base.FocalPlaneResolutionUnit] = unit
        assert self.read(tmp_path, tags).focal == pytest.approx(100, rel=1e-4)

    def test_sensor_resolution_of_an_image_shrunk_since(self, tmp_path: Path) -> None:
        base = ExifTags.Base
        tags = {base.FocalLength: 5.0, base.FocalPlaneXResolution: 2000.0, base.FocalPlaneResolutionUnit: 3}
        tags |= {base.ExifImageWidth: WIDTH * 10, base.ExifImageHeight: HEIGHT * 10}
        assert self.read(tmp_path, tags).focal == pytest.approx(100, rel=1e-4)

    @pytest.mark.parametrize("value", [0, 60000])
    def test_nonsense_is_unknown(self, tmp_path: Path, value: int) -> None:
        frame = self.read(tmp_path, {ExifTags.Base.FocalLengthIn35mmFilm: value})
        assert frame.focal == 0
        assert frame.lens == "96x64"

    def test_broken_exif_is_ignored(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f broken")
        assert difference(frames_of(path)[0].image, picture()) < 3


class TestOriginals:
    @pytest.mark.parametrize("name", ["a.JPG", "b.png"])
    def test_upright_files_are_linked(self, tmp_path: Path, name: str) -> None:
        path = save(tmp_path / "in" / name)
        images = tmp_path / "run" / "images"
        assert frames_of(path, images_folder=images)[0].name == name
        assert (images / name).samefile(path)

    def test_grey_is_linked(self, tmp_path: Path) -> None:
        path = save(tmp_path / "in" / "a.png", picture()[..., 0])
        frames_of(path, images_folder=tmp_path / "run")
        assert (tmp_path / "run" / "a.png").samefile(path)

    def test_a_link_in_the_source_is_followed(self, tmp_path: Path) -> None:
        path = save(tmp_path / "elsewhere" / "x.png")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").symlink_to(path)
        frames_of(tmp_path / "in", images_folder=tmp_path / "run")
        assert (tmp_path / "run" / "a.png").samefile(path)
        assert not (tmp_path / "run" / "a.png").is_symlink()

    def test_copied_where_links_do_not_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        path = save(tmp_path / "in" / "a.png")
        monkeypatch.setattr(os, "link", refuse)
        frames_of(path, images_folder=tmp_path / "run")
        assert (tmp_path / "run" / "a.png").read_bytes() == path.read_bytes()
        assert not (tmp_path / "run" / "a.png").samefile(path)

    @pytest.mark.parametrize("name", ["a.webp", "a.tif", "a.heic", "a.bmp"])
    def test_other_formats_become_jpeg(self, tmp_path: Path, name: str) -> None:
        path = save(tmp_path / "in" / name)
        frame = frames_of(path, images_folder=tmp_path / "run")[0]
        assert frame.name == "a.jpg"
        with PIL.Image.open(tmp_path / "run" / "a.jpg") as written:
            assert written.format == "JPEG"
            assert difference(np.asarray(written), frame.image) < 8

    def test_turned_files_are_written_upright_at_full_size(self, tmp_path: Path) -> None:
        exif = PIL.Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        path = save(tmp_path / "in" / "a.jpeg", exif=exif)
        frame = frames_of(path, SourceOptions(size=64), tmp_path / "run")[0]
        assert frame.name == "a.jpg"
        assert frame.original_size == (HEIGHT, WIDTH)
        with PIL.Image.open(tmp_path / "run" / "a.jpg") as written:
            assert written.size == (HEIGHT, WIDTH)
            assert not written.getexif()
            assert difference(np.asarray(written), np.rot90(picture(), -1)) < 8

    def test_a_wrong_suffix_is_corrected(self, tmp_path: Path) -> None:
        path = save(tmp_path / "in" / "a.jpg", format="PNG")
        assert frames_of(path, images_folder=tmp_path / "run")[0].name == "a.png"
        assert (tmp_path / "run" / "a.png").samefile(path)

    def test_names_sort_like_the_source(self, tmp_path: Path) -> None:
        for name in ("a.jpg", "a.heic", "IMG_10.png", "IMG_2.png"):
            save(tmp_path / "in" / name)
        names = [frame.name for frame in frames_of(tmp_path / "in", images_folder=tmp_path / "run")]
        assert names == ["000000_a.jpg", "000001_a.jpg", "000002_IMG_2.png", "000003_IMG_10.png"]
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names

    def test_writing_never_changes_the_users_file(self, tmp_path: Path) -> None:
        """A second run writes to the name that the first one linked to the user's file."""
        path = save(tmp_path / "in" / "a.jpg")
        before = path.read_bytes()
        frames_of(tmp_path / "in", images_folder=tmp_path / "run")
        save(tmp_path / "other" / "a.webp", picture(1))
        frames_of(tmp_path / "other", images_folder=tmp_path / "run")
        assert path.read_bytes() == before
        frames_of(tmp_path / "in", images_folder=tmp_path / "run")
        assert (tmp_path / "run" / "a.jpg").samefile(path)

    def test_the_source_cannot_be_the_output(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png")
        with pytest.raises(SettingsError, match="Choose another --out"):
            open_source(str(tmp_path), images_folder=tmp_path)
        assert path.exists()

    def test_a_folder_that_cannot_be_created(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png")
        with pytest.raises(OutputError, match=r"Cannot create .*images: Not a directory"):
            frames_of(path, images_folder=path / "images")

    @pytest.mark.parametrize("name", ["a.png", "a.webp"])
    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = save(tmp_path / "in" / name)
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(OutputError, match="No space left on device"):
            frames_of(path, images_folder=tmp_path / "run")
        assert list((tmp_path / "run").iterdir()) == []


class TestMasks:
    @pytest.mark.parametrize("name", ["a.png", "a.jpg.png"])
    def test_black_is_ignored(self, tmp_path: Path, name: str) -> None:
        for image in ("a.jpg", "b.jpg"):
            save(tmp_path / "in" / image)
        pixels = np.zeros((HEIGHT * 2, WIDTH * 2), dtype=np.uint8)
        pixels[:, WIDTH:] = 1
        save(tmp_path / "masks" / name, pixels)
        with_mask, without = frames_of(tmp_path / "in", SourceOptions(masks=tmp_path / "masks"))
        assert with_mask.mask.shape == (HEIGHT, WIDTH)
        assert with_mask.mask.dtype == np.bool_
        assert not with_mask.mask[:, : WIDTH // 2].any()
        assert with_mask.mask[:, WIDTH // 2 :].all()
        assert without.mask.all()

    @pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "I;16"])
    def test_modes(self, tmp_path: Path, mode: str) -> None:
        save(tmp_path / "in" / "a.jpg")
        pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        pixels[:10] = 255
        (tmp_path / "masks").mkdir()
        PIL.Image.fromarray(pixels).convert(mode).save(tmp_path / "masks" / "a.png")
        mask = frames_of(tmp_path / "in", SourceOptions(masks=tmp_path / "masks"))[0].mask
        np.testing.assert_array_equal(mask, pixels > 0)

    def test_shrunk_with_the_image(self, tmp_path: Path) -> None:
        save(tmp_path / "in" / "a.jpg", picture(width=128, height=128))
        pixels = np.zeros((128, 128), dtype=np.uint8)
        pixels[64:] = 255
        save(tmp_path / "masks" / "a.png", pixels)
        mask = frames_of(tmp_path / "in", SourceOptions(size=64, masks=tmp_path / "masks"))[0].mask
        np.testing.assert_array_equal(mask, pixels[::2, ::2] > 0)

    def test_of_another_shape(self, tmp_path: Path) -> None:
        save(tmp_path / "in" / "a.jpg")
        save(tmp_path / "masks" / "a.png", picture(width=64, height=96))
        with pytest.raises(SettingsError, match=r"a\.png is 64 x 96 pixels, but its image a\.jpg is 96 x 64"):
            frames_of(tmp_path / "in", SourceOptions(masks=tmp_path / "masks"))

    def test_masks_that_fit_no_frame(self, tmp_path: Path) -> None:
        save(tmp_path / "in" / "a.jpg")
        save(tmp_path / "masks" / "other.png")
        with pytest.raises(SettingsError, match=r"No mask in .*masks belongs to a frame"):
            open_source(str(tmp_path / "in"), SourceOptions(masks=tmp_path / "masks"))

    def test_folder_missing(self, tmp_path: Path) -> None:
        save(tmp_path / "in" / "a.jpg")
        with pytest.raises(SettingsError, match=r"folder of masks .* does not exist"):
            open_source(str(tmp_path / "in"), SourceOptions(masks=tmp_path / "masks"))

    def test_damaged(self, tmp_path: Path) -> None:
        save(tmp_path / "in" / "a.jpg")
        (tmp_path / "masks").mkdir()
        (tmp_path / "masks" / "a.png").write_text("hello")
        with pytest.raises(SettingsError, match=r"mask .*a\.png cannot be read: it is not an image"):
            frames_of(tmp_path / "in", SourceOptions(masks=tmp_path / "masks"))


def encode(path: Path, ticks: Iterable[int] = range(40), codec: str = "libx264") -> Path:
    """A video of ``picture(0)``, ``picture(1)``, ... shown at ``ticks`` of a tenth of a second."""
    options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"  # type: ignore[union-attr]
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = tick
            container.mux(stream.encode(frame))  # type: ignore[union-attr]
        container.mux(stream.encode(None))  # type: ignore[union-attr]
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def turn_clockwise(path: Path) -> Path:
    """Set the display matrix of an MP4 as a phone held upright does."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


class TestVideo:
    @pytest.mark.parametrize(
        ("name", "codec"),
        [
            ("a.mp4", "libx264"),
            ("a.MOV", "libx264"),
            ("a.m4v", "mpeg4"),
            ("a.mkv", "libx264"),
            ("a.avi", "mpeg4"),
            ("a.webm", "libvpx"),
        ],
    )
    def test_formats(self, tmp_path: Path, name: str, codec: str) -> None:
        path = encode(tmp_path / name, range(12), codec)
        description = open_source(str(path)).description
        assert (description.kind, description.frames) == ("video", 12)
        assert description.sizes == ((WIDTH, HEIGHT),)
        assert description.rate == pytest.approx(10)
        found = frames_of(path)
        assert [frame.index for frame in found] == list(range(12))
        np.testing.assert_allclose([frame.timestamp for frame in found], np.arange(12) / 10, atol=1e-3)
        assert {frame.lens for frame in found} == {f"{name} 96x64"}
        for frame in found:
            assert difference(frame.image, picture(frame.index)) < 25

    def test_every_counts_frames(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", range(20))
        options = SourceOptions(every=6)
        description = open_source(str(path), options).description
        assert (description.frames, description.rate) == (4, pytest.approx(10 / 6))
        found = frames_of(path, options)
        assert [frame.index for frame in found] == [0, 6, 12, 18]
        assert [frame.index for frame in frames_of(path, SourceOptions(every=6, max_frames=2))] == [0, 6]

    def test_fps_goes_by_time(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", range(20))
        options = SourceOptions(fps=2.5)
        description = open_source(str(path), options).description
        assert (description.frames, description.rate) == (5, 2.5)
        assert [frame.index for frame in frames_of(path, options)] == [0, 4, 8, 12, 16]
        assert len(frames_of(path, SourceOptions(fps=100))) == 20

    def test_variable_frame_rate(self, tmp_path: Path) -> None:
        ticks = [0, 1, 2, 3, 10, 11, 30, 31, 39]
        path = encode(tmp_path / "a.mkv", ticks)
        np.testing.assert_allclose([frame.timestamp for frame in frames_of(path)], np.array(ticks) / 10, atol=1e-3)
        assert [frame.index for frame in frames_of(path, SourceOptions(fps=1))] == [0, 4, 6]

    def test_rotation(self, tmp_path: Path) -> None:
        path = turn_clockwise(encode(tmp_path / "a.mp4", range(3)))
        assert open_source(str(path)).description.sizes == ((HEIGHT, WIDTH),)
        frame = frames_of(path)[0]
        assert frame.original_size == (HEIGHT, WIDTH)
        assert difference(frame.image, np.rot90(picture(0), -1)) < 25

    def test_originals_and_masks(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", range(3))
        save(tmp_path / "masks" / "000001.png", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
        found = frames_of(path, SourceOptions(size=64, masks=tmp_path / "masks"), tmp_path / "run")
        assert [frame.name for frame in found] == ["000000.jpg", "000001.jpg", "000002.jpg"]
        assert [frame.mask.all() for frame in found] == [True, False, True]
        for frame in found:
            with PIL.Image.open(tmp_path / "run" / frame.name) as written:
                assert written.size == frame.original_size == (WIDTH, HEIGHT)

    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
    def test_cut_short(self, tmp_path: Path, name: str, codec: str) -> None:
        path = cut(encode(tmp_path / name, codec=codec), 0.6)
        *found, last = open_source(str(path))
        assert 8 <= len(found) < 30
        assert [item.index for item in found] == list(range(len(found)))
        for frame in found:
            assert isinstance(frame, Frame)
            assert difference(frame.image, picture(round(frame.timestamp * 10))) < 25
        assert isinstance(last, SkippedFrame)
        assert last.index == len(found)
        assert last.reason.startswith("the video is cut short: it ends at ")
        assert last.reason.endswith(" s of 4.00 s")

    def test_damage_in_the_middle_keeps_the_times_of_later_frames(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.avi", range(40), "mjpeg")
        content = bytearray(path.read_bytes())
        starts = [match.start() for match in re.finditer(rb"00dc....\xff\xd8", content, re.DOTALL)]
        content[starts[20] + 8 : starts[21]] = bytes(starts[21] - starts[20] - 8)
        path.write_bytes(content)
        *found, last = open_source(str(path))
        assert [item.index for item in found] == list(range(39))
        for frame in found:
            assert isinstance(frame, Frame)
            number = frame.index if frame.index < 20 else frame.index + 1
            assert frame.timestamp == pytest.approx(number / 10)
            assert difference(frame.image, picture(number)) < 25
        assert last == SkippedFrame(39, "a.avi", "1 frame of the video is damaged")

    def test_cut_before_the_first_frame(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mkv")
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 40])  # inside the first cluster
        with pytest.raises(SourceError, match=r"No frame of .*a\.mkv can be read"):
            list(open_source(str(path)))

    def test_cut_before_its_index(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4")
        content = path.read_bytes()
        path.write_bytes(content[: content.index(b"moov") - 4])
        with pytest.raises(SourceError, match=r"a\.mp4 cannot be read as a video: it was cut short before its index"):
            open_source(str(path))

    def test_only_sound(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            sound.sample_rate = 44100
            container.mux(stream.encode(sound))  # type: ignore[union-attr]
            container.mux(stream.encode(None))  # type: ignore[union-attr]
        with pytest.raises(SourceError, match="holds no video"):
            open_source(str(path))

    def test_a_file_is_closed_when_reading_stops_early(self, tmp_path: Path) -> None:
        path = encode(tmp_path / "a.mp4", range(12))
        frames = iter(open_source(str(path)))
        next(frames)
        assert path in open_files()
        del frames
        assert path not in open_files()


def open_files() -> list[Path]:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list open files")
    return [link.readlink() for link in descriptors.iterdir() if link.is_symlink()]
