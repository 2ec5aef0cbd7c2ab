"""``DIR/map/map.db``: the ledger of a map, an SQLite database. docs/formats.md describes every table.

It names the files with depth and points beside it, with their checksums. A file is on disk under a name of its own
before the transaction that names it commits, so a kill or a power cut leaves the map as of the last transaction. There
is one writer, which holds ``recon.store.lock``, and any number of readers.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec

from recon.core.errors import MapError, OutputError, ReconError
from recon.core.files import sync_folder, write_atomically
from recon.core.typed_json import typed
from recon.store import legacy
from recon.store.legacy import AGAIN
from recon.store.versions import LEDGER_VERSION

Table = Literal["map", "frames", "skipped", "earlier", "parts", "chunks", "files"]
Row = dict[str, Any]
Content = TypeVar("Content")

NAME = "map.db"
APPLICATION_ID = 0x7265636F  # "reco"
PATIENCE = 10.0  # seconds to wait for another process
JSON = "JSON TEXT"
SUMS = "sums"  # of the other tables
TABLES: dict[str, dict[str, str]] = {
    "map": {"complete": "INTEGER", "world_from_points": JSON, "metric": JSON},
    "frames": {
        "index": "INTEGER PRIMARY KEY",
        "timestamp": "REAL",
        "name": "TEXT",
        "camera": JSON,
        "world_from_cam": JSON,
        "mapped": "INTEGER",
    },
    "skipped": {"index": "INTEGER", "name": "TEXT", "reason": "TEXT", "kind": "TEXT"},
    "earlier": {"index": "INTEGER PRIMARY KEY", "world_from_cam": JSON},
    "parts": {"first": "INTEGER PRIMARY KEY", "start": "REAL", "source": "TEXT", "settings": JSON},
    "chunks": {
        "number": "INTEGER PRIMARY KEY",
        "overlap": "INTEGER",
        "frames": JSON,
        "placed": JSON,
        "unplaced": JSON,
        "revised": JSON,
        "memory": JSON,
    },
    "files": {"stem": "TEXT PRIMARY KEY", "name": "TEXT", "bytes": "INTEGER", "crc32": "INTEGER"},
    SUMS: {"name": "TEXT PRIMARY KEY", "crc32": "INTEGER"},
}
OUT_OF_REACH = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")
IN_USE = ("SQLITE_BUSY", "SQLITE_LOCKED")


@dataclass(frozen=True)
class DataFile:
    """A file with arrays beside the ledger. stem: what it holds, such as ``points``. crc32: None if it is not known,
    as in maps of earlier versions.
    """

    stem: str
    name: str
    bytes: int
    crc32: int | None


class Ledger:
    """The ledger of the map in a folder. What a map of an earlier version holds is read from its JSON files; the first
    transaction converts them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "map" / NAME
        self._connection: sqlite3.Connection | None = None
        self._changed = set[str]()  # tables
        self._written = dict[str, str]()  # names of files by stem

    def has(self, table: Table) -> bool:
        """Whether a table has a row: ``map`` once a chunk is placed, ``parts`` if a run made the map. What cannot be
        read is not missing.
        """
        try:
            with self.reading() as connection:
                if connection is None:
                    return legacy.has(self.folder, table)
                return connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() is not None
        except ReconError:
            return True

    def read(self, table: Table, kind: type[Content], remedy: str = AGAIN) -> list[Content]:
        """All rows of a table, in order. kind: a dataclass with fields for the columns that are needed.

        remedy: what to do about damage. Raises MapError for a damaged ledger, one of a newer version, and a value of
        another type.
        """
        columns = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        with self.reading() as connection:
            rows = self._rows(connection, table, columns) if connection else legacy.rows(self.folder, table)
        return typed(rows, list[kind], self.source(table), remedy, root=table)  # type: ignore[valid-type]

    def source(self, table: Table) -> Path:
        """The file that holds a table."""
        return self.path if self.path.is_file() else legacy.path_of(self.folder, table)

    def replace(self, table: Table, rows: Iterable[Row]) -> None:
        """Put rows in place of those of a table."""
        with self.writing() as connection:
            connection.execute(f'DELETE FROM "{table}"')
            self._insert(connection, table, rows)

    def add(self, table: Table, row: Row) -> None:
        """Add a row, in place of one with the same key."""
        with self.writing() as connection:
            self._insert(connection, table, [row])

    def files(self) -> dict[str, DataFile]:
        """The files with arrays, by stem. Raises MapError if a name leads out of the map's folder."""
        found = self.read("files", DataFile)
        for file in found:
            if Path(file.name).name != file.name or file.name in ("", ".."):
                raise MapError(f"{self.path} names a file {file.name!r}, which is not beside it. It is not used.")
        return {file.stem: file for file in found}

    def file(self, stem: str) -> Path:
        """Where the file with that stem is; where it would be, if there is none."""
        found = self.files().get(stem)
        return self.path.with_name(found.name if found else f"{stem}.npz")

    def load(self, stem: str, read: Callable[[Path], Content]) -> Content:
        """What ``read`` makes of the file with that stem; again, if a writer has replaced it in the meantime."""
        path = self.file(stem)
        while True:
            try:
                return read(path)
            except MapError:
                before, path = path, self.file(stem)
                if path == before:
                    raise

    def write_file(self, stem: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file under a new name through ``write(file)``, which must not seek. The file that had this stem
        before is deleted after the transaction. Raises OutputError.
        """
        with self.writing() as connection:
            before = self.files().get(stem)
            name = _next_name(stem, before.name if before else "")
            summed = _Summed()

            def write_summed(file: IO[bytes]) -> None:
                summed.file = file
                write(summed)  # type: ignore[arg-type]  # as much of a file as an archive needs

            write_atomically(self.path.with_name(name), write_summed)
            row = {"stem": stem, "name": name, "bytes": summed.bytes, "crc32": summed.crc32}
            self._insert(connection, "files", [row])
            self._written[stem] = name

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """One state of the ledger, however often it is read; None for a map of an earlier version."""
        if self._connection or not self.path.is_file():
            yield self._connection
            return
        with self._faults_explained(writing=False), closing(self._open_to_read()) as connection:
            self._require_ours(connection)
            connection.execute("BEGIN")
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; inside another one, a part of that. All of it or nothing is written.

        Creates the ledger if it is missing. Raises OutputError, and MapError for a damaged ledger.
        """
        if self._connection:
            yield self._connection
            return
        with self._faults_explained(writing=True):
            self._convert()
            with closing(_connect(self.path, "mode=rw")) as connection:
                self._require_ours(connection)
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("BEGIN IMMEDIATE")
                self._connection, self._written = connection, {}
                try:
                    yield connection
                    _write_sums(connection, self._changed)
                    connection.execute("COMMIT")
                finally:
                    self._connection, written = None, self._written
                    self._changed.clear()
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                _set_journal_mode(connection)
        for stem, name in written.items():  # those that had a stem before, or that a killed writer has left
            self._delete_all(f"{stem}.", but=name)

    def _rows(self, connection: sqlite3.Connection, table: str, columns: list[str]) -> list[Row]:
        """The rows of a table with some of its columns."""
        expected = connection.execute(f'SELECT crc32 FROM "{SUMS}" WHERE name = ?', (table,)).fetchone() or (0,)
        rows = _all_rows(connection, table)
        if table not in self._changed and (_sum(rows),) != expected:
            raise MapError(f"{self.path} is damaged: the checksum of {table} differs. {AGAIN}")
        kinds = TABLES[table]
        places = [(number, name) for number, name in enumerate(kinds) if name in columns]
        try:
            return [{name: _decoded(row[number], kinds[name]) for number, name in places} for row in rows]
        except (ValueError, TypeError) as error:
            raise MapError(f"{self.path} is damaged: {table} holds no JSON ({error}). {AGAIN}") from error

    def _insert(self, connection: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
        kinds = TABLES[table]
        values = ", ".join("CAST(? AS TEXT)" if kind.startswith("TEXT") else "?" for kind in kinds.values())
        statement = f'INSERT OR REPLACE INTO "{table}" VALUES ({values})'
        connection.executemany(statement, ([_encoded(row.get(name), kinds[name]) for name in kinds] for row in rows))
        self._changed.add(table)

    def _open_to_read(self) -> sqlite3.Connection:
        connection = _connect(self.path, "mode=rw")  # so that what a killed writer has left can be undone
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            beside = [self.path.with_name(f"{NAME}-{name}") for name in ("wal", "journal")]
            if not error.sqlite_errorname.startswith(OUT_OF_REACH) or any(path.exists() for path in beside):
                raise
            connection = _connect(self.path, "immutable=1")  # an unfinished map that cannot be written
        connection.execute("PRAGMA query_only=1")
        return connection

    def _require_ours(self, connection: sqlite3.Connection) -> None:
        """Raise MapError for another database, and for a newer version."""
        (application,), (version,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if application != APPLICATION_ID:
            raise MapError(f"{self.path} is damaged: it is not the ledger of a map. {AGAIN}")
        if version != LEDGER_VERSION:
            raise MapError(
                f"{self.path} has version {version}, this program reads {LEDGER_VERSION}. Use a newer version of it."
            )

    def _convert(self) -> None:
        """Create the ledger from the files of an earlier version, or empty, if it is missing."""
        if not self.path.is_file():
            part = self.path.with_name(f"{NAME}.part")
            try:
                self._delete_all(f"{NAME}-")  # of a ledger that was deleted: it is not for the new one
                self._delete_all(part.name)
                with closing(_connect(part, "mode=rwc")) as connection:
                    self._create(connection)
                part.replace(self.path)
                sync_folder(self.path.parent)
            finally:
                self._changed.clear()
                self._delete_all(part.name)
        legacy.discard(self.folder)  # also after a kill that left both

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN")
        for table, columns in TABLES.items():
            listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            connection.execute(f'CREATE TABLE "{table}" ({listed})')
        for table, rows in legacy.all_rows(self.folder):
            self._insert(connection, table, rows)
        _write_sums(connection, self._changed)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={LEDGER_VERSION}")
        connection.execute("COMMIT")

    def _delete_all(self, prefix: str, but: str = "") -> None:
        """Delete the files beside the ledger whose names begin like this, as far as possible."""
        with suppress(OSError):
            for path in self.path.parent.glob(f"{prefix}*"):
                if path.name != but:
                    path.unlink()

    @contextmanager
    def _faults_explained(self, *, writing: bool) -> Iterator[None]:
        """Turn errors of SQLite and of the system into a ReconError."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(IN_USE):
                raise OutputError(f"{self.path} is in use by another process. Try again later.") from error
            if name.startswith(OUT_OF_REACH) and writing:
                raise self._unwritable(str(error)) from error
            if name.startswith(OUT_OF_REACH):
                raise MapError(f"Cannot read {self.path}: {error}. Copy the map to a folder that is yours.") from error
            raise MapError(f"{self.path} is damaged ({error}). {AGAIN}") from error
        except UnicodeDecodeError as error:  # SQLite quotes a damaged name
            raise MapError(f"{self.path} is damaged: a name in it is not text. {AGAIN}") from error
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def _unwritable(self, reason: str) -> OutputError:
        return OutputError(f"Cannot write {self.path}: {reason}. Free some space, or make the folder writable.")


class _Summed:
    """Adds up what is written to a file."""

    file: IO[bytes]

    def __init__(self) -> None:
        self.bytes = self.crc32 = 0

    def write(self, content: bytes) -> int:
        self.crc32 = zlib.crc32(content, self.crc32)
        self.bytes += len(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}", uri=True, timeout=PATIENCE, isolation_level=None
    )
    connection.text_factory = bytes  # paths need not be valid UTF-8
    return connection


def _set_journal_mode(connection: sqlite3.Connection) -> None:
    """WAL while a map grows, so that readers never wait; a plain file once it is finished, which can be copied alone.

    A mode changes only while nobody reads; the last writer waits for that. Where a mode is impossible, such as WAL on
    some network file systems, it stays as it is.
    """
    complete = connection.execute('SELECT 1 FROM "map" WHERE complete').fetchone()
    deadline = time.monotonic() + (PATIENCE if complete else 0)
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode={'DELETE' if complete else 'WAL'}").fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in IN_USE or time.monotonic() >= deadline:
                return
        time.sleep(0.01)


def _next_name(stem: str, before: str) -> str:
    """A name that no transaction has used: points.npz, points.2.npz, points.3.npz."""
    if not before:
        return f"{stem}.npz"
    number = before.removeprefix(f"{stem}.").removesuffix("npz").removesuffix(".")
    return f"{stem}.{int(number) + 1 if number.isdecimal() else 2}.npz"


def _write_sums(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    sums = [(table, _sum(_all_rows(connection, table))) for table in sorted(tables)]
    connection.executemany(f'INSERT OR REPLACE INTO "{SUMS}" VALUES (?, ?)', sums)


def _all_rows(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid').fetchall()


def _sum(rows: list[tuple[Any, ...]]) -> int:
    return zlib.crc32(msgspec.msgpack.encode(rows))


def _encoded(value: Any, kind: str) -> Any:
    """A value as SQLite stores it."""
    if value is None:
        return None
    if kind == JSON:
        try:
            return msgspec.json.encode(value, enc_hook=_plain).decode()
        except UnicodeEncodeError:
            return json.dumps(value, default=_plain)  # it escapes paths that are not valid UTF-8
    return os.fsencode(value) if kind.startswith("TEXT") and isinstance(value, str) else value


def _plain(value: object) -> object:
    return float(value) if isinstance(value, float) else os.fspath(value)  # type: ignore[call-overload]


def _decoded(value: Any, kind: str) -> Any:
    if not isinstance(value, bytes):
        return value
    if kind != JSON:
        return os.fsdecode(value)
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return json.loads(value)
