"""Which stream of a file is the film, and how its pictures are converted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Frame, Image
from recon.sources import SourceOptions, open_live_source, open_source
from tests.cases.case import picture
from tests.cases.videos import INTERLACED, Track, fields, squeezed, write_video

COUNT = 6
FINE = {"crf": "8"}


def walk(count: int = COUNT, size: tuple[int, int] = (160, 120)) -> list[Image]:
    """Small BGR pictures of the sample."""
    return [squeezed(picture(index), *size) for index in range(count)]


def frames_of(path: Path) -> list[Frame]:
    return [item for item in open_source(str(path)) if isinstance(item, Frame)]


def differences(frames: list[Frame], pictures: list[Image]) -> list[float]:
    assert [frame.image.shape for frame in frames] == [image.shape for image in pictures]
    pairs = zip(frames, pictures, strict=True)
    return [float(np.abs(frame.image[..., ::-1].astype(float) - image).mean()) for frame, image in pairs]


class TestPixels:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg", "a.ts"])
    @pytest.mark.parametrize(
        ("stored", "pixel", "shown"),
        [((120, 120), Fraction(4, 3), (160, 120)), ((160, 80), Fraction(2, 3), (160, 120))],
    )
    def test_oblong_ones_become_square(
        self, tmp_path: Path, name: str, stored: tuple[int, int], pixel: Fraction, shown: tuple[int, int]
    ) -> None:
        codec, options = ("mpeg2video", {"b": "4000000"}) if name == "a.mpg" else ("libx264", FINE)
        pictures = [squeezed(image, *stored) for image in walk()]
        track = Track(pictures, codec, rate=25, pixel=pixel, options=options)
        path = write_video(tmp_path / name, track)
        (width, height) = open_source(str(path)).description.sizes[0]
        assert (width, height) == pytest.approx(shown, abs=1)  # MPEG-2 has few aspect ratios, of the whole picture
        found = frames_of(path)
        assert found[0].original_size == (width, height)
        assert max(differences(found, [squeezed(image, width, height) for image in walk()])) < 12

    def test_square_ones_stay(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(walk(), pixel=Fraction(1, 1), options=FINE))
        assert max(differences(frames_of(path), walk())) < 5

    def test_nonsense_is_not_believed(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(walk(), pixel=Fraction(255, 1), options=FINE))
        assert open_source(str(path)).description.sizes == ((160, 120),)

    def test_before_the_picture_is_turned(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10, options=FINE)
            stream.width, stream.height, stream.pix_fmt = 120, 120, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            stream.set_display_rotation(90)
            for image in walk():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(squeezed(image, 120, 120), "bgr24")))
            container.mux(stream.encode(None))
        assert open_source(str(path)).description.sizes == ((120, 160),)
        assert frames_of(path)[0].image.shape == (160, 120, 3)

    def test_live(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(walk(size=(120, 120)), pixel=Fraction(4, 3), rate=30))
        source = open_live_source(str(path), SourceOptions(), realtime=True)
        assert source.description.sizes == ((160, 120),)
        assert {item.image.shape for item in source if isinstance(item, Frame)} == {(120, 160, 3)}


class TestInterlaced:
    def test_fields_are_separated(self, tmp_path: Path) -> None:
        size = (320, 240)
        path = write_video(tmp_path / "a.MTS", Track(fields(walk(size=size)), options=INTERLACED))
        found = frames_of(path)
        assert [frame.index for frame in found] == list(range(COUNT))
        np.testing.assert_allclose(np.diff([frame.timestamp for frame in found]), 0.1, atol=1e-3)
        plain = write_video(tmp_path / "plain.mp4", Track(fields(walk(size=size)), options=FINE))
        combed = differences(frames_of(plain), walk(size=size))
        apart = differences(found, walk(size=size))
        assert all(new < 0.5 * old for new, old in zip(apart[1:-1], combed[1:-1], strict=True))

    def test_dv_of_oblong_pixels(self, tmp_path: Path) -> None:
        pictures = walk(4, (720, 576))
        track = Track(fields(pictures), "dvvideo", rate=25, pixel=Fraction(16, 15), options={})
        found = frames_of(write_video(tmp_path / "tape.dv.avi", track))
        assert {frame.original_size for frame in found} == {(768, 576)}
        assert max(differences(found, [squeezed(image, 768, 576) for image in pictures])) < 8

    def test_dvd(self, tmp_path: Path) -> None:
        pictures = walk(4, (720, 480))
        track = Track(fields(pictures), "mpeg2video", rate=25, options={"flags": "+ildct+ilme", "b": "6000000"})
        assert max(differences(frames_of(write_video(tmp_path / "a.VOB", track)), pictures)) < 9

    def test_times_stay(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(fields(walk()), options=INTERLACED))
        assert [frame.timestamp for frame in frames_of(path)] == pytest.approx([0.1 * index for index in range(COUNT)])

    def test_whole_pictures_pass_as_they_are(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(walk(), options=FINE))
        with_fields = write_video(tmp_path / "b.mp4", Track(fields(walk()), options=INTERLACED))
        items = list(open_source(str(path)))
        assert not any(isinstance(item, Notice) for item in items)
        assert not any(isinstance(item, Notice) for item in open_source(str(with_fields)))

    def test_undeclared_interlacing_is_reported(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", Track(fields(walk(12, (320, 240))[::3]), options=FINE))
        (notice,) = [item for item in open_source(str(path)) if isinstance(item, Notice)]
        assert "comb lines of interlaced video" in notice.text
        assert "bwdif" in notice.text

    def test_only_some_frames_are(self, tmp_path: Path) -> None:
        """Whole pictures first, then pictures of two fields; none is lost between them."""
        first = write_video(tmp_path / "1.h264", Track(walk(), options=FINE))
        second = write_video(tmp_path / "2.h264", Track(fields(walk()), options=INTERLACED))
        (tmp_path / "a.h264").write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
        found = frames_of(tmp_path / "a.h264")
        assert len(found) == 3 * COUNT
        assert max(differences(found[:COUNT], walk())) < 5
        assert max(differences(found[-COUNT:], walk())) < 5
        times = [frame.timestamp for frame in found]
        assert times == sorted(set(times))


class TestStreams:
    def thumbnail(self, **options: object) -> Track:
        return Track(
            [cv2.bitwise_not(walk(1)[0])[:90, :120].copy()], "mjpeg", "yuvj420p", rate=1, options={}, **options
        )

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
    @pytest.mark.parametrize("disposition", ["", "attached_pic", "default"])
    def test_a_thumbnail_first(self, tmp_path: Path, name: str, disposition: str) -> None:
        path = write_video(tmp_path / name, self.thumbnail(disposition=disposition), Track(walk(), options=FINE))
        source = open_source(str(path))
        assert source.description.sizes == ((160, 120),)
        assert max(differences(frames_of(path), walk())) < 5

    def test_a_large_cover_and_a_small_film(self, tmp_path: Path) -> None:
        large = Track([squeezed(picture(0), 640, 480)], "mjpeg", "yuvj420p", rate=1, options={})
        path = write_video(tmp_path / "a.mp4", large, Track(walk(), options=FINE))
        assert len(frames_of(path)) == COUNT

    def test_the_larger_of_two_films(self, tmp_path: Path) -> None:
        small = Track(walk(size=(80, 60)), options=FINE)
        path = write_video(tmp_path / "a.mp4", small, Track(walk(), options=FINE))
        assert max(differences(frames_of(path), walk())) < 5

    def test_of_two_angles_the_default_one(self, tmp_path: Path) -> None:
        other = Track([cv2.bitwise_not(image) for image in walk()], options=FINE)
        path = write_video(tmp_path / "a.mkv", other, Track(walk(), options=FINE, disposition="default"))
        assert max(differences(frames_of(path), walk())) < 5

    def test_colour_rather_than_transparency(self, tmp_path: Path) -> None:
        alpha = Track([np.full_like(image, 255) for image in walk()], "ffv1", "gray", options={})
        path = write_video(tmp_path / "a.mkv", alpha, Track(walk(), "ffv1", "bgr0", options={}))
        assert max(differences(frames_of(path), walk())) < 1

    def test_live(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", self.thumbnail(), Track(walk(), options=FINE))
        source = open_live_source(str(path), SourceOptions(), realtime=True)
        assert source.description.sizes == ((160, 120),)

    def test_a_cover_alone(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.mp4", self.thumbnail(disposition="attached_pic"))
        with pytest.raises(SourceError, match=r"a\.mp4 holds no film, only a cover picture or thumbnails"):
            open_source(str(path))

    def test_a_codec_that_cannot_be_decoded(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "a.avi", Track(walk(), "mpeg4", options={}))
        path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
        with pytest.raises(SourceError, match=r"a\.avi is of a video codec that cannot be decoded here"):
            open_source(str(path))

    def test_beside_one_that_can(self, tmp_path: Path) -> None:
        strange = Track([squeezed(image, 640, 480) for image in walk()], "mpeg4", options={})
        path = write_video(tmp_path / "a.avi", strange, Track(walk(), options=FINE))
        path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
        assert max(differences(frames_of(path), walk())) < 5


class TestFrames:
    def test_the_picture_changes_size_in_the_middle(self, tmp_path: Path) -> None:
        upright = [squeezed(image, 120, 160) for image in walk()]
        first = write_video(tmp_path / "1.h264", Track(walk(), options=FINE))
        second = write_video(tmp_path / "2.h264", Track(upright, options=FINE))
        (tmp_path / "a.h264").write_bytes(first.read_bytes() + second.read_bytes())
        found = frames_of(tmp_path / "a.h264")
        assert max(differences(found, walk() + upright)) < 5
        assert len({frame.lens for frame in found}) == 2

    def test_a_clock_that_jumps_back(self, tmp_path: Path) -> None:
        part = write_video(tmp_path / "1.ts", Track(walk(), options=FINE)).read_bytes()
        (tmp_path / "a.ts").write_bytes(part + part)
        times = [frame.timestamp for frame in frames_of(tmp_path / "a.ts")]
        assert len(times) == 2 * COUNT
        assert times == sorted(set(times))

    @pytest.mark.parametrize(
        ("name", "codec"),
        [("a.wmv", "wmv2"), ("a.3gp", "mpeg4"), ("a.m2ts", "libx264"), ("a.flv", "flv1"), ("a.mxf", "mpeg2video"),
         ("a.ogv", "libvpx"), ("a.bin", "libx264"), ("a", "libx264")],
    )  # fmt: skip
    def test_formats(self, tmp_path: Path, name: str, codec: str) -> None:
        container = {"a.bin": "b.mp4", "a": "b.mkv", "a.ogv": "b.webm"}.get(name, name)
        try:
            made = write_video(tmp_path / container, Track(walk(), codec, rate=25, options={"b": "4000000"}))
        except (ValueError, av.error.FFmpegError):
            pytest.skip(f"this FFmpeg does not write {codec}")
        made.rename(tmp_path / name)
        assert max(differences(frames_of(tmp_path / name), walk())) < 15

    def test_a_name_with_a_colon(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_video(tmp_path / "clip 10:30.mp4", Track(walk(), options=FINE))
        monkeypatch.chdir(tmp_path)
        assert len(frames_of(Path("clip 10:30.mp4"))) == COUNT

    @pytest.mark.parametrize("bits", [10, 12, 16])
    def test_deep_grey_with_low_contrast_is_stretched(self, tmp_path: Path, bits: int) -> None:
        grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in walk()]
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 160, 120, f"gray{bits}le"
            for image in grey:
                deep = ((0.45 + image / 255 * 0.05) * (2**bits - 1)).astype(np.uint16)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(deep, f"gray{bits}le")))
            container.mux(stream.encode(None))
        for frame, image in zip(frames_of(path), grey, strict=True):
            assert np.corrcoef(frame.image[..., 1].ravel(), image.ravel())[0, 1] > 0.99
            assert np.ptp(frame.image) > 250
