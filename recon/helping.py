"""What only helps a run, such as loops, doubts and listeners: a fault there is told, and the map is made without it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from recon.events import Notice

STRICT = "RECON_STRICT"  # environment variable; where it is set, as in the tests, every fault ends the run
Result = TypeVar("Result")


class Helpers:
    """Runs helpers until they fail.

    A fault is told once, with its traceback in the file ``log``, and switches the helper off for the rest of the run.
    Ctrl-C and the end of memory are no faults of a helper and pass.
    """

    def __init__(self, log: Path, tell: Callable[[Notice], None]) -> None:
        self._log, self._tell = log, tell
        self._off: set[Hashable] = set()

    def attempt(self, name: str, work: Callable[[], Result], key: Hashable = None) -> Result | None:
        """The result of ``work``; None where it fails, or where the helper has failed before.

        name: of the helper, for the user. key: tells helpers of one name apart.
        """
        key = key or name
        if key in self._off:
            return None
        try:
            return work()
        except MemoryError:
            raise
        except Exception as error:
            if os.environ.get(STRICT):
                raise
            self._off.add(key)
            self._write(name)
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._tell(
                Notice(f"The run continues without {name}, which failed ({reason}). The traceback is in {self._log}.")
            )
            return None

    def _write(self, name: str) -> None:
        with suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n{traceback.format_exc()}\n")
