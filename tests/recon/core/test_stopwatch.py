"""Stages of a run: exclusive times in the order of their start, processor time, and memory as the system counts it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from recon.core.stopwatch import OTHER, StageTime, Stopwatch, book, peak_memory, stage, waiting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock's wall time, to be set by the test; processor time is three times as long."""
    now = [0.0]
    monkeypatch.setattr("recon.core.stopwatch._now", lambda: (now[0], 3 * now[0]))
    monkeypatch.setattr("recon.core.stopwatch.peak_memory", lambda: int(100 * now[0]))
    return now


def test_a_stage_has_the_time_that_no_inner_stage_takes(clock: list[float]) -> None:
    watch = Stopwatch()
    for start in (1, 10):
        clock[0] = start
        with watch.measure("geometry"):
            clock[0] = start + 2
            with watch.measure("matching"):
                clock[0] = start + 5
            clock[0] = start + 6
    clock[0] = 20
    assert watch.stages == (
        StageTime("geometry", 6.0, 18.0, 2, 1600),
        StageTime("matching", 6.0, 18.0, 2, 1500),
        StageTime(OTHER, 8.0, 24.0, 0, 2000),
    )
    assert (watch.seconds, watch.processor_seconds) == (20.0, 60.0)


def test_a_stage_that_fails_counts_and_ends(clock: list[float]) -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.measure("match"):
        clock[0] = 2
        _ = 1 / 0
    clock[0] = 3
    assert [(known.name, known.seconds) for known in watch.stages] == [("match", 2.0), (OTHER, 1.0)]


def test_stages_belong_to_the_run_of_their_thread_if_there_is_one(clock: list[float]) -> None:
    @stage("work")
    def work(until: float) -> None:
        clock[0] = until

    work(1)
    watch = Stopwatch()
    with watch.running():
        work(3)
        thread = threading.Thread(target=work, args=(4,))
        thread.start()
        thread.join()
        work(9)
    work(11)
    assert {known.name: (known.seconds, known.calls) for known in watch.stages} == {"work": (7.0, 2), OTHER: (3.0, 0)}


def test_what_another_process_books_takes_the_place_of_the_wait_for_it(clock: list[float]) -> None:
    watch = Stopwatch()
    with watch.running(), watch.measure("geometry"):
        clock[0] = 1
        with waiting():
            clock[0] = 5
        book((StageTime("mapping", 3.0, 8.0, 2, 70), StageTime(OTHER, 1.0, 1.0, 0, 90)))
        book((StageTime("mapping", 1.0, 1.0, 1, 80),))
        clock[0] = 6
    assert watch.stages == (
        StageTime("geometry", 3.0, 19.0, 1, 600),  # 1 before the wait, 1 after it, 1 in the other process
        StageTime("mapping", 4.0, 9.0, 3, 80),
        StageTime(OTHER, 0.0, 0.0, 0, 600),
    )
    assert (watch.seconds, watch.processor_seconds) == (6.0, 28.0)
    with waiting():  # without a run
        book((StageTime("mapping", 3.0),))


def test_processor_time_counts_all_threads_and_children_that_have_ended() -> None:
    watch = Stopwatch()
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    with watch.measure("child"):
        subprocess.run([sys.executable, "-c", busy], check=True)
    with watch.measure("asleep"):
        time.sleep(0.3)
    child, asleep, _ = watch.stages
    assert 0.3 <= child.processor_seconds < 2
    assert asleep.seconds >= 0.3
    assert asleep.processor_seconds < 0.1


def test_peak_memory_is_in_bytes_and_does_not_fall() -> None:
    code = """
import numpy as np
from recon.core.stopwatch import peak_memory
before = peak_memory()
block = np.ones(400_000_000, dtype=np.uint8)
with_block = peak_memory()
del block
print(before, with_block, peak_memory())"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, with_block, after = (int(number) for number in found.split())
    assert before > 20e6
    assert with_block - before == pytest.approx(400e6, rel=0.05)
    assert after == pytest.approx(with_block, rel=0.01)  # the system counts in batches of pages


def test_peak_memory_of_a_small_program_is_not_that_of_its_caller() -> None:
    block = np.ones(400_000_000, dtype=np.uint8)
    with _small_program() as child:
        outside = peak_memory(child.pid)
        child.communicate()
    assert 2e6 < outside < len(block) / 4
    assert peak_memory(child.pid) == 0


def test_without_proc_the_system_gives_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert peak_memory() > 1e4
    with _small_program() as child:
        assert 2e6 < peak_memory(child.pid) < 100e6
        child.communicate()
    assert peak_memory(child.pid) == 0


def _small_program() -> subprocess.Popen[bytes]:
    """A running Python that waits until its input is closed."""
    code = "import sys; print('running', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child
