"""The ledger of a map: kills, readers beside a writer, damage, file systems that are read-only or have no WAL."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError, OutputError
from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.core.types import PlacedFrame, SkippedFrame, SparsePoints
from recon.store import ledger as module
from recon.store.ledger import Ledger
from recon.store.map import MapStore, ReconstructedMap, move_map, open_map
from recon.store.summary import summarise
from tests.recon.store.test_map import geometry, placed, submap
from tests.support import OPENCV, RADIAL, make_map

NOBODY = 65534


def write(folder: Path, count: int, *, complete: bool = False) -> None:
    """A map of so many frames and as many points."""
    frames = tuple(placed(index) for index in range(count))
    points = replace(SparsePoints.empty(), positions=np.zeros((count, 3)), colours=np.zeros((count, 3), np.uint8))
    MapStore(folder).write_places(frames, (), points, complete=complete)


def frames_of(folder: Path) -> int:
    """How many frames a map has, after a check that its points belong to them."""
    found = open_map(folder)
    assert len(found.frames) == len(found.points.positions)
    assert all((folder / "map" / file.name).stat().st_size == file.bytes for file in Ledger(folder).files().values())
    return len(found.frames)


def in_child(work: Callable[[], object], user: int | None = None) -> int:
    """Do something in another process, as another user if this one is root; how it ended."""
    child = os.fork()
    if not child:
        try:
            if user is not None and not os.getuid():
                os.setuid(user)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def mode_of(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "map" / "map.db")) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "map").iterdir())


def test_a_map_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(40, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    poses = [Sim3(rng.uniform(0.1, 9), turn, rng.normal(size=3) * 1e3) for turn in turns]
    frames = tuple(
        PlacedFrame(3 * row, rng.uniform(), f"ä_{row}.jpg", (RADIAL, OPENCV)[row % 2], pose)
        for row, pose in enumerate(poses)
    )
    skipped = (SkippedFrame(1, "1.jpg", 'a "reason"; --', "passed"), SkippedFrame(1, "1.jpg", "twice", "unplaced"))
    metric = Metric(4, 0.1 + 0.2, (1 / 3, -2.0, 1e-9))
    MapStore(tmp_path).write_places(
        frames[::2], skipped, SparsePoints.empty(), complete=True, between=frames[1::2], metric=metric
    )
    found = open_map(tmp_path)
    assert (found.skipped, found.metric, found.complete) == (skipped, metric, True)
    for back, expected in ((found.frames, frames[::2]), (found.between, frames[1::2])):
        rows = [(frame.index, frame.timestamp, frame.name, frame.camera) for frame in expected]
        assert [(frame.index, frame.timestamp, frame.name, frame.camera) for frame in back] == rows
        for one, was in zip(back, expected, strict=True):
            again = Sim3.from_matrix(was.world_from_cam.matrix())
            assert np.array_equal(one.world_from_cam.matrix(), again.matrix())


def test_a_growing_map_is_in_wal_mode_and_a_finished_one_is_a_plain_file(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert mode_of(tmp_path) == "wal"
    write(tmp_path, 2, complete=True)
    assert mode_of(tmp_path) == "delete"
    move_map(tmp_path, Sim3.identity(), None)
    assert mode_of(tmp_path) == "delete"
    assert names(tmp_path) == ["map.db", "points.2.npz"]


def test_the_mode_stays_where_the_file_system_has_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VFS that locks by files, as for network file systems, and has no shared memory."""
    connect = module._connect
    monkeypatch.setattr(module, "_connect", lambda path, options: connect(path, f"{options}&vfs=unix-dotfile"))
    for count in (1, 2):
        write(tmp_path, count)
        assert (frames_of(tmp_path), mode_of(tmp_path)) == (count, "delete")


@pytest.mark.parametrize(("moment", "left"), [("write_atomically", 1), ("_write_sums", 1), ("_set_journal_mode", 2)])
@pytest.mark.parametrize("complete", [False, True])
def test_a_kill_leaves_the_map_before_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, left: int, complete: bool
) -> None:
    """Behind the file with points, behind the last row, and behind the commit."""
    write(tmp_path, 1, complete=complete)
    done = getattr(module, moment)

    def killed(*given: object) -> None:
        if moment != "_set_journal_mode":
            done(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(module, moment, killed)
        assert in_child(lambda: write(tmp_path, 2, complete=complete)) == -signal.SIGKILL
    assert frames_of(tmp_path) == left
    assert {"points.npz", "points.2.npz"} <= set(names(tmp_path))
    write(tmp_path, 3, complete=True)
    assert frames_of(tmp_path) == 3
    assert names(tmp_path) == ["map.db", f"points.{left + 1}.npz"]


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write(tmp_path, 1)

    def grow(first: int) -> None:
        for count in range(first, 999):
            write(tmp_path, count)
            (tmp_path / "next").write_text(str(count))
            (tmp_path / "next").replace(tmp_path / "done")

    for seconds in rng.uniform(0.02, 0.15, 10):
        before = frames_of(tmp_path)
        child = os.fork()
        if not child:
            grow(before + 1)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = int((tmp_path / "done").read_text()) if (tmp_path / "done").exists() else 1
        assert max(before, said) <= frames_of(tmp_path) <= max(before, said) + 1
    assert frames_of(tmp_path) > 1


def frames_seen(folder: Path) -> int:
    found = open_map(folder)
    assert len(found.frames) == len(found.points.positions) <= summarise(folder).mapped
    return len(found.frames)


def test_readers_see_whole_states_while_a_map_grows(tmp_path: Path) -> None:
    write(tmp_path, 1)
    child = os.fork()
    if not child:
        for count in range(2, 60):
            write(tmp_path, count)
        write(tmp_path, 60, complete=True)
        os._exit(0)
    seen, ended = [1], (0, 0)
    while ended == (0, 0):
        seen.append(frames_seen(tmp_path))
        ended = os.waitpid(child, os.WNOHANG)
    assert ended == (child, 0)
    assert seen == sorted(seen)
    assert frames_seen(tmp_path) == 60
    assert len(set(seen)) > 5
    assert mode_of(tmp_path) == "delete"


def test_the_last_writer_waits_for_readers_to_leave_one_plain_file(tmp_path: Path) -> None:
    write(tmp_path, 1)
    reader = sqlite3.connect(tmp_path / "map" / "map.db", isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute('SELECT * FROM "map"').fetchall()
    leave = threading.Timer(0.3, reader.close)
    leave.start()
    write(tmp_path, 2, complete=True)
    leave.join()
    assert mode_of(tmp_path) == "delete"
    assert names(tmp_path) == ["map.db", "points.2.npz"]


def test_depth_is_read_while_it_is_computed_again(tmp_path: Path) -> None:
    store = MapStore(tmp_path)
    frames = tuple(placed(index) for index in range(4))
    for number in range(4):
        store.write_submap(submap(number, [geometry(number)]), {number})
    store.write_places(frames, (), SparsePoints.empty(), complete=False)
    found = open_map(tmp_path).geometry()
    next(found)
    for number in range(4):
        store.write_submap(submap(number, [replace(geometry(number), depth=np.ones((6, 8), np.float32))]), {number})
    assert [float(depth.depth.mean()) for _, depth in found] == [1.0, 1.0, 1.0]


def test_a_second_writer_waits_and_is_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of the folder keeps others away; this is for file systems where it does not."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    write(tmp_path, 1)
    with Ledger(tmp_path).writing():
        with pytest.raises(OutputError, match=r"map\.db is in use by another process\. Try again later"):
            write(tmp_path, 2)
        assert frames_of(tmp_path) == 1


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that other users can reach, which becomes read-only."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "run"
        for path in (Path(folder) / "run").rglob("*"):
            path.chmod(0o755)


def lock_up(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("state", ["finished", "growing", "killed"])
def test_a_map_on_a_read_only_medium_is_read(read_only: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    write(read_only, 1)
    if state == "killed":
        monkeypatch.setattr(module, "_set_journal_mode", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        assert in_child(lambda: write(read_only, 2)) == -signal.SIGKILL
        assert "map.db-wal" in names(read_only)
    else:
        write(read_only, 2, complete=state == "finished")
    lock_up(read_only)
    before = names(read_only)

    def read() -> None:
        assert not os.access(read_only / "map", os.W_OK)
        found = open_map(read_only)
        assert len(found.frames) == summarise(read_only).mapped == 2
        with pytest.raises(
            OutputError, match=r"^Cannot write .*: .*\. Free some space, or make the folder writable\.$"
        ):
            move_map(read_only, Sim3.identity(), None)

    assert in_child(read, NOBODY) == 0
    assert names(read_only) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger") / "run"
    make_map(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows(found: ReconstructedMap) -> list[object]:
    frames = [(*vars(frame).values(),)[:4] for frame in found.posed]
    poses = [frame.world_from_cam.matrix().tolist() for frame in found.posed]
    return [frames, poses, found.skipped, found.complete, found.metric]


def test_flipped_bytes_are_found_or_change_nothing(run: Path) -> None:
    path, expected = run / "map" / "map.db", rows(open_map(run))
    whole = path.read_bytes()
    found = 0
    for place in range(0, len(whole), 251):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            assert rows(open_map(run)) == expected, place
        except MapError as error:
            found += 1
            assert str(error).startswith(str(path))
            assert str(error).count("\n") == 0
    assert found > 10


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_truncated_ledger_is_named(run: Path, share: float) -> None:
    path = run / "map" / "map.db"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    for use in (open_map, summarise, lambda folder: move_map(folder, Sim3.identity(), None)):
        with pytest.raises(MapError, match=r"map\.db is damaged"):
            use(run)


@pytest.mark.parametrize("content", [b"text", b"\x80\x04N.", b"SQLite format 3\0" + bytes(4080)])
def test_what_is_no_database_is_named(run: Path, content: bytes) -> None:
    (run / "map" / "map.db").write_bytes(content)
    with pytest.raises(MapError, match=r"map\.db is damaged"):
        open_map(run)


def test_another_database_is_not_taken_for_a_ledger(run: Path) -> None:
    path = run / "map" / "map.db"
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE map (complete)")
    with pytest.raises(MapError, match=r"map\.db is damaged: it is not the ledger of a map"):
        open_map(run)


def test_a_newer_version_is_refused_and_stays(run: Path) -> None:
    path = run / "map" / "map.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 5")
    before = path.read_bytes()
    sentence = r"map\.db has version 5, this program reads 4\. Use a newer version of it\.$"
    for use in (open_map, summarise, lambda folder: move_map(folder, Sim3.identity(), None)):
        with pytest.raises(MapError, match=sentence):
            use(run)
    assert path.read_bytes() == before


def test_what_another_program_changed_is_found(run: Path) -> None:
    with closing(sqlite3.connect(run / "map" / "map.db", isolation_level=None)) as connection:
        connection.execute("UPDATE frames SET timestamp = 7 WHERE name = 'image_0002.jpg'")
    with pytest.raises(MapError, match=r"map\.db is damaged: the checksum of frames differs"):
        open_map(run)


def test_a_missing_ledger_is_no_map(run: Path) -> None:
    (run / "map" / "map.db").unlink()
    with pytest.raises(MapError, match=r"contains no map: .*map\.db is missing"):
        open_map(run)


def test_a_transaction_that_fails_changes_nothing(run: Path) -> None:
    before, ledger = names(run), Ledger(run)
    with pytest.raises(KeyboardInterrupt), ledger.writing():
        ledger.replace("frames", ())
        MapStore(run, ledger).write_places((), (), SparsePoints.empty(), complete=False)
        assert open_map(run).frames  # for others, until it is committed
        raise KeyboardInterrupt
    assert len(open_map(run).frames) == 6
    MapStore(run, ledger).write_places((), (), SparsePoints.empty(), complete=True)
    assert before == ["map.db", "points.npz", "submap_0000.npz", "submap_0001.npz"]
    assert names(run) == ["map.db", "points.2.npz", "submap_0000.npz", "submap_0001.npz"]


def test_a_file_may_be_written_twice_in_a_transaction(run: Path) -> None:
    ledger = Ledger(run)
    with ledger.writing():
        for content in (b"first", b"second"):
            ledger.write_file("points", lambda file, content=content: file.write(content))
    assert ledger.file("points").read_bytes() == b"second"
    assert names(run) == ["map.db", "points.3.npz", "submap_0000.npz", "submap_0001.npz"]
