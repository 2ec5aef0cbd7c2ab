"""Helpers of a run, such as loops, doubts and listeners: if one fails, that is reported and the run continues."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

from recon.core.events import Notice
from recon.core.failures import ERROR_FILE, note_traceback, short

STRICT = "RECON_STRICT"  # environment variable; if it is set, as in the tests, every fault ends the run
Result = TypeVar("Result")


class Helpers:
    """Runs helpers until they fail.

    The first fault is reported, with its traceback in the run's ``folder``, and turns the helper off for the rest of
    the run. Ctrl-C and MemoryError are no fault of the helper and propagate.
    """

    def __init__(self, folder: Path, tell: Callable[[Notice], None]) -> None:
        self._folder, self._tell = folder, tell
        self._off: set[Hashable] = set()

    def attempt(self, name: str, work: Callable[[], Result], key: Hashable = None) -> Result | None:
        """The result of ``work``; None if it fails, or if the helper has failed before.

        name: of the helper, for the user. key: distinguishes helpers of the same name.
        """
        key = name if key is None else key
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
            note_traceback(error, self._folder)
            where = self._folder / ERROR_FILE
            self._tell(Notice(f"The run continues without {name}, which failed ({short(error)}), see {where}."))
            return None
