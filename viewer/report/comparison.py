"""The page about two runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from recon.core.files import write_atomically
from viewer.report.page import asset


def write_comparison(first: Path, second: Path, rows: Sequence[Sequence[str]], sentence: str, path: Path) -> None:
    """Write the table of ``recon.evaluate.runs`` as a page of HTML. Raises OutputError if that is not possible."""
    head = "".join(f"<th>{escape(str(text))}</th>" for text in ("", first, second))
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Two runs</title><style>{asset('page.css')}</style>"
        f"<header><h1>Two runs</h1></header><p>{escape(sentence)}</p><table>{head}{body}</table></html>\n"
    )
    write_atomically(path, lambda file: file.write(page.encode(errors="replace")))
