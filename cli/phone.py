"""A phone as the camera of ``recon live``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.ending import ended_before_the_run
from cli.text import print_rows

if TYPE_CHECKING:
    import segno

    from recon.core.events import Listener
    from recon.sources import SourceOptions
    from recon.sources.live import LiveSource

NAME = "phone://"  # of the source, in the report


@contextmanager
def opened_phone(
    options: SourceOptions, incoming: Path, *, host: str | None, patience: float, elsewhere: bool
) -> Iterator[tuple[LiveSource, Listener]]:
    """Serve the page, and wait until a phone sends images; the source, and the listener that the page shows.

    elsewhere: as in ``ended_by_signals``. Raises SettingsError if ``host`` is not an address of this machine, and
    SourceError if the user ends the capture on the phone before it begins.
    """
    import segno  # first, so that a missing package is reported before anything is opened

    from recon.sources.live import LiveSource
    from recon.sources.phone import PhoneFeed
    from viewer.phone import serve
    from viewer.phone.certificate import local_address

    feed = PhoneFeed(options, patience)
    with serve(feed, options, host or local_address()) as phone:
        _print_address(phone.address, phone.fingerprint)
        if sys.stdout.isatty():
            _print_code(segno.make(phone.address, error="l"))
        with ended_before_the_run(elsewhere=elsewhere):
            import viewer.rerun_viewer  # noqa: F401  these take seconds, in which the user takes up the phone

            feed.wait()
        yield LiveSource(NAME, feed, options, incoming), phone.screen


def _print_code(code: segno.QRCode) -> None:
    """The code in colours of its own, so that it is dark on light on any terminal."""
    drawn = io.StringIO()
    code.terminal(drawn, compact=True)
    for line in drawn.getvalue().splitlines():
        typer.secho(line, fg="bright_white", bg="black")


def _print_address(address: str, fingerprint: str) -> None:
    rows = [
        ("open", address),
        ("on", "a phone in the same network; its browser warns of the certificate, as only this run knows it"),
        ("SHA-256", fingerprint),
    ]
    print_rows("Phone", rows)
    typer.echo("Waiting for the phone. Ctrl-C ends.")
