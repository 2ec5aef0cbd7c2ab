"""Shows a run in Rerun, live or from its recording. docs/viewer.md describes what is logged where.

with viewer.record(folder / viewer.RECORDING) as listener:
    listener(event)
viewer.show(folder)
"""

from viewer.launch import RECORDING, show
from viewer.rerun_viewer import RerunViewer, live, record, web

__all__ = ["RECORDING", "RerunViewer", "live", "record", "show", "web"]
