"""The sources of a fleet: a folder, a pattern, or a CSV file with options per row."""

from __future__ import annotations

import csv
import glob
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from natsort import natsorted

from recon.core.errors import SettingsError, SourceError
from recon.sources.kinds import VIDEO_SUFFIXES, is_image

COLUMNS = ("source", "name", "options")
UNSAFE = re.compile(r"[^\w.-]+")  # in a name, which is also that of a folder


@dataclass(frozen=True)
class Listed:
    """A source of a fleet. name: of its map, unique. options: of ``recon run``."""

    name: str
    source: str
    options: tuple[str, ...] = ()


def read_list(text: str, options: Sequence[str] = ()) -> list[Listed]:
    """The sources that ``text`` names, with ``options`` before those of each row.

    A folder gives its videos and its subfolders with images, a pattern what it matches, and a CSV file its rows: the
    column ``source``, with paths relative to the file, and if wanted ``name`` and ``options``. Raises SourceError if
    there is none, SettingsError for a CSV file that says something else and for a name that occurs twice.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() == ".csv" and path.is_file():
        rows = _rows(path)
    elif path.is_dir():
        rows = [{"source": str(child)} for child in sources_in(path)]
    else:
        rows = [{"source": str(found)} for found in natsorted(glob.glob(str(path)))]  # noqa: PTH207 - may be absolute
    if not rows:
        raise SourceError(
            f"{text} lists no source. Give a folder with videos or folders of images, a quoted pattern such as "
            "'videos/*.mp4', or a CSV file with the column source."
        )
    listed = [_listed(row, options) for row in rows]
    names = [one.name for one in listed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        both = " and ".join(one.source for one in listed if one.name == twice)
        raise SettingsError(f"{both} would both make the map {twice}. Give them names in a CSV file: source,name.")
    return listed


def sources_in(folder: Path) -> list[Path]:
    """The videos of a folder and its subfolders with images, in natural order."""
    return [child for child in natsorted(folder.iterdir()) if _is_source(child)]


def map_name(text: str) -> str:
    """The name of a map, of letters, digits, ``_``, ``-`` and dots inside it; empty if ``text`` gives none."""
    return UNSAFE.sub("_", text).strip("._")


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            read = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read as CSV ({error}). Its columns are {','.join(COLUMNS)}.") from error
    for number, row in enumerate(read, 1):
        if None in row:
            raise SettingsError(f"Row {number} of {path} has more values than columns. Quote values with a comma.")
    rows = [{key: (value or "").strip() for key, value in row.items()} for row in read]
    strange = {key for row in rows for key in row} - {*COLUMNS}
    if strange or any(not row.get("source") for row in rows):
        found = f"has the column {min(map(str, strange))}" if strange else "has a row without a source"
        raise SettingsError(f"{path} {found}. Its columns are {','.join(COLUMNS)}; the last two may be missing.")
    return [row | {"source": _beside(path, row["source"])} for row in rows]


def _beside(path: Path, source: str) -> str:
    return str((path.parent / Path(source).expanduser()).absolute())


def _listed(row: dict[str, str], options: Sequence[str]) -> Listed:
    source = str(Path(row["source"]).expanduser().absolute())
    name = map_name(row.get("name") or _stem(Path(source)))
    if not name:
        raise SettingsError(f"{row.get('name') or source} gives no name for a map. Name it in a CSV file: source,name.")
    try:
        own = shlex.split(row.get("options", ""))
    except ValueError as error:
        raise SettingsError(f"The options of {source} cannot be read ({error}): {row['options']}.") from error
    return Listed(name, source, (*options, *own))


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _is_source(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(child.is_file() and not child.name.startswith(".") and is_image(child) for child in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES
