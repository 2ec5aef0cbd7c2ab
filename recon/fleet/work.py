"""One job of a fleet, on the machine that it was given to: the program itself in a process of its own.

Native code may crash or be killed for want of memory; only the job suffers. All that is known of a job is on disk, so
whatever dies, another machine continues.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import recon
from recon.fleet.store import FleetStore, Job, State
from recon.store.ledger import Ledger
from recon.store.lock import LOCK, sole_writer

LOOK_SECONDS = 0.5
BEAT_SECONDS = 5.0
PATIENCE = 30.0  # seconds that an interrupted program gets to finish its chunk
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
SUCCESS, INCOMPLETE, FAULT = 0, 1, 2  # exit codes, see ``cli.main``
PROGRAM = (sys.executable, "-m", "cli")


def work(folder: Path, job: Job, retries: int, program: Sequence[str] = PROGRAM) -> State:
    """Do a job until it is done, fails, or was begun ``retries`` times more; its last state, which is on disk as well.

    An exit with 2 says that another attempt would fail as well; any other is tried again. Interrupted, it lets the
    program finish its chunk, and raises KeyboardInterrupt.
    """
    store = FleetStore(folder)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # from a shell that began the fleet in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        state = store.state(job.name)
        if store.is_done(job.name):
            return _noted(store, job, replace(state, phase="done", frames=store.mapped(job.name), sentence=""))
        if state.attempts > retries:
            why = state.sentence or "its process was lost, by a kill, a crash or a lack of memory"
            return _noted(
                store, job, replace(state, phase="failed", sentence=f"After {state.attempts} attempts: {why}")
            )
        state = _attempted(store, job, program)
        if state.phase in ("done", "failed"):
            return state


def command_of(store: FleetStore, job: Job) -> list[str]:
    """The arguments of the program for a job; clears what an earlier attempt left that cannot be resumed."""
    out = store.map_of(job.name)
    if job.kind == "run" and Ledger(out).has("parts"):
        return ["run", job.source, "--out", str(out), "--viewer", "none", *job.options, "--resume"]
    if out.exists():
        _clear(out)
    if job.kind == "merge":
        return ["merge", *(str(store.map_of(name)) for name in job.needs), "--out", str(out)]
    return ["run", job.source, "--out", str(out), "--viewer", "none", *job.options]


def _attempted(store: FleetStore, job: Job, program: Sequence[str]) -> State:
    before = store.state(job.name)
    start, host = time.time(), socket.gethostname()

    def now(**changes: object) -> State:
        state = replace(before, host=host, process=os.getpid(), seen=time.time())
        return replace(state, attempts=before.attempts + 1, seconds=before.seconds + time.time() - start, **changes)  # type: ignore[arg-type]

    _noted(store, job, now(phase="running", frames=store.mapped(job.name), sentence=""))
    with store.log_of(job.name).open("ab") as log:
        began = log.tell()
        process = begun([*program, *command_of(store, job)], log)
        try:
            beat = time.monotonic()
            while process.poll() is None:
                time.sleep(LOOK_SECONDS)
                if time.monotonic() - beat > BEAT_SECONDS:
                    beat = time.monotonic()
                    _noted(store, job, now(phase="running", frames=store.mapped(job.name), sentence=""))
        except BaseException:
            end(process)
            _noted(store, job, replace(now(phase="waiting", frames=store.mapped(job.name)), attempts=before.attempts))
            raise
    said = last_sentence(store.log_of(job.name), began)
    frames, code = store.mapped(job.name), process.returncode
    if store.is_done(job.name):
        return _noted(store, job, now(phase="done", frames=frames, sentence=said if code == INCOMPLETE else ""))
    if code in (FAULT, SUCCESS, INCOMPLETE):  # without a map, the last two say that nothing could be merged
        return _noted(
            store, job, now(phase="failed", frames=frames, sentence=said or f"It made no map, see {log.name}.")
        )
    how = f"the program was ended by {signal.Signals(-code).name}" if code < 0 else said or f"it exited with {code}"
    return _noted(store, job, now(phase="waiting", frames=frames, sentence=how))


def _noted(store: FleetStore, job: Job, state: State) -> State:
    store.write_state(job.name, state)
    return state


def begun(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process of the program, which writes into ``log`` and ends with the thread that began it, if need be."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_environment(),
        preexec_fn=_dying_with_parent(),  # noqa: PLW1509 - it only makes a system call
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process as SIGTERM does, and wait until it has written what it has. It may ignore Ctrl-C, see ``work``."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _clear(out: Path) -> None:
    """Delete what is in a folder that holds no map to resume. Raises OutputError if another process writes there."""
    with sole_writer(out, "recon fleet run"):
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def _environment() -> dict[str, str]:
    """That of this process, in which the program is found as it was found here."""
    root = str(Path(recon.__file__).resolve().parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _dying_with_parent() -> Callable[[], object] | None:
    """What lets Linux kill a new process as soon as the thread that starts it ends: nobody would wait for it."""
    if sys.platform != "linux":
        return None
    system = ctypes.CDLL(None)
    return lambda: system.prctl(DIES_WITH_PARENT, signal.SIGKILL)


def last_sentence(log: Path, began: int) -> str:
    """The last line that the program printed in an attempt."""
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    own = [line.removeprefix("recon: ") for line in said if line.startswith("recon: ")]
    return (own or said or [""])[-1]
