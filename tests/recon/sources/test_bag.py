"""Recordings of ROS: images, times, lenses and positions are those that were written."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.types import Frame, SkippedFrame
from recon.metric.track import read_track
from recon.sources import SourceOptions, open_source
from recon.sources.decoding import UnreadableImage
from recon.sources.ros_images import picture
from tests.bags import SECOND, Messages, write_bag

WIDTH, HEIGHT = 96, 64
START = 1_700_000_000
K = (80.0, 0, 47.5, 0, 80.0, 31.5, 0, 0, 1)


def pictures(count: int) -> np.ndarray:
    """Smooth, so that colours survive sensors that have one of them in each pixel."""
    coarse = np.random.default_rng(0).integers(40, 215, (count, 6, 8, 3), dtype=np.uint8)
    return np.array([cv2.resize(one, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for one in coarse])


def times(count: int) -> list[float]:
    return [START + 0.1 * row for row in range(count)]


def recorded(tmp_path: Path, kind: str, count: int = 5, **info: object) -> Path:
    """A recording of ``count`` images with a camera_info, received a second late, among other messages."""
    messages = Messages(1 if kind == "bag" else 2)
    rows = []
    for time, image in zip(times(count), pictures(count), strict=True):
        received = round((time + 1) * SECOND)
        rows.append(("/cam/camera_info", received, messages.camera_info(time, (WIDTH, HEIGHT), K, **info)))
        rows.append(("/cam/image_raw", received + 1, messages.image(time, image)))
        rows.append(("/gps", received + 2, messages.fix(time, (48.0 + time % 1, 9.0, 300.0))))
    return write_bag(tmp_path / ("drive.bag" if kind == "bag" else "drive"), rows, messages, kind)


def frames_of(path: Path, **options: object) -> list[Frame]:
    return [item for item in open_source(str(path), SourceOptions(**options)) if isinstance(item, Frame)]


@pytest.mark.parametrize("kind", ["bag", "mcap", "sqlite3"])
def test_images_and_times_are_those_recorded(tmp_path: Path, kind: str) -> None:
    path = recorded(tmp_path, kind)
    frames = frames_of(path)
    assert [frame.name for frame in frames] == [f"{row:06d}.jpg" for row in range(5)]
    assert [frame.timestamp for frame in frames] == pytest.approx(times(5), abs=1e-6)
    for frame, image in zip(frames, pictures(5), strict=True):
        np.testing.assert_array_equal(frame.image, image)
    description = open_source(str(path)).description
    assert (description.kind, description.frames, description.sizes) == ("bag", 5, ((WIDTH, HEIGHT),))
    assert description.rate == pytest.approx(5 / 0.4, rel=0.01)


def test_a_file_alone_is_read_like_its_folder(tmp_path: Path) -> None:
    folder = recorded(tmp_path, "mcap")
    file = shutil.copy(next(folder.glob("*.mcap")), tmp_path / "alone.mcap")
    np.testing.assert_array_equal(frames_of(Path(file))[3].image, frames_of(folder)[3].image)


def test_options_select_frames(tmp_path: Path) -> None:
    path = recorded(tmp_path, "mcap", 10)
    assert [frame.index for frame in frames_of(path, every=3)] == [0, 3, 6, 9]
    assert [frame.index for frame in frames_of(path, fps=5.0, max_frames=3)] == [0, 2, 4]
    assert open_source(str(path), SourceOptions(every=3)).description.frames == 4
    assert max(frames_of(path, size=64)[0].image.shape) == 64


def test_originals_are_kept_and_reading_repeats(tmp_path: Path) -> None:
    source = open_source(str(recorded(tmp_path, "bag")), SourceOptions(), tmp_path / "kept")
    first, second = ([item for item in source if isinstance(item, Frame)] for _ in range(2))
    assert [frame.content for frame in first] == [frame.content for frame in second]
    stored = cv2.imread(str(tmp_path / "kept" / first[2].name))
    assert np.abs(stored[..., ::-1].astype(int) - pictures(5)[2]).mean() < 3


@pytest.mark.parametrize("kind", ["bag", "mcap"])
def test_camera_info_gives_the_lens(tmp_path: Path, kind: str) -> None:
    lens = open_source(str(recorded(tmp_path, kind, d=(0.1, -0.02, 0.001, 0.002, 0.0)))).description.lens
    assert lens is not None
    assert (lens.model, lens.width, lens.height) == ("OPENCV", WIDTH, HEIGHT)
    assert lens.params == pytest.approx((80, 80, 48, 32, 0.1, -0.02, 0.001, 0.002))  # half a pixel from ROS's


def test_distortion_models(tmp_path: Path) -> None:
    fisheye = recorded(tmp_path / "a", "mcap", d=(0.1, 0.02, 0.003, 0.004), model="equidistant")
    assert open_source(str(fisheye)).description.lens.model == "OPENCV_FISHEYE"
    eight = recorded(tmp_path / "b", "mcap", d=(0.1, -0.02, 0, 0, 0, 0, 0, 0), model="rational_polynomial")
    assert open_source(str(eight)).description.lens.params[4:] == pytest.approx((0.1, -0.02, 0, 0))
    uncalibrated = recorded(tmp_path / "c", "mcap")
    assert open_source(str(uncalibrated)).description.lens.model == "PINHOLE"


def test_a_lens_that_cannot_be_used_is_estimated_and_said_so(tmp_path: Path) -> None:
    source = open_source(str(recorded(tmp_path, "mcap", model="thin_prism")))
    assert source.description.lens is None
    (note,) = [item.text for item in source if isinstance(item, Notice)]
    assert note.startswith("The lens is estimated") and "/cam/camera_info" in note and "thin_prism" in note


def test_rectified_images_have_the_lens_of_the_projection(tmp_path: Path) -> None:
    messages = Messages(2)
    info = messages.camera_info(START, (WIDTH, HEIGHT), K, (0.3, 0, 0, 0))
    rows = [("/c/camera_info", 1, info), ("/c/image_rect_color", 2, messages.image(START, pictures(1)[0]))]
    lens = open_source(str(write_bag(tmp_path / "rectified", rows, messages))).description.lens
    assert lens.model == "PINHOLE"
    assert lens.params == pytest.approx((72, 72, 0.9 * 47.5 + 0.5, 0.9 * 31.5 + 0.5))


def test_several_topics_are_listed(tmp_path: Path) -> None:
    messages, (image,) = Messages(2), pictures(1)
    rows = [
        ("/left", 1, messages.image(START, image)),
        ("/right/compressed", 2, messages.compressed(START + 1, image)),
        ("/imu", 3, messages.fix(START, (0, 0, 0))),
    ]
    path = write_bag(tmp_path / "two", rows, messages)
    with pytest.raises(SettingsError, match=r"2 image topics: /left \(1 image\), /right/compressed \(1 image\)\. "):
        open_source(str(path))
    with pytest.raises(SettingsError, match="no image topic /front"):
        open_source(str(path), SourceOptions(topic="/front"))
    (frame,) = frames_of(path, topic="/right/compressed")
    np.testing.assert_array_equal(frame.image, image)
    assert frame.timestamp == START + 1


def test_a_topic_of_something_else_is_refused() -> None:
    with pytest.raises(SettingsError, match="--topic applies to ROS recordings only"):
        open_source("data/sample/images", SourceOptions(topic="/left"))


def test_without_stamps_the_time_of_receipt_counts(tmp_path: Path) -> None:
    messages = Messages(1)
    rows = [
        ("/a", 3 * SECOND, messages.image(0, pictures(1)[0])),
        ("/a", 4 * SECOND, messages.image(0, pictures(1)[0])),
    ]
    assert [frame.timestamp for frame in frames_of(write_bag(tmp_path / "a.bag", rows, messages))] == [3, 4]


def test_times_never_decrease(tmp_path: Path) -> None:
    messages, (image,) = Messages(2), pictures(1)
    rows = [("/a", row, messages.image(time, image)) for row, time in enumerate((5.0, 6.0, 1.0, 7.0))]
    found = [frame.timestamp for frame in frames_of(write_bag(tmp_path / "back", rows, messages))]
    assert found[0] == 5 and found == sorted(found) and found[3] == 7


def test_damaged_images_are_skipped(tmp_path: Path) -> None:
    messages, (image,) = Messages(2), pictures(1)
    broken = messages.compressed(START, image)
    broken.data = broken.data[:20]
    rows = [("/a", 0, broken), ("/a", 1, messages.compressed(START + 1, image))]
    items = list(open_source(str(write_bag(tmp_path / "broken", rows, messages))))
    assert isinstance(items[0], SkippedFrame) and items[0].name == "000000.jpg" and "damaged" in items[0].reason
    assert isinstance(items[1], Frame) and items[1].index == 1


def test_nothing_usable_is_one_sentence(tmp_path: Path) -> None:
    messages, (image,) = Messages(2), pictures(1)
    depth = write_bag(
        tmp_path / "d", [("/d", 0, messages.image(START, image[..., 0].astype(np.float32), "32FC1"))], messages
    )
    with pytest.raises(
        SourceError, match=r"/d: no image can be read. The first: its encoding 32FC1 is not that of a pic"
    ):
        open_source(str(depth))
    without = write_bag(tmp_path / "gps", [("/gps", 0, messages.fix(START, (0, 0, 0)))], messages)
    with pytest.raises(SourceError, match=r"has no images .* Its topics: /gps\."):
        open_source(str(without))
    nothing = write_bag(tmp_path / "nothing.bag", [], Messages(1))
    with pytest.raises(SourceError, match="no messages at all"):
        open_source(str(nothing))


def test_unfinished_recordings_name_the_cure(tmp_path: Path) -> None:
    bag = recorded(tmp_path, "bag")
    content = bag.read_bytes()
    active = tmp_path / "drive.bag.active"
    active.write_bytes(content)
    with pytest.raises(SourceError, match=r"rosbag reindex drive.bag.active"):
        open_source(str(active))
    bag.write_bytes(content.replace(b"index_pos=" + content.split(b"index_pos=")[1][:8], b"index_pos=" + bytes(8), 1))
    with pytest.raises(SourceError, match=r"not finished; repair it with: rosbag reindex drive.bag"):
        open_source(str(bag))
    folder = recorded(tmp_path, "mcap")
    file = next(folder.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(SourceError, match="mcap recover"):
        open_source(str(file))
    (folder / "metadata.yaml").unlink()
    with pytest.raises(SourceError, match=r"no metadata.yaml; make it with: ros2 bag reindex drive"):
        open_source(str(folder))


@pytest.mark.parametrize("kind", ["bag", "mcap", "sqlite3"])
def test_damage_anywhere_is_a_sentence_or_a_skipped_frame(tmp_path: Path, kind: str) -> None:
    path = recorded(tmp_path, kind)
    file = path if path.is_file() else next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    middle = len(content) // 2
    for spoilt in (
        *(content[: int(share * len(content))] for share in (0.0, 0.02, 0.3, 0.6, 0.99)),
        content[:middle] + bytes(4000) + content[middle + 4000 :],
    ):
        file.write_bytes(spoilt)
        try:
            items = list(open_source(str(path)))
        except SourceError as error:
            assert str(path) in str(error)
        else:  # a changed pixel is no damage that a recording without checksums shows
            assert len(spoilt) == len(content) or any(isinstance(item, SkippedFrame) for item in items)


def test_other_names_are_refused_with_the_right_one(tmp_path: Path) -> None:
    renamed = next(recorded(tmp_path, "mcap").glob("*.mcap")).rename(tmp_path / "drive.dat")
    with pytest.raises(SourceError, match=r"it is a \.mcap file; rename it to drive\.mcap"):
        open_source(str(renamed))


def test_positions_are_a_track(tmp_path: Path) -> None:
    messages = Messages(1)
    places = [(48.0 + 0.1 * row, 9.0 + 0.2 * row, 300.0 + row) for row in range(4)]
    rows = [("/fix", row, messages.fix(START + row, place)) for row, place in enumerate(places)]
    rows.append(("/fix", 9, messages.fix(START + 9, (1, 1, 1), status=-1)))  # no fix
    track = read_track(write_bag(tmp_path / "gps.bag", rows, messages))
    assert track.has_clock_of_frames
    np.testing.assert_allclose(track.fixes, places)
    np.testing.assert_allclose(track.times, START + np.arange(4))


BAYER = {"rggb": ((0, 1), (1, 2)), "bggr": ((2, 1), (1, 0)), "gbrg": ((1, 2), (0, 1)), "grbg": ((1, 0), (2, 1))}


def mosaic(image: np.ndarray, pattern: tuple[tuple[int, int], ...]) -> np.ndarray:
    raw = np.zeros(image.shape[:2], np.uint8)
    for row in range(2):
        for column in range(2):
            raw[row::2, column::2] = image[row::2, column::2, pattern[row][column]]
    return raw


@pytest.mark.parametrize("name", BAYER)
def test_bayer_patterns(name: str) -> None:
    (image,) = pictures(1)
    raw = mosaic(image, BAYER[name])
    for bits, values in (("8", raw), ("16", raw.astype(np.uint16) * 257)):
        found = picture(Messages(2).image(0, values, f"bayer_{name}{bits}"))
        assert np.abs(found.astype(int) - image)[4:-4, 4:-4].mean() < 3


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "rgb16", "bgr16"])
def test_colours(encoding: str) -> None:
    (image,) = pictures(1)
    pixels = image if encoding.startswith("rgb") else image[..., ::-1]
    if encoding in ("rgba8", "bgra8"):
        pixels = np.dstack([pixels, np.full(image.shape[:2], 7, np.uint8)])
    if encoding.endswith("16"):
        pixels = pixels.astype(np.uint16) * 257
    found = picture(Messages(1).image(0, pixels, encoding, padding=16))
    assert np.abs(found.astype(int) - image).max() <= 1


def test_grey_and_byte_order() -> None:
    grey = pictures(1)[0][..., 0]
    for pixels, encoding, big in (
        (grey, "mono8", False),
        (grey.astype("<u2") * 257, "mono16", False),
        ((grey.astype(np.uint16) * 257).astype(">u2"), "mono16", True),
    ):
        found = picture(Messages(2).image(0, pixels, encoding, big=big))
        assert np.abs(found.astype(int) - grey[..., None]).max() <= 1


def test_luminance_and_colour_apart() -> None:
    (image,) = pictures(1)
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    chroma = luminance[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    for encoding, order in (("nv12", (0, 1)), ("nv21", (1, 0))):
        planes = np.vstack([luminance[:HEIGHT], np.dstack(chroma[list(order)]).reshape(HEIGHT // 2, WIDTH)])
        assert np.abs(picture(Messages(2).image(0, planes, encoding)).astype(int) - image).mean() < 4
    full = [cv2.resize(plane, (WIDTH, HEIGHT)) for plane in chroma]
    for encoding, layout in (("yuv422_yuy2", (0, 1)), ("yuyv", (0, 1)), ("yuv422", (1, 0)), ("uyvy", (1, 0))):
        colour = np.where(np.arange(WIDTH) % 2 == 0, *full)
        packed = np.dstack([(luminance[:HEIGHT], colour)[channel] for channel in layout])
        assert np.abs(picture(Messages(2).image(0, packed, encoding)).astype(int) - image).mean() < 4


def test_sizes_that_contradict_the_bytes() -> None:
    message = Messages(2).image(0, pictures(1)[0])
    message.height += 1
    with pytest.raises(UnreadableImage, match="no picture of the stated size"):
        picture(message)


def packets(images: np.ndarray, codec: str, **options: str) -> list[bytes]:
    """An elementary stream, a picture in each packet."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 10), {"tune": "zerolatency", "crf": "8", **options}
    frames = [av.VideoFrame.from_ndarray(image, format="rgb24") for image in images]
    return [bytes(packet) for frame in [*frames, None] for packet in encoder.encode(frame)]


def filmed(tmp_path: Path, kind: str, codec: str, contents: list[bytes]) -> Path:
    messages = Messages(1 if kind == "bag" else 2)
    rows = [
        ("/cam/video", round((time + 1) * SECOND), messages.packet(time, content, codec))
        for time, content in zip(times(len(contents)), contents, strict=True)
    ]
    return write_bag(tmp_path / ("film.bag" if kind == "bag" else "film"), rows, messages, kind)


@pytest.mark.parametrize(("kind", "codec"), [("mcap", "h264"), ("mcap", "h265"), ("sqlite3", "H264"), ("bag", "h265")])
def test_a_compressed_video_has_the_pictures_and_times_of_its_packets(tmp_path: Path, kind: str, codec: str) -> None:
    encoder = {"h264": "libx264", "h265": "libx265"}[codec.lower()]
    path = filmed(tmp_path, kind, codec, packets(pictures(6), encoder))
    frames = frames_of(path)
    assert [frame.index for frame in frames] == list(range(6))
    assert [frame.timestamp for frame in frames] == pytest.approx(times(6), abs=1e-6)
    for frame, image in zip(frames, pictures(6), strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 6
    description = open_source(str(path)).description
    assert (description.frames, description.sizes) == (6, ((WIDTH, HEIGHT),))
    assert [frame.timestamp for frame in frames_of(path, every=2)] == pytest.approx(times(6)[::2])


def test_packets_before_the_first_whole_picture_and_damaged_ones_are_skipped(tmp_path: Path) -> None:
    contents = packets(pictures(9), "libx264", g="4", sc_threshold="0")
    contents[6] = b"\0\0\0\1\x41" + bytes(40)
    items = list(open_source(str(filmed(tmp_path, "mcap", "h264", contents[2:]))))
    read = {item.index: item.image for item in items if isinstance(item, Frame)}
    skipped = {item.index: item.reason for item in items if isinstance(item, SkippedFrame)}
    assert {0, 1} <= skipped.keys() and "follows no whole picture" in skipped[0]
    assert sorted([*read, *skipped]) == list(range(7))
    for index in (2, 3, 6):
        assert np.abs(read[index].astype(int) - pictures(9)[index + 2]).mean() < 6


def test_pictures_that_depend_on_a_lost_one_are_skipped(tmp_path: Path) -> None:
    contents = packets(pictures(9), "libx264", g="5", sc_threshold="0")
    contents[2] = bytes(50)
    items = list(open_source(str(filmed(tmp_path, "mcap", "h264", contents))))
    assert [item.index for item in items if isinstance(item, SkippedFrame)] == [2, 3, 4]
    for frame in (item for item in items if isinstance(item, Frame)):
        assert np.abs(frame.image.astype(int) - pictures(9)[frame.index]).mean() < 6


def test_a_video_of_another_codec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no image can be read\. The first: it is vp9 video"):
        open_source(str(filmed(tmp_path, "mcap", "vp9", [b"abc"])))
