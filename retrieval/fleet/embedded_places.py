"""The place store of one machine: descriptors in SQLite, a row per map, and a FAISS index beside it.

The index knows which maps it holds by the numbers in its ids, and a number never comes again. So it may be older than
the database: deleted maps are left out of its answers, and maps that it lacks are compared one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError, OutputError
from recon.core.files import make_folder
from recon.store.lock import sole_writer
from retrieval.describer import Descriptors
from retrieval.fleet.place_store import Frames, Place, absent, checked, of_another
from retrieval.index import PlaceIndex
from retrieval.index_file import MANIFEST

NAME = "places.db"
PATIENCE = 60.0  # seconds to wait for another writer
FRAME_BITS = 32  # of an id in the index; those above are the number of the map
ROWS_AT_ONCE = 250_000  # added to the index
MORE = 4  # factor by which a search is widened until enough of its answers count
OUT_OF_REACH = (
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_READONLY",
    "SQLITE_CANTOPEN",
    "SQLITE_PERM",
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
)
TABLES = """
CREATE TABLE IF NOT EXISTS about (describer TEXT, dim INTEGER);
CREATE TABLE IF NOT EXISTS maps (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, rows INTEGER, frames BLOB, descriptors BLOB
);
"""
Ids = NDArray[np.int64]


class EmbeddedPlaces:
    """See ``PlaceStore``. Several processes may write; each waits for the others."""

    def __init__(self, folder: Path, describer: str, dim: int) -> None:
        make_folder(folder)
        self._folder, self._describer, self._dim = folder, describer, dim
        with self._explained():
            self._database = sqlite3.connect(folder / NAME, timeout=PATIENCE, isolation_level=None)
            try:
                self._start()
            except BaseException:
                self._database.close()
                raise
        self._seen: tuple[int, ...] = ()  # versions of the database and of the index that are in memory
        self._names: dict[int, str] = {}
        self._index: PlaceIndex | None = None
        self._loose_ids: Ids = np.zeros(0, dtype=np.int64)  # of maps that the index lacks
        self._loose: Descriptors = np.zeros((0, dim), dtype=np.float32)

    def _start(self) -> None:
        self._database.execute("PRAGMA synchronous = FULL")
        with self._writing():
            for statement in TABLES.strip().split(";\n"):
                self._database.execute(statement)
            found = self._database.execute("SELECT describer, dim FROM about").fetchone()
            if found is None:
                found = self._describer, self._dim
                self._database.execute("INSERT INTO about VALUES (?, ?)", found)
        if found != (self._describer, self._dim):
            raise of_another(self._folder, found[0], self._describer)

    def add(self, name: str, frames: Sequence[int], descriptors: Descriptors) -> None:
        numbers, vectors = checked(frames, descriptors, self._dim)
        if len(numbers) and not 0 <= numbers[0] <= numbers[-1] < 1 << FRAME_BITS:
            raise ValueError(f"frames must be numbers below 2^{FRAME_BITS}")
        with self._explained(), self._writing():
            self._database.execute("DELETE FROM maps WHERE name = ?", (name,))
            row = name, len(numbers), numbers.tobytes(), vectors.tobytes()
            self._database.execute("INSERT INTO maps (name, rows, frames, descriptors) VALUES (?, ?, ?, ?)", row)
        self._seen = ()

    def delete(self, name: str) -> None:
        with self._explained(), self._writing():
            self._database.execute("DELETE FROM maps WHERE name = ?", (name,))
        self._seen = ()

    def maps(self) -> dict[str, int]:
        with self._explained():
            return dict(self._database.execute("SELECT name, rows FROM maps ORDER BY name"))

    def read(self, name: str) -> tuple[Frames, Descriptors]:
        with self._explained():
            row = self._database.execute("SELECT frames, descriptors FROM maps WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise absent(name)
        return self._unpacked(*row)

    def search(
        self, descriptor: Descriptors, k: int, *, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> list[Place]:
        query = np.asarray(descriptor, dtype=np.float32).reshape(self._dim)
        if only is not None:
            return self._search_one_by_one(query, k, sorted(set(only) - set(without)))
        self._refresh()
        found: dict[int, float] = {}
        left_out = {number for number, name in self._names.items() if name in without} if without else set()
        kept = ~np.isin(self._loose_ids >> FRAME_BITS, list(left_out)) if left_out else slice(None)
        similarities, ids = self._loose[kept] @ query, self._loose_ids[kept]
        for row in _largest(similarities, k):
            found[int(ids[row])] = float(similarities[row])
        found |= self._indexed(query, k, left_out)
        best = sorted(found, key=lambda place: (-found[place], place))[:k]
        return [
            Place(self._names[place >> FRAME_BITS], place & ((1 << FRAME_BITS) - 1), found[place]) for place in best
        ]

    def build_index(self) -> None:
        with sole_writer(self._folder, "place index"):
            index = self._stored_index() or PlaceIndex(self._describer, self._dim)
            with self._explained():
                names = dict(self._database.execute("SELECT number, name FROM maps ORDER BY number"))
            held = index.ids()
            gone = held[~np.isin(held >> FRAME_BITS, list(names))]
            if len(gone):
                index.remove(gone.tolist())
            for ids, vectors in self._batches(sorted(set(names) - set(np.unique(held >> FRAME_BITS).tolist()))):
                index.add(ids.tolist(), vectors)
            index.save(self._folder)
        self._seen = ()

    def close(self) -> None:
        self._database.close()

    def _search_one_by_one(self, query: Descriptors, k: int, names: Sequence[str]) -> list[Place]:
        best: list[Place] = []
        for name in names:
            try:
                frames, vectors = self.read(name)
            except MapError:  # deleted, or never there
                continue
            similarities = vectors @ query
            best += [Place(name, int(frames[row]), float(similarities[row])) for row in _largest(similarities, k)]
            best = sorted(best, key=lambda place: (-place.similarity, place.map, place.frame))[:k]
        return best

    def _indexed(self, query: Descriptors, k: int, left_out: Collection[int]) -> dict[int, float]:
        """The best answers of the index, by id, without maps that are gone or left out."""
        if self._index is None or not len(self._index):
            return {}
        alone = next(iter(left_out)) if len(left_out) == 1 else None
        skip = range(alone << FRAME_BITS, (alone + 1) << FRAME_BITS) if alone is not None else range(0)
        wanted = k
        while True:
            wanted = min(wanted, len(self._index))
            matches = self._index.search(query[None], wanted, skip=skip)
            pairs = zip(matches.ids[0].tolist(), matches.similarities[0].tolist(), strict=True)
            found = {
                place: similarity
                for place, similarity in pairs
                if place >= 0 and (number := place >> FRAME_BITS) in self._names and number not in left_out
            }
            if len(found) >= k or wanted == len(self._index):
                return found
            wanted *= MORE

    def _refresh(self) -> None:
        """Bring what is in memory up to date with the database and the index."""
        with self._explained():
            (version,) = self._database.execute("PRAGMA data_version").fetchone()
        manifest = self._folder / MANIFEST
        index_version = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        if self._seen == (version, index_version):
            return
        if not self._seen or self._seen[1] != index_version:
            self._index = self._stored_index()
        with self._explained():
            self._names = dict(self._database.execute("SELECT number, name FROM maps"))
        held = set(np.unique(self._index.ids() >> FRAME_BITS).tolist()) if self._index else set[int]()
        loose = list(self._batches(sorted(set(self._names) - held)))
        self._loose_ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in loose)])
        self._loose = np.concatenate([np.zeros((0, self._dim), np.float32), *(vectors for _, vectors in loose)])
        self._seen = version, index_version

    def _stored_index(self) -> PlaceIndex | None:
        """None if there is none, or if it is damaged: all maps are then compared one by one until it is built."""
        try:
            return PlaceIndex.load(self._folder, self._describer, self._dim)
        except MapError:
            return None

    def _batches(self, numbers: Sequence[int]) -> Iterator[tuple[Ids, Descriptors]]:
        """Ids and descriptors of maps, of many at once: every addition to a large index may train it anew."""
        batch: list[tuple[Ids, Descriptors]] = []
        for number in numbers:
            with self._explained():
                asked = "SELECT frames, descriptors FROM maps WHERE number = ?"
                row = self._database.execute(asked, (number,)).fetchone()
            if row:
                frames, vectors = self._unpacked(*row)
                batch.append((number << FRAME_BITS | frames, vectors))
            if batch and (number == numbers[-1] or sum(len(ids) for ids, _ in batch) >= ROWS_AT_ONCE):
                yield np.concatenate([ids for ids, _ in batch]), np.concatenate([vectors for _, vectors in batch])
                batch = []

    def _unpacked(self, frames: bytes, descriptors: bytes) -> tuple[Frames, Descriptors]:
        return np.frombuffer(frames, np.int64), np.frombuffer(descriptors, np.float32).reshape(-1, self._dim)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction; it waits for those of other processes."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            path = self._folder / NAME
            if getattr(error, "sqlite_errorname", "").startswith(OUT_OF_REACH):
                raise OutputError(f"{path} cannot be used: {error}. Free some space, or wait.") from error
            remedy = f"Delete {self._folder}: recon fleet merge makes it again."
            raise MapError(f"{path} is damaged: {error}. {remedy}") from error


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Rows of the largest values, in any order."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(-values, count - 1)[:count]
