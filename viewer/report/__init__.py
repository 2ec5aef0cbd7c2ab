"""``DIR/report.html``: what a run made, in one file that needs no network."""

from __future__ import annotations

from pathlib import Path

REPORT = "report.html"


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of the run in ``folder``; returns its path.

    Raises MapError if the map or report.json is missing or damaged, and OutputError if the page cannot be written.
    """
    from recon.core.errors import MapError  # noqa: PLC0415
    from recon.core.files import write_atomically  # noqa: PLC0415
    from recon.store.map import open_map  # noqa: PLC0415
    from recon.store.report import read  # noqa: PLC0415
    from viewer.report.page import compose  # noqa: PLC0415  loads OpenCV

    reconstruction = open_map(folder)
    if not reconstruction.frames:
        raise MapError(f"The map in {folder} has no frames to report about.")
    page = compose(read(folder / "report.json"), reconstruction)
    write_atomically(folder / REPORT, lambda file: file.write(page.encode(errors="replace")))
    return folder / REPORT
