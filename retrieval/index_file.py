"""An index on disk: ``places.json``, which says what it is, and the FAISS file that it names.

The FAISS file is written first, named by its digest, and ``places.json`` is replaced last, so that an interrupted save
leaves the old index intact. docs/formats.md describes the fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss

from recon.core.errors import MapError, OutputError
from recon.core.files import make_folder, write_atomically
from retrieval.digest import digest_of_file

INDEX_VERSION = 1
METRIC = "inner product"
MANIFEST = "places.json"
PATTERN = "vectors-*.faiss"
REMEDY = "Build it again: recon places build FOLDER"


@dataclass(frozen=True)
class Header:
    """The header of an index: its describer, length and number of descriptors, and whether the search is exact."""

    describer: str
    dim: int
    count: int
    exact: bool


def write(folder: Path, index: Any, header: Header) -> None:
    """Write a FAISS index and its header. Raises OutputError if the folder cannot be written."""
    make_folder(folder)
    unnamed = folder / "vectors.new"
    try:
        write_atomically(unnamed, lambda file: faiss.write_index(index, file.name))
        digest = digest_of_file(unnamed)
        path = unnamed.replace(folder / f"vectors-{digest}.faiss")
    except (OSError, RuntimeError) as error:  # RuntimeError: of FAISS
        reason = str(error).splitlines()[0]
        raise OutputError(f"Cannot write the place index in {folder} ({reason}). Free some space.") from error
    content = {"version": INDEX_VERSION, "metric": METRIC, "file": path.name, "digest": digest} | asdict(header)
    write_atomically(folder / MANIFEST, lambda file: file.write(json.dumps(content, indent=1).encode()))
    for older in folder.glob(PATTERN):
        if older != path:
            older.unlink()


def checked(folder: Path, describer: str, dim: int) -> Path:
    """The FAISS file of the index in ``folder``. Raises MapError if it is damaged or of another describer."""
    content = _manifest(folder / MANIFEST)
    wanted = {"version": INDEX_VERSION, "metric": METRIC, "describer": describer, "dim": dim}
    for name, value in wanted.items():
        if content.get(name) != value:
            raise MapError(
                f"The place index in {folder} has the {name} {content.get(name)!r}, this search needs {value!r}. "
                f"{REMEDY}"
            )
    path = folder / str(content.get("file"))
    if not path.is_file() or digest_of_file(path) != content.get("digest"):
        raise MapError(f"{path} is missing or damaged: it is not the file that {MANIFEST} describes. {REMEDY}")
    return path


def read(path: Path, *, mapped: bool) -> Any:
    """The FAISS index in a file that ``checked`` returned. mapped: leave it on disk, where it can be searched but not
    changed.
    """
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise MapError(f"{path.parent} contains no place index: {path.name} cannot be read. {REMEDY}") from error
    except ValueError as error:
        raise MapError(f"{path} is damaged ({error}). {REMEDY}") from error
    if not isinstance(content, dict):
        raise MapError(f"{path} is damaged (it holds no object). {REMEDY}")
    return content
