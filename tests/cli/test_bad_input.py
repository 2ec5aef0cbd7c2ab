"""User errors: exit code 2, one clear sentence, and nothing left that looks finished."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from recon.store.ledger import Ledger
from tests.cli.conftest import Outcome, Recon, make_images
from tests.panoramas import walk, write_panoramas

FINISHED = ("poses.txt", "cloud.ply", "report.json", "recording.rrd", "colmap/sparse/0/images.bin")


def expect_refusal(outcome: Outcome, *words: str, out: Path | None = None) -> None:
    """Assert exit code 2, one sentence with ``words`` after any notes, and no file in ``out`` that looks finished."""
    assert outcome.code == 2
    *notes, sentence = outcome.err.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert sentence.startswith("recon: ")
    for word in words:
        assert word in sentence
    if out is not None:
        assert [name for name in FINISHED if (out / name).exists()] == []
        assert not Ledger(out).has("map")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_missing_path(recon: Recon, tmp_path: Path, command: str) -> None:
    outcome = recon(command, tmp_path / "nowhere", "--out", tmp_path / "out")
    expect_refusal(outcome, "nowhere does not exist")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("source", ["", " "])
def test_empty_source(recon: Recon, tmp_path: Path, command: str, source: str) -> None:
    expect_refusal(recon(command, source, "--out", tmp_path / "out"), "SOURCE is empty. Give an image folder")
    assert not (tmp_path / "out").exists()


def test_empty_folder(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    expect_refusal(recon("run", tmp_path / "photos", "--out", tmp_path / "out"), "photos contains no files")
    assert not (tmp_path / "out").exists()


def test_folder_without_images(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    expect_refusal(recon("run", tmp_path, "--out", tmp_path / "out"), "holds no images, only 1 other file")
    assert not (tmp_path / "out").exists()


def test_pattern_without_matches(recon: Recon, tmp_path: Path) -> None:
    expect_refusal(recon("run", tmp_path / "*.jpg", "--out", tmp_path / "out"), "No file matches", "*.jpg")


def test_text_file_named_mp4(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").write_text("This is not a video.\n" * 50)
    outcome = recon("run", tmp_path / "walk.mp4", "--out", tmp_path / "out")
    expect_refusal(outcome, "walk.mp4 cannot be read as a video: its content is not a video")
    assert not (tmp_path / "out").exists()


def test_images_that_are_all_damaged(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).touch()
    expect_refusal(recon("run", tmp_path / "photos", "--out", tmp_path / "out"), "None of the 2 images can be opened")


def test_folder_in_use_is_kept_without_overwrite(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    outcome = recon("run", make_images(tmp_path / "photos"), "--out", tmp_path / "out")
    expect_refusal(outcome, "out is not empty", "--overwrite", out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_overwrite_deletes_only_files_of_a_run(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos", 1), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    (out / "poses.txt").write_text("surveyed")
    outcome = recon("run", photos, "--out", out, "--overwrite")
    expect_refusal(outcome, "out holds poses.txt, but no run that --overwrite could replace")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "thesis.txt": "precious",
        "poses.txt": "surveyed",
    }


@pytest.mark.parametrize("special", ["/dev/null", "loop"])
def test_a_source_that_is_neither_file_nor_folder(recon: Recon, tmp_path: Path, special: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    expect_refusal(recon("run", tmp_path / special, "--out", tmp_path / "out"), "is neither a file nor a folder")


@pytest.mark.parametrize("source", ["colmap/walk", "colmap_undistorted/images", "nerfstudio/images/*.png"])
def test_a_source_that_overwrite_would_delete(recon: Recon, tmp_path: Path, source: str) -> None:
    photos = make_images((tmp_path / source).parent if source.endswith(".png") else tmp_path / source)
    outcome = recon("run", tmp_path / source, "--out", tmp_path, "--overwrite")
    expect_refusal(outcome, source, "this run would replace", "--out")
    assert len(list(photos.iterdir())) == 3


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_overwrite_restores_the_old_map_if_there_is_no_new_one(
    recon: Recon, tmp_path: Path, options: tuple[str, ...]
) -> None:
    photos, out = make_images(tmp_path / "photos", 3, same=False), tmp_path / "out"
    before = {
        "report.json": "{}",
        "poses.txt": "0",
        "recording.rrd": "seen",
        "map/map.db": "{}",
        "thesis.txt": "mine",
    }
    (out / "map").mkdir(parents=True)
    for name, text in before.items():
        (out / name).write_text(text)
    outcome = recon("run", photos, "--out", out, *options)
    assert outcome.code == 2
    assert ("None of the 3 frames" if options else "out is not empty") in outcome.err
    left = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert left == before


@pytest.mark.parametrize("below", ["", "out"])
def test_folder_that_is_a_file_is_refused_before_the_plan(recon: Recon, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    outcome = recon("run", make_images(tmp_path / "photos"), "--out", tmp_path / "file" / below, "--overwrite")
    expect_refusal(outcome, "Cannot write to", "Not a directory", "--out")
    assert outcome.out == ""


def test_folder_without_permission_is_refused_before_the_plan(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.folder.os.access", lambda *_: False)  # root, as in containers, may do anything
    outcome = recon("run", make_images(tmp_path / "photos"), "--out", tmp_path / "new" / "out")
    expect_refusal(outcome, f"Cannot write to {tmp_path}/new/out: Permission denied", "--out")
    assert outcome.out == ""
    assert not (tmp_path / "new").exists()


def test_read_only_folder(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    photos = make_images(tmp_path / "photos")
    monkeypatch.setattr(Path, "mkdir", refuse)  # root, as in containers, is refused nothing
    refused = "Cannot write to", "Permission denied. Make it writable"
    expect_refusal(recon("run", photos, "--out", tmp_path / "out"), *refused)


@pytest.mark.parametrize(("out", "system"), [("/proc/x", "/proc"), ("/sys/a/b", "/sys")])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_file_system_that_keeps_no_files(recon: Recon, tmp_path: Path, command: str, out: str, system: str) -> None:
    if not Path(system).is_dir():
        pytest.skip("Linux only")
    outcome = recon(command, make_images(tmp_path / "photos"), "--out", out)
    assert outcome.out == ""
    expect_refusal(outcome, f"Cannot write to {out}: {system} cannot hold files. Choose another --out.")


def test_plan_refuses_a_folder_as_run_does(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "out"
    out.mkdir()
    (out / "poses.txt").write_text("surveyed")
    for options in ((), ("--overwrite",)):
        planned, run = (recon(command, photos, "--out", out, *options) for command in ("plan", "run"))
        expect_refusal(planned, str(out))
        assert planned == run
    assert recon("plan", photos, "--out", photos / "map", "--overwrite").code == 0
    assert recon("plan", photos, "--out", tmp_path / "new").code == 0
    assert (out / "poses.txt").read_text() == "surveyed"


def test_plan_without_a_folder_looks_at_none(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_images(tmp_path / "photos"))
    assert recon("plan", ".").code == 0


def test_disk_that_the_run_would_fill(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.core.machine.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    outcome = recon("run", make_images(tmp_path / "photos"), "--out", tmp_path / "out")
    expect_refusal(outcome, "of disk", "0 MB are free", "--max-frames")
    assert not (tmp_path / "out").exists()


def test_disk_that_fills_up_during_the_run(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = recon("run", make_images(tmp_path / "photos"), "--out", tmp_path / "out")
    expect_refusal(outcome, out=tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.part")) == []


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Sets the size in bytes that no file of this process can exceed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [100_000, 300_000])
def test_database_that_cannot_be_created_or_grow(
    recon: Recon, tmp_path: Path, limit: int, file_limit: Callable[[int], None]
) -> None:
    photos, out = make_images(tmp_path / "photos", 3, (320, 240)), tmp_path / "out"
    file_limit(limit)
    outcome = recon("run", photos, "--out", out)
    expect_refusal(outcome, f"Cannot write {out}/map/features.db", out=out)


def test_single_image(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("run", make_images(tmp_path / "photos", 1), "--out", tmp_path / "out")
    expect_refusal(outcome, "1 readable image", "at least two")
    assert recon("plan", tmp_path / "photos") == outcome
    assert recon("plan", make_images(tmp_path / "more"), "--max-frames", 1).code == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    expect_refusal(recon("run", tmp_path / "photos", "--out", tmp_path / "mine" / "new" / "out"), "1 readable image")
    assert list((tmp_path / "mine").iterdir()) == []


def test_single_panorama(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("run", write_panoramas(tmp_path / "walk", walk(1), 64), "--out", tmp_path / "out")
    expect_refusal(outcome, "1 readable panorama", "at least two from different places")


def test_two_identical_images(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("run", make_images(tmp_path / "photos", 2), "--out", tmp_path / "out")
    expect_refusal(outcome, "The two images of", "three or more", out=tmp_path / "out")


def test_images_that_do_not_overlap(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("run", make_images(tmp_path / "photos", 3, same=False), "--out", tmp_path / "out")
    expect_refusal(outcome, "None of the 3 frames", "overlap", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--chunk", "10", "--overlap", "10"), ("--overlap", "--chunk", "got 10 and 10")),
        (("--overlap", "0"), ("--overlap must be at least 1",)),
        (("--every", "0"), ("--every must be at least 1, got 0",)),
        (("--fps", "2", "--every", "3"), ("--every and --fps",)),
        (("--fps", "2"), ("--fps applies to videos only",)),
        (("--fps", "-1"), ("--fps must be a positive number",)),
        (("--max-frames", "1"), ("--max-frames must be at least 2, as a map needs two frames, got 1",)),
        (("--chunk", "2"), ("--chunk must be larger than --overlap, got 2 and 12 (the default)",)),
        (("--size", "8"), ("--size must be 64 to 16384 pixels, got 8",)),
        (("--size", "1000000"), ("--size must be 64 to 16384 pixels, got 1000000",)),
        (("--masks", "nowhere"), ("nowhere",)),
        (("--intrinsics", "500,500,320"), ("--intrinsics needs fx,fy,cx,cy", "got 3")),
        (("--intrinsics", "1,2,3,4,5,6,7,8,9"), ("at most 4 distortion numbers", "got 9")),
        (("--intrinsics", "a,b,c,d"), ("a,b,c,d is neither a file nor numbers", "cameras.txt")),
        (("--intrinsics", "0,500,320,240"), ("positive fx",)),
        (("--intrinsics", "nan,500,320,240"), ("finite numbers",)),
        (("--intrinsics", "500,500,80,60,0.1", "--camera-model", "pinhole"), ("pinhole has no distortion",)),
    ],
)
def test_impossible_settings_are_refused(
    recon: Recon, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    photos = make_images(tmp_path / "photos")
    for command in ("plan", "run"):
        expect_refusal(recon(command, photos, "--out", tmp_path / "out", *options), *words)
    assert not (tmp_path / "out").exists()


def test_one_calibration_for_images_of_two_sizes(recon: Recon, tmp_path: Path) -> None:
    photos = make_images(tmp_path / "photos")
    make_images(photos / "large", 1, (320, 240))
    (photos / "large" / "000.png").rename(photos / "large.png")
    outcome = recon("run", photos, "--out", tmp_path / "out", "--intrinsics", "100,100,80,60")
    expect_refusal(outcome, "images of one size", "160x120, 320x240")


@pytest.mark.parametrize("command", ["export", "check", "view", "eval"])
def test_folder_that_holds_no_run(recon: Recon, tmp_path: Path, command: str) -> None:
    options = {"export": ("--to", "ply"), "eval": ("--reference", tmp_path / "poses.txt")}.get(command, ())
    expect_refusal(recon(command, tmp_path, *options), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_does_not_exist_and_a_choice_that_is_none(recon: Recon, tmp_path: Path) -> None:
    for option, said in (
        (("--speed", "best"), "No such option: --speed"),
        (("--quality", "bad"), "Invalid value for '--quality': 'bad' is not one of 'fast', 'normal', 'best'."),
    ):
        outcome = recon("run", tmp_path, "--out", tmp_path / "out", *option)
        assert outcome.code == 2
        assert outcome.err.splitlines()[-1].startswith(f"Error: {said}")


@pytest.mark.parametrize("program", [("-m", "cli"), ("-c", "import cli.main; cli.main.main()")])
def test_errors_are_reported_without_a_traceback(tmp_path: Path, program: tuple[str, ...]) -> None:
    command = [sys.executable, *program, "run", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    expect_refusal(Outcome(ended.returncode, ended.stdout, ended.stderr), "nowhere does not exist")


def test_an_unprintable_name(recon: Recon, tmp_path: Path) -> None:
    expect_refusal(
        recon("run", tmp_path / "two\nlines\x1b.jpg", "--out", tmp_path / "out"), "two\\nlines\\x1b.jpg does"
    )


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_calibration_for_another_size(recon: Recon, tmp_path: Path, command: str) -> None:
    photos = make_images(tmp_path / "photos")
    outcome = recon(command, photos, "--out", tmp_path / "out", "--intrinsics", "400,400,250,190")
    expect_refusal(outcome, "(250, 190) lies outside", "160x120", "for 500x380")
    assert not (tmp_path / "out").exists()


def test_a_calibration_file_is_scaled_with_a_note(recon: Recon, tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 320 240 280 280 160 120\n")
    outcome = recon("plan", make_images(tmp_path / "photos"), "--intrinsics", tmp_path / "cameras.txt")
    assert outcome.code == 0
    assert "note: --intrinsics: " in outcome.err
    assert "is for 320x240: scaled to the images' 160x120" in outcome.err


def test_an_impossible_file_name_is_refused(recon: Recon) -> None:
    expect_refusal(recon("plan", "a" * 300), "No file can be called aaa", "too long")
