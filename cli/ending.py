"""Ends a run on request: by Ctrl-C or SIGTERM, a live run also by q.

The first signal completes the map of a live run and interrupts any other; the second interrupts both.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from recon.core.workers import Workers

UNWRITTEN = 1  # exit codes
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
LOOK_SECONDS = 0.2


class Ending:
    """Which signal ended a run."""

    def __init__(self) -> None:
        self.terminated = False

    @property
    def code(self) -> int:
        """Exit code of an interrupted run, for Ctrl-C or SIGTERM."""
        return TERMINATED if self.terminated else INTERRUPTED


@contextmanager
def ended_by_signals(stop: Callable[[], None] | None = None, *, elsewhere: bool = False) -> Iterator[Ending]:
    """Handle SIGTERM as Ctrl-C: interrupt, or call ``stop`` the first time and interrupt the second time.

    elsewhere: COLMAP runs in other processes only. Without ``stop``, an ignored Ctrl-C stays ignored: shells ignore
    it for background jobs. Raises typer.Exit if SIGTERM ended the block without a result.
    """
    if not elsewhere:
        import pycolmap  # noqa: F401  importing it replaces the SIGTERM handler, so import it first

    ending = Ending()

    ignored = stop is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    heard = [signal.SIGTERM] if ignored else [signal.SIGINT, signal.SIGTERM]

    def first(number: int, frame: FrameType | None) -> None:
        ending.terminated |= number == signal.SIGTERM
        for other in heard:
            signal.signal(other, again)
        if stop is None:
            raise KeyboardInterrupt
        stop()

    def again(number: int, frame: FrameType | None) -> None:
        ending.terminated |= number == signal.SIGTERM
        raise KeyboardInterrupt

    before = {number: signal.signal(number, first) for number in heard}
    try:
        with interrupting_imports():
            yield ending
    except KeyboardInterrupt:
        if ending.terminated:
            raise typer.Exit(TERMINATED) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None if not set by Python


@contextmanager
def interrupting_imports() -> Iterator[None]:
    """Raise KeyboardInterrupt again where a native module has turned it into an ImportError, while it was imported."""
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        if not any(isinstance(cause, ImportError) for cause in causes) or not isinstance(causes[-1], KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def ended_before_the_run(*, elsewhere: bool = False) -> AbstractContextManager[None]:
    """Report SIGTERM or Ctrl-C before the run starts, and exit with its code."""
    return ended_with(lambda: "Ended before the run began: nothing was changed.", elsewhere=elsewhere)


@contextmanager
def ended_with(say: Callable[[], str], *, elsewhere: bool = False) -> Iterator[None]:
    """Report SIGTERM or Ctrl-C by the sentence that ``say`` returns, and exit with its code."""
    try:
        with ended_by_signals(elsewhere=elsewhere):
            yield
    except (KeyboardInterrupt, typer.Exit) as end:
        typer.echo(say(), err=True)
        if isinstance(end, typer.Exit):
            raise
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def making_a_map(out: Path) -> Iterator[Workers]:
    """Worker processes that make a map in the new folder ``out``, and a bar of what they do. If SIGTERM or Ctrl-C ends
    that, nothing stays, and a sentence says so. Raises OutputError if ``out`` is not empty.
    """
    from cli.progress import StageBar
    from recon.core.files import leaving_no_empty_folder
    from recon.core.workers import workers_of_environment
    from recon.folder import discard_unfinished, require_empty

    require_empty(out)  # before an interruption could discard what is in it

    def ended() -> str:
        workers.close()
        return discard_unfinished(out)

    with ExitStack() as stack:
        stack.enter_context(leaving_no_empty_folder(out))
        workers = stack.enter_context(workers_of_environment())
        # In this process, Ctrl-C would wait for COLMAP, which holds the interpreter lock.
        stack.enter_context(ended_with(ended, elsewhere=workers.separate))
        workers.listener = stack.enter_context(StageBar())
        yield workers


@contextmanager
def ended_by_user(stop: Callable[[], None], *, elsewhere: bool = False) -> Iterator[Ending]:
    """Like ``ended_by_signals``; q on a terminal also calls ``stop``."""
    done = threading.Event()
    try:
        with ended_by_signals(stop, elsewhere=elsewhere) as ending, _single_keys() as keys:
            if keys:
                threading.Thread(target=_wait_for_q, args=(stop, done), daemon=True).start()
            yield ending
    finally:
        done.set()


@contextmanager
def _single_keys() -> Iterator[bool]:
    """Let the terminal deliver single keys; yields False without a terminal."""
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wait_for_q(stop: Callable[[], None], done: threading.Event) -> None:
    with suppress(OSError, ValueError):  # the terminal was closed
        while not done.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], LOOK_SECONDS)
            if ready and os.read(sys.stdin.fileno(), 1).lower() == b"q":
                stop()
                return
