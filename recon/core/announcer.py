"""Passes events to the listeners of a run, and keeps the sentences for its report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import RLock

from recon.core.events import Event, Listener, Notice
from recon.core.helping import Helpers


def _pass(event: Event, listener: Listener) -> None:
    listener(event)


class Announcer:
    """A listener that passes on every event, one at a time. helpers: of the run in ``folder``, with its listeners."""

    def __init__(self, folder: Path, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = list(listeners)
        self._speaking = RLock()
        self.helpers = Helpers(folder, self)
        self._notices: list[str] = []
        self._suspicions: list[str] = []

    def __call__(self, event: Event, /) -> None:
        with self._speaking:
            if isinstance(event, Notice):
                self._notices.append(event.text)
                if event.doubtful:
                    self.suspect(event.text.removesuffix("."))
            for number, listener in enumerate(self._listeners):
                name = getattr(listener, "__name__", type(listener).__name__)
                self.helpers.attempt(f"the listener {name}", partial(_pass, event, listener), key=number)

    def add(self, listener: Listener) -> None:
        """Pass further events on to another listener too."""
        self._listeners.append(listener)

    def suspect(self, *suspicions: str) -> None:
        """Keep why the whole map may be wrong: sentences without their full stops."""
        self._suspicions += suspicions

    @property
    def notices(self) -> tuple[str, ...]:
        """The sentences shown to the user."""
        return tuple(self._notices)

    @property
    def suspicions(self) -> tuple[str, ...]:
        """Why the whole map may be wrong."""
        return tuple(self._suspicions)
