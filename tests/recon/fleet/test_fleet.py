"""A fleet with a program that makes empty maps: lists, states, attempts, order, and cuts; once with Ray itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from ray import cluster_utils

from recon.core.errors import MapError, OutputError, SettingsError, SourceError
from recon.fleet import cutting
from recon.fleet import store as stores
from recon.fleet.cutting import cut, jobs_of
from recon.fleet.driver import Driver, Need
from recon.fleet.listing import Listed, read_list
from recon.fleet.ray_cluster import PER_CPU, RayCluster, cluster_map
from recon.fleet.store import FleetStore, Job, State
from recon.fleet.work import command_of, work
from recon.sources import open_source

PROGRAM = (sys.executable, str(Path(__file__).with_name("program.py")))
ROOT = Path(__file__).resolve().parents[3]


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (32, 24), (number, 0, 0)).save(folder / f"{number:03d}.png")
    return folder


def write_video(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.gop_size = 64, 48, 5
        for number in range(frames):
            picture = np.full((48, 64, 3), 2 * number, np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        video.mux(stream.encode(None))


def jobs_named(*names: str) -> list[Job]:
    return [Job(name, "run", name) for name in names]


@pytest.fixture
def store(tmp_path: Path) -> FleetStore:
    made = FleetStore(tmp_path / "store")
    made.folder.mkdir()
    return made


def test_a_folder_of_other_things_becomes_no_store(tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    store.require_own_folder()
    (tmp_path / ".lock").touch()
    (tmp_path / "parts").mkdir()  # as after a kill while a video is cut
    store.require_own_folder()
    (tmp_path / "poses.txt").touch()
    with pytest.raises(SettingsError, match="is not empty, and no store of a fleet"):
        store.require_own_folder()
    (tmp_path / "fleet.json").touch()
    store.require_own_folder()


def test_a_folder_a_pattern_and_a_table_are_lists(tmp_path: Path) -> None:
    for name in ("walk10", "walk2", ".hidden", "none"):
        write_images(tmp_path / name, 0 if name == "none" else 1)
    (tmp_path / "b c.mp4").touch()
    (tmp_path / "notes.txt").touch()
    assert [one.name for one in read_list(str(tmp_path))] == ["b_c", "walk2", "walk10"]
    (tmp_path / "hall.01").mkdir()
    assert read_list(str(tmp_path / "hall*"))[0].name == "hall.01"
    assert read_list(str(tmp_path / "walk*"), ["--size", "640"])[0] == Listed(
        "walk2", str(tmp_path / "walk2"), ("--size", "640")
    )
    table = tmp_path / "list.csv"
    table.write_text('source,name,options\nwalk2,first,"--fps 2 --masks ""a b"""\nwalk10,,\n')
    assert read_list(str(table), ["--size", "640"]) == [
        Listed("first", str(tmp_path / "walk2"), ("--size", "640", "--fps", "2", "--masks", "a b")),
        Listed("walk10", str(tmp_path / "walk10"), ("--size", "640")),
    ]


def test_lists_that_cannot_work_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    for text, sentence in (
        ("source\na/x.mp4\nb/x.mp4\n", "would both make the map x"),
        ("source,colour\na,red\n", "has the column colour"),
        ("source,name\n,a\n", "has a row without a source"),
        ("source,options\na,--x,b\n", "Row 1 of .* has more values than columns"),
        ("source,options\na,--x 'y\n", "options of .* cannot be read"),
        ("source,name\na,...\n", "gives no name"),
    ):
        table.write_text(text)
        with pytest.raises(SettingsError, match=sentence):
            read_list(str(table))
    with pytest.raises(SourceError, match="lists no source"):
        read_list(str(tmp_path / "nothing*"))


def test_a_store_keeps_its_jobs_and_refuses_to_mix_them(store: FleetStore) -> None:
    with pytest.raises(MapError, match="is no store of a fleet"):
        store.jobs()
    first, second = jobs_named("a", "b")
    store.extend([first])
    assert store.extend([second, first]) == (first, second)
    assert FleetStore(store.folder).jobs() == (first, second)
    sized = replace(first, options=("--size", "320"))
    assert store.extend([sized])[0] == sized  # nothing has been made with the other options
    store.extend([first])
    store.map_of("a").mkdir()
    with pytest.raises(SettingsError, match="already has a map a, with other options"):
        store.extend([replace(first, options=("--size", "640"))])
    with pytest.raises(SettingsError, match="already has a map a, with another source"):
        store.extend([replace(first, source="c")])
    (store.folder / "fleet.json").write_text('{"version": 1, "jobs": [{"name": 3}]}')
    with pytest.raises(MapError, match=r"fleet.json is damaged"):
        store.jobs()


def test_a_deleted_map_leaves_nothing(store: FleetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("whole.part001", "whole.part002")
    uploaded = store.folder / "uploads" / "sent.mp4"
    jobs = [
        *(Job(name, "run", name, part=True) for name in parts),
        Job("whole", "merge", "w", needs=parts),
        Job("sent", "run", str(uploaded)),
        *jobs_named("kept"),
    ]
    store.extend(jobs)
    for path in (uploaded, store.folder / "parts" / "whole" / "001"):
        path.parent.mkdir(parents=True)
        path.touch()
    for job in jobs:
        assert work(store.folder, job, 0, PROGRAM).phase == "done"
    for name in ("unknown", parts[0]):
        with pytest.raises(MapError, match=f"has no map {name}"):
            store.delete(["sent", name])
    assert store.finished_maps().keys() == {"whole", "sent", "kept"}

    real = shutil.rmtree

    def killed(folder: Path, **options: bool) -> None:
        if options:
            return real(folder, **options)
        raise OSError(5, "a kill")

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(OutputError, match="cannot be changed: a kill"):
        store.delete(["whole", "sent"])
    monkeypatch.undo()
    assert store.finished_maps().keys() == {"sent", "kept"}
    assert store.state("whole") == State()  # still to be made, if nobody deletes the rest
    store.delete(["whole", "sent"])
    assert store.jobs() == tuple(jobs_named("kept"))
    left = sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())
    assert [path for path in left if not path.startswith("maps/kept/") and not path.endswith(".tries")] == [
        "fleet.json", "logs/kept.txt", "states/kept.json"
    ]  # fmt: skip
    assert store.finished_maps().keys() == {"kept"}


def test_work_is_tried_again_only_where_that_may_help(store: FleetStore) -> None:
    store.extend(jobs_named("good", "bad", "crash2", "crash9", "resumable-crash1"))
    assert work(store.folder, store.jobs()[0], 2, PROGRAM).phase == "done"
    bad = work(store.folder, store.jobs()[1], 2, PROGRAM)
    assert (bad.phase, bad.attempts, bad.sentence) == ("failed", 1, "There is nothing to see.")
    twice = work(store.folder, store.jobs()[2], 2, PROGRAM)
    assert (twice.phase, twice.attempts, twice.sentence) == ("done", 3, "")
    often = work(store.folder, store.jobs()[3], 1, PROGRAM)
    assert (often.phase, often.attempts) == ("failed", 2)
    assert often.sentence == "After 2 attempts: the program was ended by SIGKILL"
    assert work(store.folder, store.jobs()[4], 2, PROGRAM).phase == "done"
    log = store.log_of("resumable-crash1").read_text().splitlines()
    assert ["--resume" in line for line in log] == [False, True]
    assert store.finished_maps().keys() == {"good", "crash2", "resumable-crash1"}
    before = store.log_of("good").read_text()
    assert work(store.folder, store.jobs()[0], 2, PROGRAM).phase == "done"  # nothing is done twice
    assert store.log_of("good").read_text() == before
    store.reset(store.jobs())
    assert [store.state(job.name).phase for job in store.jobs()] == ["done", "waiting", "done", "waiting", "done"]


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_an_interrupted_job_goes_on_later_and_a_lost_one_is_told(
    before: Any, store: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """before: what became of Ctrl-C where the fleet was begun; shells ignore it for background jobs."""
    signal.signal(signal.SIGINT, before)
    (slow,) = store.extend(jobs_named("slow"))

    def interrupt() -> None:
        while not (store.map_of("slow") / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        work(store.folder, slow, 0, PROGRAM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (store.state("slow").phase, store.state("slow").attempts) == ("waiting", 0)
    assert work(store.folder, slow, 0, PROGRAM).phase == "done"
    store.write_state("slow", State("running", seen=time.time()))
    assert not store.state("slow").is_lost
    monkeypatch.setattr(stores, "SILENT", -1.0)
    assert store.state("slow").is_lost


def test_a_killed_worker_takes_its_program_along(store: FleetStore) -> None:
    store.extend(jobs_named("slow"))
    code = (
        "import sys; from pathlib import Path; from recon.fleet.store import FleetStore; "
        "from recon.fleet.work import work; f = Path(sys.argv[1]); work(f, FleetStore(f).jobs()[0], 2, sys.argv[2:])"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(store.folder), *PROGRAM], cwd=ROOT)
    while not (store.map_of("slow") / "begun").exists():
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    assert (store.state("slow").phase, store.state("slow").attempts) == ("running", 1)
    assert work(store.folder, store.jobs()[0], 2, PROGRAM).phase == "done"  # its folder is not in use


class Inline:
    """A cluster that does a job when it is waited for."""

    capacity = 2

    def __init__(self, store: FleetStore) -> None:
        self.store, self.queue, self.order, self.stopped = store, list[Job](), list[str](), False

    def submit(self, job: Job, need: Need) -> None:
        self.queue.append(job)
        self.order.append(job.name)
        assert len(self.queue) <= self.capacity

    def wait(self, seconds: float) -> list[tuple[Job, State]]:
        job = self.queue.pop()
        if job.source == "interrupt":
            raise KeyboardInterrupt
        return [(job, work(self.store.folder, job, 1, PROGRAM))]

    def stop(self) -> None:
        self.stopped = True


def test_jobs_wait_for_those_they_need_and_failures_stop_no_others(store: FleetStore) -> None:
    def need(job: Job) -> Need:
        if job.name == "unreadable":
            raise SourceError("It cannot be read.")
        return Need(1, 0)

    merges = [Job("whole", "merge", "w", needs=("a", "b")), Job("torn", "merge", "t", needs=("a", "bad"))]
    jobs = [*merges, *jobs_named("a", "b", "bad", "unreadable")]
    store.extend(jobs)
    cluster, told = Inline(store), dict[str, State]()
    Driver(store, cluster, need, lambda job, state: told.update({job.name: state})).drive(jobs)
    assert {name: state.phase for name, state in told.items()} == {
        "a": "done", "b": "done", "whole": "done", "bad": "failed", "unreadable": "failed", "torn": "failed"
    }  # fmt: skip
    assert told["torn"].sentence == "Its part bad failed."
    assert told["unreadable"].sentence == "It cannot be read."
    assert cluster.order.index("whole") > cluster.order.index("b")
    again = Inline(store)
    store.extend([interrupt := Job("i", "run", "interrupt")])
    with pytest.raises(KeyboardInterrupt):
        Driver(store, again, need, lambda job, state: None).drive([*jobs, interrupt])
    assert again.stopped
    assert "whole" not in again.order


@pytest.mark.parametrize("kind", ["images", "video"])
def test_long_sources_are_cut_in_parts_that_overlap(kind: str, tmp_path: Path, store: FleetStore) -> None:
    source = tmp_path / "long.mp4" if kind == "video" else write_images(tmp_path / "long", 100)
    if kind == "video":
        write_video(source, 100)
    jobs = jobs_of(Listed("long", str(source), ("--size", "320")), tmp_path / "parts", 40)
    assert [(job.name, job.kind, job.part) for job in jobs] == [
        ("long.part001", "run", True),
        ("long.part002", "run", True),
        ("long.part003", "run", True),
        ("long", "merge", False),
    ]
    assert jobs[3].needs == ("long.part001", "long.part002", "long.part003")
    assert command_of(store, jobs[3])[:2] == ["merge", str(store.map_of("long.part001"))]
    read = [[frame.image for frame in open_source(job.source) if hasattr(frame, "image")] for job in jobs[:3]]
    counts = [len(images) for images in read]
    assert all(36 <= count <= 48 for count in counts), counts
    assert sum(counts) >= 108  # at least four shared between every two
    brightness = [[float(image[..., 0].mean()) for image in images] for images in read]
    assert brightness[0][0] < 3
    assert brightness[2][-1] > (190 if kind == "video" else 98)
    for before, after in pairwise(brightness):
        assert after[0] < before[-1]
        assert np.abs(np.array(before) - after[0]).min() < 1.5  # the same frame is in both
    modified = [Path(job.source).stat().st_mtime_ns for job in jobs[:3]]
    assert jobs_of(Listed("long", str(source), ("--size", "320")), tmp_path / "parts", 40) == jobs
    assert [Path(job.source).stat().st_mtime_ns for job in jobs[:3]] == modified
    assert len(jobs_of(Listed("long", str(source)), tmp_path / "parts", 100)) == 1
    assert cut(str(source), tmp_path / "parts" / "x", 200) == [source]
    with pytest.raises(SettingsError, match="at least 40"):
        jobs_of(Listed("long", str(source)), tmp_path / "parts", 10)
    assert len(jobs_of(Listed("none", str(tmp_path / "none")), tmp_path / "parts", 50)) == 1  # its run will say why


def test_stretches_cover_everything_once_and_share_frames() -> None:
    for count in range(41, 400, 7):
        found = list(cutting._stretches(count, 40))
        assert found[0][0] == 0
        assert found[-1][1] == count
        assert all(end - start <= 41 for start, end in found)
        assert all(end - start >= 3 for (_, end), (start, _) in pairwise(found))


def test_ray_gives_the_job_of_a_killed_worker_to_another_one(store: FleetStore) -> None:
    """Two machines, of which one is lost; a worker killed amid its work; a source that fails."""
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        jobs = [*jobs_named("slow", "bad", "good", "better")]
        store.extend(jobs)
        machines = RayCluster(store.folder, 1, cluster.address, PROGRAM)

        def disturb() -> None:
            while not (store.map_of("slow") / "begun").exists() or store.state("slow").phase != "running":
                time.sleep(0.05)
            os.kill(store.state("slow").process, signal.SIGKILL)
            cluster.remove_node(second)

        threading.Thread(target=disturb).start()
        told = dict[str, State]()
        huge = Need(4, 1 << 50)  # which no machine has
        Driver(store, machines, lambda job: huge, lambda job, state: told.update({job.name: state})).drive(jobs)
        machines.close()
    finally:
        cluster.shutdown()
    assert {name: state.phase for name, state in told.items()} == {
        "slow": "done", "bad": "failed", "good": "done", "better": "done"
    }  # fmt: skip
    assert told["slow"].attempts == 2
    assert told["bad"].sentence == "There is nothing to see."
    assert store.finished_maps().keys() == {"slow", "good", "better"}


def square(asked: tuple[Path, int]) -> int:
    """Kills its worker the first time it is called with 3, and fails with 9."""
    killed, number = asked
    if number == 9:
        raise MapError("Nine is too much.")
    if number == 3 and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1 if number % 2 else 0.3)  # so that later calls end earlier
    return number**2


def test_a_cluster_maps_as_one_process_does(tmp_path: Path) -> None:
    asked = list[int]()

    def numbers(most: int) -> Iterator[tuple[Path, int]]:
        for number in range(most):
            asked.append(number)
            yield tmp_path / "killed", number

    with cluster_map("local", Need(1, 1 << 50)) as mapped:
        answers = mapped(square, numbers(9))
        assert next(answers) == 0
        assert len(asked) <= PER_CPU * max(1, os.cpu_count() or 1)
        assert list(answers) == [number**2 for number in range(1, 9)]
        assert (tmp_path / "killed").exists()
        with pytest.raises(MapError, match=r"^Nine is too much\.$"):
            list(mapped(square, numbers(20)))
