"""Live sources with real publishers and servers, in separate processes on loopback."""

from __future__ import annotations

import errno
import math
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.types import Frame, SkippedFrame
from recon.plan import random_texture
from recon.sources import SourceOptions, capture, open_live_source, watching
from recon.sources.base import Candidate
from recon.sources.decoding import read_photo
from recon.sources.live import LiveSource
from recon.sources.originals import Packed
from recon.sources.waiting import Limits, Waiting
from tests.support import frame_of

ROOT = Path(__file__).parents[3]
DEBIAN_PYTHON = "/usr/bin/python3"
SECONDS = 20.0  # after which a test stops waiting


def candidate(index: int, way: float) -> Candidate:
    return Candidate(frame_of(index), lambda: None, way)


def indices_of(waiting: Waiting) -> list[int]:
    waiting.close()
    items = iter(waiting.get, None)
    return [item.frame.index for item in items if isinstance(item, Candidate)]


def at_most(number: int) -> Limits:
    return Limits(number, number, math.inf, number)


class TestWaiting:
    def test_the_frame_with_the_nearest_neighbours_is_dropped(self) -> None:
        waiting = Waiting(at_most(3), patient=False)
        for index, way in enumerate((0.0, 1.0, 1.1, 5.0)):
            waiting.put(candidate(index, way))
        assert indices_of(waiting) == [0, 2, 3]

    def test_a_delivered_frame_counts_as_a_neighbour(self) -> None:
        waiting = Waiting(at_most(2), patient=False)
        waiting.put(candidate(0, 0.0))
        waiting.get()
        for index, way in ((1, 0.1), (2, 2.0), (3, 4.0)):
            waiting.put(candidate(index, way))
        assert indices_of(waiting) == [2, 3]

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(2, 8))
    def test_the_queue_stays_bounded_evenly_spaced_and_with_the_newest(self, steps: list[float], capacity: int) -> None:
        waiting = Waiting(at_most(capacity), patient=False)
        for index, way in enumerate(np.cumsum(steps)):
            waiting.put(candidate(index, float(way)))
        left_out = waiting.status(0.0).skipped
        kept = indices_of(waiting)
        assert len(kept) == min(capacity, len(steps)) == len(steps) - left_out
        assert kept == sorted(kept)
        assert (kept[0], kept[-1]) == (0, len(steps) - 1)

    def test_even_motion_leaves_even_gaps(self) -> None:
        waiting = Waiting(at_most(16), patient=False)
        for index in range(500):
            waiting.put(candidate(index, float(index)))
        assert np.diff(indices_of(waiting)).max() <= 2 * 500 / 15

    def test_more_may_wait_than_a_few_if_a_wide_gap_would_open(self) -> None:
        waiting = Waiting(Limits(2, 4, gap=0.2, crowd=99), patient=False)
        dropped = []
        for index, way in enumerate((0.0, 0.1, 0.25, 0.3, 0.9, 1.5, 2.0)):
            waiting.put(candidate(index, way))
            dropped.append(waiting.status(0.0).skipped)
        assert dropped == [0, 0, 0, 1, 1, 2, 3]  # the third one's neighbours are close; then four wait
        assert indices_of(waiting) == [0, 4, 5, 6]

    @given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
    def test_no_gap_is_wider_than_allowed_while_there_is_room(self, steps: list[float]) -> None:
        waiting, ways = Waiting(Limits(3, 99, gap=0.2, crowd=99), patient=False), np.cumsum(steps)
        for index, way in enumerate(ways):
            waiting.put(candidate(index, float(way)))
        for before, after in pairwise(indices_of(waiting)):
            assert after == before + 1 or ways[after] - ways[before] <= 0.2

    def test_a_crowd_may_be_thinned_more(self) -> None:
        """Steps of 0.15 leave gaps of 0.3, which 0.2 forbids until six of them wait: then 0.3 is allowed."""
        waiting = Waiting(Limits(2, 99, gap=0.2, crowd=4), patient=False)
        dropped = []
        for index in range(9):
            waiting.put(candidate(index, 0.1501 * index))
            dropped.append(waiting.status(0.0).skipped)
        assert dropped == [0, 0, 0, 0, 0, 0, 1, 2, 3]

    def test_a_patient_one_makes_the_feed_wait(self) -> None:
        waiting = Waiting(at_most(2), patient=True)
        thread = threading.Thread(target=lambda: [waiting.put(candidate(index, index)) for index in range(5)])
        thread.start()
        got = [waiting.get() for _ in range(5)]
        thread.join()
        assert [item.frame.index for item in got if isinstance(item, Candidate)] == [0, 1, 2, 3, 4]
        assert waiting.status(0.0).skipped == 0

    def test_an_error_comes_after_what_waits(self) -> None:
        waiting = Waiting(at_most(2), patient=False)
        waiting.put(candidate(0, 0.0))
        waiting.close(SourceError("gone"))
        assert isinstance(waiting.get(), Candidate)
        with pytest.raises(SourceError, match="gone"):
            waiting.get()


def test_a_frame_that_waits_is_what_the_run_stores(tmp_path: Path) -> None:
    image = random_texture(80, 60)
    seen, held = image.copy(), weakref.ref(image)
    packed = Packed.of(Candidate(replace(frame_of(3), image=image, name="3.jpg"), lambda: None, 0.5, 2.0))
    del image
    assert held() is None  # only the JPEG takes memory
    there = packed.unpacked(tmp_path)
    there.keep()
    assert np.array_equal(there.frame.image, read_photo(tmp_path / "3.jpg").pixels)
    assert np.abs(there.frame.image.astype(float) - seen).mean() < 20  # of 255; the texture is noise
    assert there.frame.mask.shape == (60, 80) and there.frame.mask.all()
    assert (there.way, there.shown, there.frame.index) == (0.5, 2.0, 3)
    packed.unpacked(None).keep()
    assert [path.name for path in tmp_path.iterdir()] == ["3.jpg"]


class NoPictures:
    """A feed that ends without a picture."""

    kind, sizes, patient = "video", ((80, 60),), False

    def items(self, stop: threading.Event) -> Iterator[Candidate]:
        return iter(())

    def file_of(self, index: int) -> Path | None:
        return None

    def again(self) -> Iterator[Candidate]:
        return iter(())


def test_a_capture_that_the_user_ends_at_once_is_no_fault_of_its_source() -> None:
    source = LiveSource("film.mp4", NoPictures(), SourceOptions())
    source.stop()
    with pytest.raises(SourceError, match=r"The capture of film\.mp4 ended before its first image\."):
        list(source)
    with pytest.raises(SourceError, match=r"No frame of film\.mp4 can be read\."):
        list(LiveSource("film.mp4", NoPictures(), SourceOptions()))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, as if a cable were pulled."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def publishing(url: str):
    return running(sys.executable, "-m", "tests.publisher", url)


@contextmanager
def serving(port: int) -> Iterator[None]:
    with running(DEBIAN_PYTHON, "tests/rtsp_server.py", str(port)) as server:
        assert server.stdout
        if server.stdout.readline().strip() != "ready":
            pytest.skip(
                "no RTSP server: Debian's gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-{base,good}"
            )
        yield


def open_patiently(
    url: str, options: SourceOptions, images: Path | None = None, patience: float = SECONDS
) -> LiveSource:
    """Open a stream as soon as its publisher is ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return open_live_source(url, options, images, patience=patience)
        except SourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def read_until(items: Iterator[object], done: Callable[[object], bool]) -> list[object]:
    """Items up to the awaited one."""
    read = []
    for item in items:
        read.append(item)
        if done(item):
            return read
    raise AssertionError(f"the source ended after {read[-3:]}")


def is_frame(item: object) -> bool:
    return isinstance(item, Frame)


class TestStreams:
    @pytest.mark.parametrize("scheme", ["udp", "http"])
    def test_pictures_come_shrunk_and_numbered(self, scheme: str, tmp_path: Path) -> None:
        url = f"{scheme}://127.0.0.1:{free_port()}"
        with publishing(url):
            source = open_patiently(url, SourceOptions(size=80, max_frames=4), tmp_path / "images")
            frames = [item for item in source if isinstance(item, Frame)]
        assert len(frames) == source.status.captured == 4
        assert {frame.image.shape for frame in frames} == {(60, 80, 3)}
        assert {frame.original_size for frame in frames} == {(80, 60)}
        assert [frame.name for frame in frames] == sorted(path.name for path in (tmp_path / "images").iterdir())
        times = [frame.timestamp for frame in frames]
        assert times == sorted(times)
        assert source.status.lag < SECONDS

    @pytest.mark.parametrize("kind", ["udp", "rtsp"])
    def test_a_stream_that_is_lost_is_connected_again(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capture, "READ_SECONDS", 0.5)
        monkeypatch.setattr(capture, "FIRST_PAUSE", 0.05)
        port = free_port()
        url = f"udp://127.0.0.1:{port}" if kind == "udp" else f"rtsp://127.0.0.1:{port}/live"

        def start():
            return publishing(url) if kind == "udp" else serving(port)

        with start():
            source = open_patiently(url, SourceOptions())
            items = iter(source)
            read_until(items, is_frame)
        lost = read_until(items, lambda item: isinstance(item, Notice))[-1]
        assert isinstance(lost, Notice)
        assert lost.text.startswith(f"{url} is lost: ")
        with start():
            back = read_until(items, lambda item: isinstance(item, Notice))[-1]
            assert isinstance(back, Notice)
            assert "is back after" in back.text
            before = source.status.captured
            read_until(items, lambda _: source.status.captured > before + 2)
        assert source.status.lost == 1
        source.stop()

    def test_a_stream_that_does_not_return_ends_the_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capture, "READ_SECONDS", 0.3)
        url = f"udp://127.0.0.1:{free_port()}"
        with publishing(url):
            source = open_patiently(url, SourceOptions(), patience=0.5)
            items = iter(source)
            read_until(items, is_frame)
        monkeypatch.setattr(capture, "OPEN_SECONDS", 0.3)
        notices = [item.text for item in items if isinstance(item, Notice)]
        assert [text.split(": ")[0] for text in notices] == [f"{url} is lost", f"{url} did not come back"]

    def test_an_absent_stream_is_refused_at_once(self) -> None:
        with pytest.raises(SourceError, match=r"cannot be opened: connection refused\. Is it running\?"):
            open_live_source(f"rtsp://127.0.0.1:{free_port()}/live", SourceOptions())


class Watcher:
    def __init__(self, pause: float = 0.0, seeing: threading.Event | None = None) -> None:
        self.seen: list[int] = []
        self.closed = False
        self._pause, self._seeing = pause, seeing or threading.Event()

    def see(self, frame: Frame, arrived: float) -> None:
        self._seeing.set()
        time.sleep(self._pause)
        assert 0 <= time.monotonic() - arrived < SECONDS
        self.seen.append(frame.index)

    def close(self) -> None:
        self.closed = True


class TestRealtime:
    def test_a_video_takes_its_own_time(self, tmp_path: Path) -> None:
        path = encode_video(tmp_path / "a.mp4", frames=8, rate=10)
        start, began = time.monotonic(), time.time()
        source = open_live_source(str(path), SourceOptions(), realtime=True)
        frames = [item for item in source if isinstance(item, Frame)]
        assert [frame.index for frame in frames] == list(range(8))
        assert 0.65 < time.monotonic() - start < SECONDS
        assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(8) / 10)  # not when they arrived
        assert 0 <= source.status.began - began < SECONDS

    def test_a_slow_reader_gets_the_whole_path_with_gaps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recon.sources.live.LIMITS", at_most(5))
        path = encode_video(tmp_path / "a.mp4", frames=40, rate=100)
        source = open_live_source(str(path), SourceOptions(), realtime=True)
        source.watcher = watcher = Watcher()
        items = iter(source)
        first = next(items)
        while source.status.captured < 40:
            time.sleep(0.01)
        rest = [item.index for item in items if isinstance(item, Frame)]
        assert isinstance(first, Frame)
        assert len(rest) <= 6
        assert rest[-1] == 39
        assert np.diff([first.index, *rest]).max() < 25
        assert source.status.skipped == 40 - 1 - len(rest)
        assert watcher.seen == list(range(40))
        assert watcher.closed

    def test_stopping_ends_the_capture_but_no_frame_that_was_captured_is_lost(self, tmp_path: Path) -> None:
        path = encode_video(tmp_path / "a.mp4", frames=40, rate=20)
        source = open_live_source(str(path), SourceOptions(), realtime=True)
        seeing = threading.Event()
        source.watcher = watcher = Watcher(pause=0.2, seeing=seeing)
        items = iter(source)
        read = read_until(items, lambda _: source.status.captured > 2)
        seeing.clear()
        seeing.wait()  # a frame is being tracked
        source.stop()
        read += items
        assert [item.index for item in read if isinstance(item, Frame)] == watcher.seen
        assert len(watcher.seen) == source.status.captured < 40

    def test_a_file_that_is_not_a_video_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"nothing")
        with pytest.raises(SourceError, match=r"a\.mp4 cannot be read as a video: its content is not a video"):
            open_live_source(str(tmp_path / "a.mp4"), SourceOptions(), realtime=True)


def encode_video(path: Path, frames: int, rate: int) -> Path:
    texture = random_texture(160 + 4 * frames, 120)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(frames):
            view = np.ascontiguousarray(texture[:, 4 * number : 4 * number + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
    return path


FILL = """
import pathlib, sys, time
folder, content = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_bytes()
for number in range(3):
    with (folder / f"IMG_{number + 9}.jpg").open("wb", buffering=0) as file:
        for start in range(0, len(content), len(content) // 3):
            file.write(content[start : start + len(content) // 3])
            time.sleep(0.15)
(folder / "notes.txt").write_text("no image")
"""


class TestWatch:
    def test_the_source_waits_for_incomplete_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watching, "LOOK_AGAIN_MS", 50)
        folder = tmp_path / "in"
        folder.mkdir()
        PillowImage.fromarray(random_texture(160, 120)).save(tmp_path / "a.jpg", quality=95)
        (folder / "IMG_8.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
        options = SourceOptions(max_frames=4)
        source = open_live_source(str(folder), options, tmp_path / "images", watch=True)
        with running(sys.executable, "-c", FILL, str(folder), str(tmp_path / "a.jpg")):
            frames = [item for item in source if not isinstance(item, Notice)]
        names = [frame.name for frame in frames]
        assert names == ["000000_IMG_8.jpg", "000001_IMG_9.jpg", "000002_IMG_10.jpg", "000003_IMG_11.jpg"]
        expected = np.asarray(PillowImage.open(tmp_path / "a.jpg"))
        for frame in frames:
            assert isinstance(frame, Frame)
            assert np.array_equal(frame.image, expected)
            assert (tmp_path / "images" / frame.name).read_bytes() == (tmp_path / "a.jpg").read_bytes()

    def test_a_file_that_stays_incomplete_is_skipped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watching, "LOOK_AGAIN_MS", 50)
        monkeypatch.setattr(watching, "GIVE_UP_SECONDS", 0.2)
        PillowImage.fromarray(random_texture(160, 120)).save(tmp_path / "b.jpg")
        content = (tmp_path / "b.jpg").read_bytes()
        (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
        source = open_live_source(str(tmp_path), SourceOptions(), watch=True)
        items = iter(source)
        read = read_until(items, lambda item: isinstance(item, SkippedFrame))
        source.stop()
        (skipped,) = (item for item in read if isinstance(item, SkippedFrame))
        assert skipped.name == "a.jpg"
        assert "cut short" in skipped.reason

    def test_the_folder_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="is not a folder"):
            open_live_source(str(tmp_path / "none"), SourceOptions(), watch=True)

    def test_the_watched_folder_cannot_hold_the_originals(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="Choose another --out"):
            open_live_source(str(tmp_path), SourceOptions(), tmp_path, watch=True)


class TestCameras:
    @pytest.fixture(autouse=True)
    def devices(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recon.sources.cameras.DEVICES", tmp_path / "dev")
        monkeypatch.setattr("recon.sources.cameras.NAMES", tmp_path / "names")
        for number in (0, 2, 10):
            (tmp_path / "dev").mkdir(exist_ok=True)
            (tmp_path / "dev" / f"video{number}").touch()
            (tmp_path / "names" / f"video{number}").mkdir(parents=True)
            (tmp_path / "names" / f"video{number}" / "name").write_text(f"Webcam {number}\n")

    def refusal(self, spec: str) -> str:
        with pytest.raises(SourceError) as caught:
            open_live_source(spec, SourceOptions())
        return str(caught.value)

    def test_one_that_is_absent_lists_the_others(self, tmp_path: Path) -> None:
        dev = tmp_path / "dev"
        found = f"{dev}/video0 (Webcam 0), {dev}/video2 (Webcam 2), {dev}/video10 (Webcam 10)"
        assert self.refusal("7") == f"There is no camera {dev}/video7. Devices found: {found}."

    def test_a_device_that_is_not_a_camera_is_named(self) -> None:
        assert (
            self.refusal("0")
            .split(".")[0]
            .endswith("video0 does not work as a camera (Inappropriate ioctl for device)")
        )

    @pytest.mark.parametrize(
        ("number", "part"), [(errno.EBUSY, "in use by another program"), (errno.EACCES, "join the group that owns it")]
    )
    def test_busy_and_forbidden(self, number: int, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, "refused")

        monkeypatch.setattr(av, "open", refuse)
        assert part in self.refusal("0")

    def test_neither_camera_nor_stream(self, tmp_path: Path) -> None:
        for folder in (str(tmp_path), "/dev"):
            assert "Add --watch" in self.refusal(folder)


def test_a_live_source_takes_no_masks(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--masks"):
        open_live_source(str(tmp_path), SourceOptions(masks=tmp_path), watch=True)
