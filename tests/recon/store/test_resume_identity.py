"""Which source ``--resume`` accepts as the same: images are compared by content, and a refusal leaves no trace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest
from PIL import Image as PillowImage

from recon.core.errors import OutputError, ReconError, SettingsError, SourceError
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct, reconstruct_source
from recon.settings import RunSettings
from recon.sources import SourceOptions, open_live_source
from recon.sources.identity import content_hash
from recon.store.journal import read_parts
from recon.store.map import incoming_folder, open_map
from recon.store.report import RunReport
from tests.panoramas import walk, write_panoramas
from tests.support import ExactFrontEnd, placed_frame, render

FRAMES = 8
SETTINGS = RunSettings(chunk=5, overlap=2)  # two chunks: 0-4, 3-7
AGAIN = replace(SETTINGS, resume=True)
Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FRONT_ENDS, "sfm", ExactFrontEnd)


def write_photos(folder: Path, start: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(FRAMES):
        PillowImage.fromarray(render(placed_frame(start + number))).save(folder / f"{number:04d}.jpg")
    return folder


def write_video(path: Path, start: int = 0) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(render(placed_frame(start + number)))))
        container.mux(stream.encode())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def run(source: Path, out: Path, settings: RunSettings = AGAIN) -> RunReport:
    return reconstruct(str(source), out, settings)


def watch(folder: Path, out: Path, settings: RunSettings = AGAIN) -> RunReport:
    options, incoming = SourceOptions(max_frames=FRAMES), incoming_folder(out, resume=settings.resume)
    source = open_live_source(str(folder), options, incoming, watch=True)
    return reconstruct_source(str(folder), source, out, replace(settings, source=options))


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file and folder below ``folder``."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = content, path.stat().st_mtime_ns
    return found


def expect_refusal(attempt: Callable[[], object], out: Path, error: type[ReconError], *words: str) -> None:
    before = everything(out)
    with pytest.raises(error) as refusal:
        attempt()
    for word in words:
        assert word in str(refusal.value)
    assert everything(out) == before


def test_panoramas_do_not_follow_photos(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    panoramas = write_panoramas(tmp_path / "walk", walk(2), 64)
    said = f"The map in {out} is made of single images, and {panoramas} gives shots of 6 views"
    expect_refusal(lambda: run(panoramas, out), out, SettingsError, said, "another --out")


def replaced(photos: Path) -> None:
    write_photos(photos, start=20)


def swapped(photos: Path) -> None:
    first, second = photos / "0003.jpg", photos / "0006.jpg"
    first.rename(photos / "other")
    second.rename(first)
    (photos / "other").rename(second)


def edited_in_place(photos: Path) -> None:
    """The same inode, length and time."""
    path = photos / "0005.jpg"
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def inserted(photos: Path) -> None:
    shutil.copy(photos / "0000.jpg", photos / "0002a.jpg")


def shortened(photos: Path) -> None:
    (photos / "0007.jpg").unlink()


def emptied_of_one(photos: Path) -> None:
    (photos / "0004.jpg").unlink()


CHANGES = [
    (replaced, "photos/0000.jpg is not the file of frame 0 of the map ("),
    (swapped, "photos/0003.jpg is not the file of frame 3 of the map"),
    (edited_in_place, "photos/0005.jpg is not the file of frame 5 of the map"),
    (inserted, "photos/0002a.jpg is not the file of frame 3 of the map ("),
    (shortened, "0007.jpg is gone"),
    (emptied_of_one, "photos/0005.jpg is not the file of frame 4 of the map ("),
]


@pytest.mark.parametrize("kind", ["folder", "pattern", "watched"])
def test_other_images_under_the_same_names_are_refused(photos: Path, tmp_path: Path, kind: str) -> None:
    source, out = photos / "*.jpg" if kind == "pattern" else photos, tmp_path / "out"
    start = watch if kind == "watched" else run
    start(source, out, SETTINGS)
    shutil.copytree(photos, tmp_path / "kept")
    for change, words in CHANGES:
        change(photos)
        said = (f"{source} has changed since the run in {out}", words, "choose another --out, or rebuild")
        expect_refusal(lambda: start(source, out), out, SourceError, *said)
        shutil.rmtree(photos)
        shutil.copytree(tmp_path / "kept", photos)
    assert start(source, out).frames_placed == FRAMES


def test_another_video_of_the_same_length_is_refused(tmp_path: Path) -> None:
    video, out = write_video(tmp_path / "walk.mp4"), tmp_path / "out"
    run(video, out, SETTINGS)
    write_video(video, start=20)
    words = f"{video} is not the file of frame 0 of the map (000000.jpg)"
    expect_refusal(lambda: run(video, out), out, SourceError, words, "rebuild the map with --overwrite")


def touched(source: Path) -> Path:
    for path in [source, *source.glob("*")]:
        os.utime(path, (1e9, 1e9))
    return source


def moved(source: Path) -> Path:
    elsewhere = source.with_name(f"moved-{source.name}")
    source.rename(elsewhere)
    return elsewhere


@pytest.mark.parametrize("change", [touched, moved])
@pytest.mark.parametrize("kind", ["folder", "video", "watched"])
def test_the_same_content_is_the_same_source(tmp_path: Path, change: Callable[[Path], Path], kind: str) -> None:
    source = write_video(tmp_path / "walk.mp4") if kind == "video" else write_photos(tmp_path / "photos")
    start, out = watch if kind == "watched" else run, tmp_path / "out"
    start(source, out, SETTINGS)
    before = open_map(out).frames
    source = change(source)
    assert start(source, out, AGAIN).frames_placed == FRAMES
    for frame, was in zip(open_map(out).frames, before, strict=True):
        assert (frame.index, frame.name) == (was.index, was.name)
        assert frame.world_from_cam.isclose(was.world_from_cam, atol=2e-3)


def test_a_moved_source_resumes_and_its_new_path_is_recorded(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    elsewhere = moved(photos)
    for number in (FRAMES, FRAMES + 1):
        PillowImage.fromarray(render(placed_frame(number))).save(elsewhere / f"{number:04d}.jpg")
    assert run(elsewhere, out).frames_placed == FRAMES + 2
    assert [part.source for part in read_parts(out)] == [str(elsewhere)]


def other_settings(photos: Path, out: Path) -> None:
    run(photos, out, replace(AGAIN, chunk=6))


def another_lens(photos: Path, out: Path) -> None:
    run(write_photos(photos.with_name("more"), start=FRAMES), out, replace(AGAIN, camera_model="OPENCV"))


@pytest.mark.parametrize(
    ("attempt", "error", "words"),
    [
        (other_settings, SettingsError, "was made with --chunk 5, not with --chunk 6"),
        (another_lens, SettingsError, "was made with --camera-model radial, not with --camera-model opencv"),
    ],
)
def test_a_refusal_leaves_the_folder_unchanged(
    photos: Path, tmp_path: Path, attempt: Callable[[Path, Path], None], error: type[ReconError], words: str
) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    expect_refusal(lambda: attempt(photos, out), out, error, words)


def test_without_a_run_to_resume_the_folder_is_unchanged(photos: Path, tmp_path: Path) -> None:
    expect_refusal(lambda: run(photos, photos), photos, OutputError, "No run to resume in")
    expect_refusal(lambda: run(photos, tmp_path / "none"), tmp_path, OutputError, "No run to resume in")


def test_an_earlier_source_cannot_be_resumed_and_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    run(write_photos(tmp_path / "more", start=FRAMES), out)
    expect_refusal(lambda: run(photos, out), out, SettingsError, "followed by those of")


def test_a_hash_depends_on_content_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"\0" * 3_000_000)
    shutil.copy(first, second)
    assert content_hash(first) == content_hash(second)
    second.write_bytes(b"\0" * 2_999_999 + b"\1")
    assert content_hash(first) != content_hash(second)
    second.write_bytes(b"\0" * 2_999_999)
    assert content_hash(first) != content_hash(second)
