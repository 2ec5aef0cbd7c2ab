"""``recon live`` as a user sees it: the end by Ctrl-C or q, poses of passed-over frames."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import segno

import cli.phone
from cli.ending import ended_by_user
from cli.progress import ProgressBar
from recon.core.errors import SourceError
from recon.core.events import ChunkReconstructed, FrameRead, FrameTracked, Listener, StreamStatus
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store import report
from recon.store.journal import Journal
from recon.store.map import MapStore
from recon.store.tracked import read_tracked
from tests.cli.conftest import SAMPLE, Recon
from tests.support import frame_of, make_map
from tests.viewer.phone.phones import Phone, picture, until

FRAMES = 5
KIND = {"watch": True, "realtime": False, "intrinsics": None, "model": None}


@pytest.fixture(scope="module")
def every_frame_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with frames of the sample, each followed by a copy of itself."""
    folder = tmp_path_factory.mktemp("twice")
    for index in range(FRAMES):
        for copy in range(2):
            shutil.copy(SAMPLE / "images" / f"{2 * index:06d}.jpg", folder / f"{index:03d}_{copy}.jpg")
    return folder


def test_passed_over_frames_get_a_pose(recon: Recon, every_frame_twice: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--size", "320", "--keyframes", "select", "--no-loops", "--viewer", "none")
    outcome = recon("run", every_frame_twice, "--out", out, *options)
    assert outcome.code == 0, outcome.err
    assert (
        f"  keyframes     {FRAMES} of {FRAMES} placed\n  between them  {FRAMES} frames, {FRAMES} posed afterwards"
        in outcome.out
    )
    rows = np.loadtxt(out / "poses.txt")
    assert rows[:, 0].tolist() == list(range(2 * FRAMES))
    path = np.linalg.norm(np.diff(rows[::2, 1:4], axis=0), axis=1)
    apart = np.linalg.norm(rows[1::2, 1:4] - rows[::2, 1:4], axis=1)
    assert apart.max() < 0.05 * path.mean()
    assert len(list((out / "colmap" / "images").iterdir())) == FRAMES
    assert recon("check", out).code == 0


def test_ctrl_c_ends_a_live_run_with_every_file(
    recon: Recon, every_frame_twice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a part of the map exists, two more images arrive; they are tracked at once, and then Ctrl-C ends the run."""
    show, placed, tracked = ProgressBar.__call__, {}, {}
    folder = Path(shutil.copytree(every_frame_twice, tmp_path / "images"))
    later = 2 * FRAMES + 1

    def listen(self: ProgressBar, event: object) -> None:
        show(self, event)  # type: ignore[arg-type]
        if isinstance(event, ChunkReconstructed):
            placed.update({frame.index: frame for frame in event.frames})
            if event.submap.index == 0:
                for copy in range(2):
                    shutil.copy(SAMPLE / "images" / "000004.jpg", folder / f"{FRAMES:03d}_{copy}.jpg")
        if isinstance(event, FrameTracked):
            tracked[event.index] = event
            if event.index == later:
                # Its pose is told before it is handed to the reconstruction.
                threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    monkeypatch.setattr(ProgressBar, "__call__", listen)
    out = tmp_path / "out"
    options = ("--size", "320", "--chunk", "4", "--overlap", "2", "--no-loops", "--viewer", "none")
    outcome = recon("live", folder, "--watch", "--out", out, *options)
    assert outcome.code == 0, outcome.err
    assert "  stream        12 captured, 6 passed over\n" in outcome.out
    assert "  at capture    100% tracked, " in outcome.out
    assert len(np.loadtxt(out / "poses.txt")) == later + 1  # their files still exist
    run = report.read(out / "report.json")
    assert not run.interrupted
    assert run.stream
    assert run.stream.captured == later + 1
    assert (run.frames_placed, run.passed_over_placed) == (FRAMES + 1, FRAMES + 1)
    assert run.chunks[0].lag > 0
    assert run.tracking
    assert run.tracking.frames == later + 1
    said = tracked[later].world_from_cam
    assert said is not None
    assert np.linalg.norm(said[:3, 3] - placed[4].world_from_cam.translation) < 0.03  # of the depth; the same image
    assert np.allclose(read_tracked(out).pieces[0].world_from_cam[-1], said, atol=1e-6)
    for name in ("cloud.ply", "colmap/sparse/0/images.bin", "poses.txt", "map/map.db"):
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/dev/video77", "There is no camera /dev/video77. Devices found: "),
        ("walk.mp4", "Add --watch if it is a folder that is still filling, --realtime if it is a video"),
    ],
)
def test_a_source_that_cannot_be_captured_is_reported_in_a_sentence(
    recon: Recon, tmp_path: Path, source: str, sentence: str
) -> None:
    outcome = recon("live", source, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert sentence in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_map_grows_only_if_the_camera_is_found_in_it(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(*options: object) -> str:
        outcome = recon("live", tmp_path, "--watch", *options)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        return outcome.err

    def elsewhere(folder: Path, source: str, options: SourceOptions, tell: Listener, **how: object) -> None:
        assert (folder, source, how) == (made.folder, str(tmp_path), KIND)
        raise SourceError("not of this place")

    made = make_map(tmp_path / "map")
    either = "Give --out for a new map, or --map to extend a finished one"
    assert either in refusal()
    assert either in refusal("--out", tmp_path, "--map", made.folder)
    assert "--overwrite would replace" in refusal("--map", made.folder, "--overwrite")
    assert "so it cannot be resumed; recon import, merge" in refusal("--map", made.folder)
    Journal.begin(made.folder, "photos", RunSettings())
    monkeypatch.setattr("retrieval.arrival.find_camera", elsewhere)
    before = sorted(path.name for path in made.folder.rglob("*"))
    assert refusal("--map", made.folder) == "recon: not of this place\n"
    assert sorted(path.name for path in made.folder.rglob("*")) == before
    MapStore(made.folder).write_places(made.frames, (), made.points, complete=False)
    assert "is not finished" in refusal("--map", made.folder)


def test_watch_and_realtime_exclude_each_other(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("live", tmp_path, "--out", tmp_path / "out", "--watch", "--realtime")
    assert outcome.code == 2
    assert outcome.err == "recon: --watch reads a folder, --realtime plays a video. Use only one of them.\n"
    assert not (tmp_path / "out").exists()


def test_the_first_ctrl_c_stops_and_the_second_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    stopped: list[bool] = []
    with ended_by_user(lambda: stopped.append(True)):
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped == [True]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


ENDING = """
import sys, termios, threading
from cli.ending import ended_by_user
stopped, before = threading.Event(), termios.tcgetattr(sys.stdin)
with ended_by_user(stopped.set):
    print("waiting", flush=True)
    assert stopped.wait(20)
assert termios.tcgetattr(sys.stdin) == before
print("ended")
"""


def test_q_ends_the_capture_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-c", ENDING]
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "waiting\n"
        os.write(controller, b"xq")
        assert process.stdout.readline() == "ended\n"
    assert process.returncode == 0
    os.close(controller)
    os.close(terminal)


def test_the_bar_shows_skipped_frames_and_the_lag() -> None:
    bar = ProgressBar(None)
    bar(FrameRead(frame_of(0)))
    bar(StreamStatus(captured=120, passed_over=70, skipped=30, damaged=0, lost=1, lag=4.2))
    assert bar.figures().endswith("frames/s, 120 captured, 30 skipped, 70 passed over, 4 s behind")
    for index, state in enumerate(("waiting", "tracking", "weak", "lost", "tracking")):
        bar(FrameTracked(index, 0.1 * index, state, None, None, 0, 0, 0.0, 10.0 + index))
    assert bar.figures().endswith(", 4 s behind, 75% tracked, 12 ms (95%: 14)")


PHONE_IMAGES = 5


def test_a_phone_is_the_camera(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone sends images of the sample and something damaged, goes away for a moment, and ends the capture."""
    said: list[str] = []
    monkeypatch.setattr(cli.phone, "_print_address", lambda address, _: said.append(address))
    monkeypatch.setattr("recon.sources.phone.SILENCE", 0.5)
    ended: list[dict[str, object]] = []

    def hold() -> None:
        until(lambda: said)
        phone = Phone(said[0])
        phone.image(picture(0, 320), 0.0)
        until(lambda: phone.ask("GET", "state").state["begun"])
        for number in range(PHONE_IMAGES):
            if number == 3:
                time.sleep(1.0)
            phone.image(picture(2 * number, 320), 500 + 0.5 * number)
            phone.image(b"damaged", 500 + 0.5 * number + 0.1)
        phone.ask("POST", "finish")
        until(lambda: ended.append(phone.ask("GET", "state").state) or ended[-1]["finished"], seconds=120)

    holding = threading.Thread(target=hold)
    holding.start()
    out = tmp_path / "out"
    options = ("--size", "320", "--keyframes", "all", "--no-loops", "--viewer", "none", "--host", "127.0.0.1")
    outcome = recon("live", "--phone", "--out", out, *options)
    holding.join()
    assert outcome.code == 0, outcome.err
    run = report.read(out / "report.json")
    assert run.stream
    assert (run.source, run.stream.captured, run.stream.damaged) == ("phone://", PHONE_IMAGES, PHONE_IMAGES)
    assert run.stream.lost >= 1
    assert "note: The phone is back after 1 s.\n" in outcome.err
    assert np.loadtxt(out / "poses.txt")[:, 0] == pytest.approx(0.5 * np.arange(PHONE_IMAGES), abs=1e-3)
    assert ended[-1]["finished"] == f"{PHONE_IMAGES} of {PHONE_IMAGES} images"
    assert recon("check", out).code == 0


def test_the_code_in_the_terminal_is_that_of_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    address = "https://192.168.178.23:8443/YYaJRTvtAhnrW7Ed9c6fAA"
    cli.phone._print_code(segno.make(address, error="l"))
    rows = [re.sub(r"\x1b\[\d+m", "", line) for line in capsys.readouterr().out.splitlines()]
    halves = {"█": (255, 255), "▀": (255, 0), "▄": (0, 255), " ": (0, 0)}
    pixels = np.array([[halves[letter][half] for letter in row] for row in rows for half in (0, 1)], np.uint8)
    assert cv2.QRCodeDetector().detectAndDecode(np.kron(pixels, np.ones((8, 8), np.uint8)))[0] == address


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give SOURCE, a camera, stream, folder or video, or --phone."),
        (("0", "--phone"), "--phone is a source itself: omit SOURCE, --watch and --realtime."),
        (("--phone", "--watch"), "--phone is a source itself: omit SOURCE, --watch and --realtime."),
        (("0", "--host", "127.0.0.1"), "--host sets the address of --phone: add --phone."),
        (("--phone", "--host", "198.51.100.7"), "--host 198.51.100.7 is not an address of this machine"),
        (("--phone", "--resume"), "No run to resume in "),
    ],
)
def test_phone_options_that_cannot_work_are_refused(
    recon: Recon, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    outcome = recon("live", *arguments, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_missing_package_of_the_phone_is_named(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("segno", "viewer.phone", "viewer.phone.server", "aiohttp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("segno", "aiohttp"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            outcome = recon("live", "--phone", "--out", tmp_path / "out")
        assert outcome.code == 2
        assert outcome.err == (
            f"recon: The Python package {name} is not installed. Install it with: pip install '.[phone]'\n"
        )
