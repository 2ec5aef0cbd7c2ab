"""The JSON files that were the ledger of a map up to version 3, as the tables that they became.

``map.json`` held the poses, ``run.json`` the sources, ``chunk_0000.json`` a finished chunk, and ``finished.json`` the
poses of the map that an unfinished run extends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recon.core.errors import MapError
from recon.core.typed_json import read_object

Row = dict[str, Any]
VERSIONS = (1, 2, 3)
JOURNAL_VERSION = 2  # which added the content of frames; a run of version 1 cannot be resumed
AGAIN = "Run the reconstruction again."
REBUILD = "Rebuild the map with --overwrite."
IDENTITY = [[float(row == column) for column in range(4)] for row in range(4)]
FILES = {
    "map": "map.json",
    "frames": "map.json",
    "skipped": "map.json",
    "parts": "run.json",
    "earlier": "finished.json",
    "chunks": "chunk_*.json",
}


def path_of(folder: Path, table: str) -> Path:
    """The file that held a table, or the pattern of the names of several."""
    return folder / "map" / FILES.get(table, "")


def has(folder: Path, table: str) -> bool:
    """Whether there is a file that held a table."""
    return any((folder / "map").glob(FILES[table]))


def rows(folder: Path, table: str) -> list[Row]:
    """A table of the ledger, with whatever values the files hold. Raises MapError for a file that is damaged."""
    path = path_of(folder, table)
    try:
        return READ[table](folder)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise MapError(f"{path} is damaged ({error!r}). {AGAIN}") from error


def all_rows(folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """All tables, but without a run of version 1. Raises MapError if a file is damaged."""
    run = _content(folder / "map" / "run.json", (1, JOURNAL_VERSION), REBUILD)
    left = ("parts", "chunks") if run and run["version"] < JOURNAL_VERSION else ()
    yield from ((table, rows(folder, table)) for table in READ if table not in left)


def discard(folder: Path) -> None:
    """Delete the files. Raises OSError."""
    for pattern in set(FILES.values()):
        for path in (folder / "map").glob(pattern):
            path.unlink()


def with_kinds(content: Row) -> Row:
    """A map or report in JSON, with the kind of every skipped frame. Early builds wrote no kind; the reason shows which
    frames were passed over.
    """
    skipped = content.get("skipped")
    return content | {"skipped": [_with_kind(row) for row in skipped]} if isinstance(skipped, list) else content


def _with_kind(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    passed = str(row.get("reason")).startswith("was passed over as it shows little new")
    return {"kind": "passed" if passed else "unplaced"} | row


def _content(path: Path, versions: int | tuple[int, ...], remedy: str) -> Row | None:
    """The object in a file; None if there is none."""
    try:
        return read_object(path, versions, remedy)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise MapError(f"{path} is damaged ({error!r}). {remedy}") from error


def _map(folder: Path) -> list[Row]:
    content = _content(folder / "map" / "map.json", VERSIONS, AGAIN)
    if content is None:
        return []
    complete = content["complete"]
    return [
        {
            "complete": int(complete) if isinstance(complete, bool) else f"{complete}",
            "world_from_points": content.get("world_from_points", IDENTITY),
            "metric": content.get("metric"),
        }
    ]


def _frames(folder: Path) -> list[Row]:
    content = _content(folder / "map" / "map.json", VERSIONS, AGAIN) or {"frames": [], "cameras": []}
    cameras = content["cameras"]
    found = []
    for mapped, posed in ((1, content["frames"]), (0, content.get("between", []))):
        for row in posed:
            if not 0 <= row["camera"] < len(cameras):
                raise IndexError(f"frame {row['index']} with camera {row['camera']} of {len(cameras)}")
            found.append(row | {"camera": cameras[row["camera"]], "mapped": mapped})
    return found


def _skipped(folder: Path) -> list[Row]:
    content = _content(folder / "map" / "map.json", VERSIONS, AGAIN)
    return list(with_kinds(content)["skipped"]) if content else []


def _parts(folder: Path) -> list[Row]:
    content = _content(folder / "map" / "run.json", (1, JOURNAL_VERSION), REBUILD)
    return list(content["parts"]) if content else []


def _chunks(folder: Path) -> list[Row]:
    found: list[Row] = []
    while (content := _content(path := _chunk_path(folder, len(found)), JOURNAL_VERSION, REBUILD)) is not None:
        found.append(content | {"number": len(found)})
    if len(found) < len(list((folder / "map").glob(FILES["chunks"]))):
        raise MapError(f"{path} is missing, although later chunks are finished. {REBUILD}")
    return found


def _earlier(folder: Path) -> list[Row]:
    path = folder / "map" / "finished.json"
    poses = json.loads(path.read_text()) if path.is_file() else {}
    return [{"index": int(index), "world_from_cam": pose} for index, pose in poses.items()]


def _files(folder: Path) -> list[Row]:
    """The files with data, whose checksums are not known."""
    paths = [*sorted((folder / "map").glob("submap_*.npz")), folder / "map" / "points.npz"]
    return [
        {"stem": path.stem, "name": path.name, "bytes": path.stat().st_size, "crc32": None}
        for path in paths
        if path.is_file()
    ]


def _chunk_path(folder: Path, number: int) -> Path:
    return folder / "map" / f"chunk_{number:04d}.json"


READ: dict[str, Callable[[Path], list[Row]]] = {
    "map": _map,
    "frames": _frames,
    "skipped": _skipped,
    "parts": _parts,
    "chunks": _chunks,
    "earlier": _earlier,
    "files": _files,
}
