"""What the commands say of a folder without a whole run: missing, a file, or left by a killed ``--overwrite``."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.folder import PART, REPLACED
from recon.settings import RunSettings
from recon.store.journal import Journal
from recon.store.lock import sole_writer
from recon.store.map import MapStore
from tests.cli.conftest import Outcome, Recon, make_images
from tests.support import make_map

READERS = {"check": (), "view": (), "loops": (), "export": ("--to", "tum")}
commands = pytest.mark.parametrize("command", READERS)


def expect(outcome: Outcome, sentence: str) -> None:
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"recon: {sentence}\n")


def read(recon: Recon, command: str, folder: Path) -> Outcome:
    return recon(command, folder, *READERS[command])


def resume(folder: Path) -> str:
    return f"recon run SOURCE --out {folder} --resume"


def set_aside(folder: Path, name: str) -> None:
    """Move the map of a folder, as --overwrite does."""
    (folder / name).mkdir()
    for moved in ("map", "colmap"):
        (folder / moved).rename(folder / name / moved)


@commands
def test_a_folder_that_is_missing_or_a_file(recon: Recon, tmp_path: Path, command: str) -> None:
    expect(read(recon, command, tmp_path / "gone"), f"{tmp_path}/gone does not exist. Give the folder of a run.")
    (tmp_path / "notes.txt").write_text("mine")
    expect(read(recon, command, tmp_path / "notes.txt"), f"{tmp_path}/notes.txt is a file. Give the folder of a run.")
    make_map(tmp_path / "out")
    (tmp_path / "out" / "cloud.ply").write_text("ply")
    sentence = f"{tmp_path}/out/cloud.ply is a file. Give the folder of a run, here {tmp_path}/out."
    expect(read(recon, command, tmp_path / "out" / "cloud.ply"), sentence)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cloud.ply", "colmap", "map"]


@commands
def test_killed_before_the_first_chunk(recon: Recon, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    make_map(out)
    set_aside(out, REPLACED)
    about = f"The map that --overwrite replaces is in {out}/replaced until the new one is finished."
    start_again = f"{resume(out).removesuffix('--resume')}--overwrite"
    sentence = f"{out} contains no map: its run was killed. Start again with: {start_again}. {about}"
    expect(read(recon, command, out), sentence)
    (out / "map").mkdir()
    Journal.begin(out, "photos", RunSettings())
    ended = f"{out} contains no map: its run ended before the first chunk was finished. Resume it with: {resume(out)}"
    expect(read(recon, command, out), f"{ended}. {about}")
    with sole_writer(out, "run"):
        assert about in read(recon, command, out).err
    assert recon("export", out / "replaced", "--to", "tum").code == 0


def test_killed_after_the_first_chunk(recon: Recon, tmp_path: Path) -> None:
    made = make_map(tmp_path)
    set_aside(tmp_path, REPLACED)
    MapStore(tmp_path).write_places(made.frames, (), made.points, complete=False)
    about = f"The map that --overwrite replaces is in {tmp_path}/replaced until the new one is finished."
    outcome = recon("check", tmp_path)
    assert outcome.code == 1
    assert outcome.out.endswith(f"The run has not finished. Resume it with: {resume(tmp_path)}\n{about}\n")
    missing = f"{tmp_path}/report.json is missing: the run has not finished. Resume it with: {resume(tmp_path)}. "
    expect(recon("loops", tmp_path), missing + about)
    assert recon("view", tmp_path).err.endswith(f"--viewer record --resume. {VIEW_AGAIN} {about}\n")


@commands
def test_killed_while_the_map_was_moved(recon: Recon, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    make_map(out)
    set_aside(out, PART)
    about = f"An --overwrite was killed while it moved the old map to {out}/replaced.part or back."
    sentence = f"{out} contains no map. {about} Bring everything back with: {resume(out)}"
    expect(read(recon, command, out), sentence)


def test_resume_brings_back_what_was_being_moved(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "out"
    (out / "map").mkdir(parents=True)
    (out / "colmap").mkdir()  # killed before the first image
    Journal.begin(out, str(photos), RunSettings())
    (out / "report.json").write_text("{}")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    set_aside(out, PART)
    planned = recon("plan", photos, "--out", out, "--resume")
    assert planned.code == 2
    assert planned.err.startswith(f"recon: No run to resume in {out}: {out}/map/map.db is missing. An --overwrite ")
    assert (out / PART / "map").is_dir()
    outcome = recon("run", photos, "--out", out, "--resume", "--every", "0")
    assert (outcome.code, outcome.err) == (2, "recon: --every must be at least 1, got 0.\n")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    outcome = recon("run", photos, "--out", out, "--resume", "--viewer", "none", "--no-loops")
    assert outcome.code == 2
    assert "None of the 3 frames of" in outcome.err
    assert not (out / "map").exists()


def test_a_folder_of_the_user_is_not_moved(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "out"
    (out / PART).mkdir(parents=True)
    (out / PART / "mine.txt").write_text("mine")
    assert recon("run", photos, "--out", out, "--resume").code == 2
    assert (out / PART / "mine.txt").read_text() == "mine"


VIEW_AGAIN = "To rebuild the map too, use --overwrite in place of --resume."


def test_view_of_a_run_without_recording(recon: Recon, tmp_path: Path) -> None:
    make_map(tmp_path)
    sentence = (
        f"{tmp_path} has no recording, as its run did not use --viewer record. Make one with: recon run SOURCE --out "
        f"{tmp_path} --viewer record --resume. {VIEW_AGAIN}"
    )
    expect(recon("view", tmp_path), sentence)
    expect(recon("view", tmp_path, "--web"), sentence)
