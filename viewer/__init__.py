"""Shows a run in Rerun, live or from its recording. docs/viewer.md describes what is logged where.

with viewer.record(folder / viewer.RECORDING) as listener:
    listener(event)
viewer.show(folder)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from viewer.launch import RECORDING, show

if TYPE_CHECKING:
    from viewer.rerun_viewer import RerunViewer, live, record, web

__all__ = ["RECORDING", "RerunViewer", "live", "record", "show", "web"]


def __getattr__(name: str) -> Any:
    """Rerun is imported, which takes a second, when it is needed: a report is not."""
    if name in __all__:
        return getattr(import_module("viewer.rerun_viewer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
