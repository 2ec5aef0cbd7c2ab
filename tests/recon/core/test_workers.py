"""Worker processes: results, errors and events, the time they take, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from recon.core.errors import ResourceError, SettingsError, SourceError, UnexpectedError
from recon.core.events import Event, Notice
from recon.core.failures import WorkerDied, explained
from recon.core.helping import STRICT, Helpers
from recon.core.registry import Registry
from recon.core.stopwatch import OTHER, Stopwatch
from recon.core.workers import VARIABLE, Workers, workers_of_environment

HERE = "tests.recon.core.worker_functions"
ROOT = Path(__file__).resolve().parents[3]
LARGE = np.arange(60_000.0).reshape(200, 300)  # too large to be part of the pickle


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A worker of each role, started when it is needed."""
    with Workers(1) as opened:
        assert opened.separate  # otherwise the functions that end their process would end the tests
        yield opened
    assert not psutil.Process().children()  # not even a zombie


def test_arrays_come_back_as_they_are_in_this_process(workers: Workers) -> None:
    for array in (LARGE, LARGE[:2, :3], LARGE.T, LARGE[:, ::2], np.zeros((0, 3)), LARGE.astype(np.uint8)):
        found = workers.call("geometry", f"{HERE}:squared", array, times=3)
        np.testing.assert_array_equal(found, Workers().call("geometry", f"{HERE}:squared", array, times=3))
        found += 1  # its own memory


def test_workers_in_the_background_let_this_process_go_first(workers: Workers) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    workers.call("geometry", f"{HERE}:squared", LARGE, times=1)
    workers.background = True
    workers.call("loops", f"{HERE}:squared", LARGE, times=1)
    assert sorted(child.nice() - own for child in psutil.Process().children()) == [0, 10]


def test_an_answer_that_cannot_be_read_ends_the_worker(workers: Workers) -> None:
    """Otherwise the next call would wait for ever: it would get the answer of this one."""
    with pytest.raises(ValueError, match="no number"):
        workers.call("geometry", f"{HERE}:Unreadable")
    np.testing.assert_array_equal(workers.call("geometry", f"{HERE}:squared", LARGE, times=1), LARGE**2)


def test_an_object_stays_where_it_was_made(workers: Workers) -> None:
    total = workers.keep("geometry", f"{HERE}:Total", LARGE)
    calls = [total.submit("add", LARGE) for _ in range(3)]
    assert not total.idle
    np.testing.assert_array_equal(calls[2].result(), 4 * LARGE)  # the earlier ones are answered on the way
    np.testing.assert_array_equal(calls[0].result(), 2 * LARGE)
    assert total.idle
    np.testing.assert_array_equal(LARGE[0, :3], [0, 1, 2])
    np.testing.assert_array_equal(Workers().keep("geometry", f"{HERE}:Total", 1.0).call("add", 2.0), 3.0)


def test_events_come_in_order_and_before_the_result(workers: Workers) -> None:
    events: list[Event] = []
    workers.listener = events.append
    process = workers.call("geometry", f"{HERE}:say", ["one", "two"], workers.tell)
    assert process != os.getpid()
    assert events == [Notice("one"), Notice("two")]


def test_errors_keep_their_type_and_their_words(workers: Workers) -> None:
    with pytest.raises(SourceError, match=r"^no images in photos$"):
        workers.call("geometry", f"{HERE}:fail", "recon")
    with pytest.raises(ValueError, match=r"^a bug\n") as bug:
        workers.call("geometry", f"{HERE}:fail", "value")
    assert "worker_functions.py" in bug.value.__notes__[0]  # where it happened
    with pytest.raises(RuntimeError, match=r"^Odd: 1 and 2\n"):
        workers.call("geometry", f"{HERE}:fail", "odd")
    assert workers.call("geometry", f"{HERE}:squared", 3) == 9  # none of that ends a worker


def test_the_stages_of_a_worker_are_booked_once(workers: Workers) -> None:
    workers.call("geometry", f"{HERE}:squared", 1)
    watch = Stopwatch()
    with watch.running(), watch.measure("geometry"):
        workers.call("geometry", f"{HERE}:use_processor", 0.5)
        workers.close()
    stages = {stage.name: stage for stage in watch.stages}
    assert list(stages) == ["geometry", "thinking", OTHER]
    assert stages["thinking"].calls == 1
    assert 0.5 <= stages["thinking"].processor_seconds < 0.8
    assert stages["geometry"].processor_seconds < 0.3  # not again when the process ends
    assert watch.processor_seconds == pytest.approx(sum(stage.processor_seconds for stage in stages.values()), abs=0.01)
    assert workers.peak_memory > 2e7


def test_a_worker_hears_neither_ctrl_c_nor_sigterm(workers: Workers) -> None:
    assert workers.call("geometry", f"{HERE}:signals_heard") == [False, False]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGKILL, ResourceError, r"The geometry process was killed \(signal 9\), probably because memory ran "),
        (signal.SIGABRT, UnexpectedError, r"The geometry process crashed \(SIGABRT\), see .*error.txt\. Nothing that "),
    ],
)
def test_a_worker_that_dies_is_named_and_replaced(
    workers: Workers, tmp_path: Path, number: int, error: type[Exception], words: str
) -> None:
    call = (f"{HERE}:die", number)
    with pytest.raises(error, match=words) as told, explained(tmp_path, lambda: False, resumable=True):
        workers.call("geometry", *call)
    assert str(told.value).endswith(f"continue with recon run SOURCE --out {tmp_path} --resume.")
    assert workers.call("geometry", f"{HERE}:squared", 3) == 9


def test_a_run_continues_without_loops_if_their_worker_is_killed(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STRICT, raising=False)
    notices: list[Notice] = []
    search = partial(workers.call, "loops", f"{HERE}:die", signal.SIGKILL)
    assert Helpers(tmp_path, notices.append).attempt("loops", search) is None
    assert [notice.text for notice in notices] == [
        "The run continues without loops, which failed (WorkerDied: the loops process was killed (signal 9), probably "
        f"because memory ran out), see {tmp_path / 'error.txt'}."
    ]


def test_what_a_dead_worker_kept_is_gone(workers: Workers) -> None:
    total = workers.keep("geometry", f"{HERE}:Total", LARGE)
    workers.end("geometry")
    assert not total.idle
    with pytest.raises(WorkerDied):
        total.call("add", LARGE)


@pytest.mark.parametrize("function", ["hold_the_lock", "leave_a_part"])
def test_ctrl_c_while_a_worker_works_ends_it_within_two_seconds(
    workers: Workers, tmp_path: Path, function: str
) -> None:
    part = tmp_path / "part"
    arguments = (30, part) if function == "hold_the_lock" else (part,)

    def interrupt() -> None:
        while not part.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        workers.call("geometry", f"{HERE}:{function}", *arguments)
    start = time.monotonic()
    workers.close()
    assert time.monotonic() - start < 1.5
    assert part.exists() == (function == "hold_the_lock")  # Python tidies up, a native call cannot


def test_a_worker_dies_with_its_program(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with subprocess.Popen([sys.executable, "-m", f"{HERE}", str(started)], cwd=ROOT) as program:
        while not (started.exists() and started.read_text()):
            time.sleep(0.01)
        worker = psutil.Process(int(started.read_text()))
        program.kill()
    assert not psutil.wait_procs([worker], timeout=5)[1]


def test_a_program_with_choices_of_its_own_keeps_everything_to_itself(workers: Workers) -> None:
    assert workers.separate
    choices = Registry("colour", {"red": 1})
    choices["blue"] = 2
    assert not workers.separate
    assert workers.call("geometry", f"{HERE}:say", [], workers.tell) == os.getpid()
    del choices["blue"]
    assert workers.separate


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, separate in (("0", False), ("1", True)):
        monkeypatch.setenv(VARIABLE, text)
        assert workers_of_environment().separate is separate
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(SettingsError, match="RECON_WORKERS is a number of processes, 0 or more; got 'many'"):
        workers_of_environment()
