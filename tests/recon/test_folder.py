"""What ``--overwrite`` sets aside, restores and deletes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from recon.core.errors import OutputError, ReconstructionError
from recon.folder import PART, REPLACED, replacing, require_empty, require_usable
from recon.settings import RunSettings
from recon.store.journal import Journal


def make_run(folder: Path, text: str) -> None:
    (folder / "map").mkdir(parents=True, exist_ok=True)
    for name in ("map/map.db", "report.json", "evaluation.png"):
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_only_files_of_a_run_are_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        require_usable(tmp_path, overwrite=False)
    make_run(tmp_path, "old")
    with replacing(tmp_path, overwrite=True):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", REPLACED]
        (tmp_path / "map").mkdir()
        (tmp_path / "map" / "map.db").write_text("new")
    assert content(tmp_path) == {"notes.txt": "precious", "map/map.db": "new"}


def test_nothing_is_written_into_a_map(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "old")
    (tmp_path / "link").symlink_to(tmp_path / "run" / "map")
    for out in ("run/map/x", "run/colmap", "run/replaced/map", "link/x"):
        for refuse in (require_empty, partial(require_usable, overwrite=True)):
            with pytest.raises(OutputError, match=f"{out} lies among the files of the map in {tmp_path / 'run'}"):
                refuse(tmp_path / out)
    for out in ("run/parts", "other/map", "map"):
        require_empty(tmp_path / out)
        require_usable(tmp_path / out, overwrite=False)


def test_the_old_map_is_restored_if_the_new_run_has_none(tmp_path: Path) -> None:
    make_run(tmp_path, "old")
    before = content(tmp_path)
    with pytest.raises(ReconstructionError), replacing(tmp_path, overwrite=True):
        (tmp_path / "map").mkdir()
        Journal.begin(tmp_path, "photos", RunSettings())
        raise ReconstructionError("nothing placed")
    assert content(tmp_path) == before


def test_a_killed_run_leaves_the_old_map_for_the_next(tmp_path: Path) -> None:
    make_run(tmp_path / REPLACED, "old")  # killed before it had its own map
    before = content(tmp_path / REPLACED)
    (tmp_path / "map").mkdir()
    Journal.begin(tmp_path, "photos", RunSettings())
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path, overwrite=True):
        assert not (tmp_path / "map").exists()
        raise KeyboardInterrupt
    assert content(tmp_path) == before
    assert not (tmp_path / REPLACED).exists()


def test_a_resumed_run_deletes_the_replaced_map_at_its_end(tmp_path: Path) -> None:
    make_run(tmp_path / REPLACED, "old")
    make_run(tmp_path, "killed, with a chunk")
    with pytest.raises(OutputError), replacing(tmp_path, overwrite=False):
        raise OutputError("other options")
    assert (tmp_path / REPLACED / "map" / "map.db").read_text() == "old"
    with replacing(tmp_path, overwrite=False):
        pass
    assert not (tmp_path / REPLACED).exists()
    assert (tmp_path / "map" / "map.db").read_text() == "killed, with a chunk"


@pytest.mark.parametrize("moved", [("map",), ("map", "report.json"), ("evaluation.png",)])
def test_a_kill_while_outputs_are_moved_loses_nothing(tmp_path: Path, moved: tuple[str, ...]) -> None:
    """Some are in the folder, some where they were moved to or from."""
    make_run(tmp_path, "old")
    before = content(tmp_path)
    (tmp_path / PART).mkdir()
    for name in moved:
        (tmp_path / name).rename(tmp_path / PART / name)
    with pytest.raises(ReconstructionError), replacing(tmp_path, overwrite=True):
        raise ReconstructionError("nothing placed")
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", [REPLACED, PART])
def test_a_folder_of_the_user_with_that_name_is_left_alone(tmp_path: Path, name: str) -> None:
    make_run(tmp_path, "old")
    (tmp_path / name).mkdir()
    (tmp_path / name / "photo.jpg").write_text("precious")
    with pytest.raises(OutputError, match=f"{name} is not from a run"):
        require_usable(tmp_path, overwrite=True)
