"""The viewer of a run, opened only once the run has begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import viewer
from recon.errors import ReconError
from recon.events import Event


class Recording:
    """A listener that records into ``folder``, and shows the run in a window with ``live``.

    It starts at the first event, because until then the folder is not made and may still be refused. A run that ends
    in a ReconError, or by Ctrl-C without a map, leaves no recording that looks finished.
    """

    def __init__(self, folder: Path, *, live: bool, say: Callable[[str], None]) -> None:
        self._path = folder / viewer.RECORDING
        self._live = live
        self._say = say
        self._viewer: viewer.RerunViewer | None = None

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._viewer is None:
            return
        self._viewer.close()
        if isinstance(error, ReconError | KeyboardInterrupt):
            self._path.unlink(missing_ok=True)

    def __call__(self, event: Event, /) -> None:
        if self._viewer is None:
            self._viewer = self._open()
        self._viewer(event)

    def _open(self) -> viewer.RerunViewer:
        if not self._live:
            return viewer.record(self._path)
        opened, notice = viewer.live(self._path)
        if notice:
            self._say(notice.text)
        return opened
