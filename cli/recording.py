"""The viewers of a run, opened once the run has started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import viewer
from recon.core.errors import DependencyError, ReconError
from recon.core.events import Event
from viewer.launch import LOOPBACK


class Recording:
    """A listener that records into ``folder`` and, if requested, shows the run in a window or a browser.

    Recording starts at the first event: before that, the folder does not exist and may still be refused. A run that
    ends with a ReconError, or by Ctrl-C without a map, leaves no recording that looks finished, but that of the run
    before it, if there is one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        say: Callable[[str], None],
        live: bool = False,
        web: bool = False,
        host: str = LOOPBACK,
    ) -> None:
        self._folder, self._say = folder, say
        self._live, self._web, self._host = live, web, host
        self._viewers: list[viewer.RerunViewer] = []
        self._path = folder / viewer.RECORDING
        self._earlier = folder / f"{viewer.RECORDING}.earlier"
        self._file = 0

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in self._viewers:
            opened.close()
        if self._viewers and isinstance(error, ReconError | KeyboardInterrupt) and self._file == _file(self._path):
            self._path.unlink(missing_ok=True)  # unless it belongs to the restored map
            if self._earlier.exists():
                self._earlier.replace(self._path)
        elif self._viewers:
            self._earlier.unlink(missing_ok=True)

    def __call__(self, event: Event, /) -> None:
        if not self._viewers:
            self._open()
        for opened in self._viewers:
            opened(event)

    def _open(self) -> None:
        if self._path.exists():
            self._path.replace(self._earlier)
        self._viewers.append(viewer.record(self._path))
        self._file = _file(self._path)
        if self._live:
            try:
                self._viewers.append(viewer.live(self._folder))
            except DependencyError as error:
                self._say(f"{error} The run is recorded; view it with: recon view {self._folder}")
        if self._web:
            self._open_page()

    def _open_page(self) -> None:
        try:
            shown, address = viewer.web(self._folder, self._host)
        except DependencyError as error:
            self._say(f"{error} The run is recorded; view it with: recon view {self._folder} --web")
            return
        self._viewers.append(shown)
        self._say(f"Watch it at {address}")


def _file(path: Path) -> int:
    """A number that tells a file from its replacement at the same path; 0 for none."""
    return path.stat().st_ino if path.exists() else 0
