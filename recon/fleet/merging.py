"""Finds out where new maps of a store lie, while others are made: ``recon fleet merge`` in a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from recon.core.files import make_folder
from recon.fleet.store import FleetStore
from recon.fleet.work import FAULT, PROGRAM, begun, end, last_sentence


class Merging:
    """One merge at a time. tell: gets the sentence of one that fails."""

    def __init__(self, store: FleetStore, tell: Callable[[str], None], program: Sequence[str] = PROGRAM) -> None:
        self._store, self._tell, self._program = store, tell, program
        self._log = store.folder / "logs" / ".merge.txt"  # no map has such a name
        self._process: subprocess.Popen[bytes] | None = None
        self._due = bool(store.finished_maps())

    def note(self) -> None:
        """Say that there is a new map."""
        self._due = True

    def tend(self) -> None:
        """Begin a merge if one is due and none runs. A merge ends with the thread that calls this."""
        if self._process:
            code = self._process.poll()
            if code is None:
                return
            self._process = None
            if code < 0 or code >= FAULT:
                self._tell(f"The maps could not be merged: {last_sentence(self._log, 0)}")
        if self._due:
            self._due = False
            make_folder(self._log.parent)
            with self._log.open("wb") as log:
                self._process = begun([*self._program, "fleet", "merge", str(self._store.folder)], log)

    def close(self) -> None:
        """Interrupt a merge; the pairs of maps that it has compared are kept."""
        if self._process:
            end(self._process)
