"""Plain terminal output: headings and aligned rows, easy to copy and search."""

from __future__ import annotations

from collections.abc import Sequence

import typer

Row = tuple[str, str]  # label and value


def print_rows(heading: str, rows: Sequence[Row]) -> None:
    """Print a heading and one line per row, with aligned values."""
    typer.secho(heading, bold=True)
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        typer.echo(f"  {label:<{width}}  {value}")


def one_line(text: str) -> str:
    """Text on one line, with unprintable characters escaped, such as line breaks in file names."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
