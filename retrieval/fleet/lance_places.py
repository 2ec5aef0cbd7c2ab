"""The place store of several writers: a table of LanceDB, in a folder that machines share or in an object store.

Every change is a new version of the table, so a kill leaves the version before. Two writers at once may conflict: the
later one tries again, a bounded number of times. Searches look through the index, and one by one through what it lacks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import lancedb
import numpy as np
import pyarrow
from lancedb.index import Bitmap, IvfSq

from recon.core.errors import MapError, OutputError
from recon.core.failures import short
from recon.core.files import make_folder
from retrieval.describer import Descriptors
from retrieval.fleet.place_store import Frames, Place, absent, checked, of_another

Result = TypeVar("Result")

TABLE = "places"
WORTH_AN_INDEX = 10_000  # rows; fewer are compared one by one
PROBES = 20  # partitions that a query searches; LanceDB makes one for every few thousand rows
TRIES = 8  # of a change that conflicts with those of other writers
FIRST_WAIT = 0.05  # seconds; doubles
CONFLICT = "conflict"  # in LanceDB's message


class LancePlaces:
    """See ``PlaceStore``. place: a folder, or a URL of an object store with LanceDB's scheme."""

    def __init__(self, place: Path | str, describer: str, dim: int) -> None:
        self._place, self._dim = place, dim
        if isinstance(place, Path):
            make_folder(place)
        vector = pyarrow.list_(pyarrow.float32(), dim)
        about = {"describer": describer}
        self._schema = pyarrow.schema(
            [("map", pyarrow.string()), ("frame", pyarrow.int64()), ("vector", vector)], metadata=about
        )
        self._table = self._retried(self._opened)
        stored = {key.decode(): value.decode() for key, value in (self._table.schema.metadata or {}).items()}
        if stored.get("describer") != describer or self._table.schema.field("vector").type != vector:
            raise of_another(place, stored.get("describer"), describer)

    def _opened(self) -> lancedb.table.Table:
        connection = lancedb.connect(self._place, read_consistency_interval=timedelta(0))
        if TABLE in connection.list_tables().tables:
            return connection.open_table(TABLE)
        return connection.create_table(TABLE, schema=self._schema, exist_ok=True)

    def add(self, name: str, frames: Sequence[int], descriptors: Descriptors) -> None:
        numbers, vectors = checked(frames, descriptors, self._dim)
        column = pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), self._dim)
        rows = pyarrow.table({"map": [name] * len(numbers), "frame": numbers, "vector": column}, schema=self._schema)
        self.delete(name)
        if len(numbers):
            self._retried(lambda: self._table.add(rows))

    def delete(self, name: str) -> None:
        if self._retried(lambda: self._table.count_rows(_of([name]))):
            self._retried(lambda: self._table.delete(_of([name])))

    def maps(self) -> dict[str, int]:
        names = self._retried(lambda: self._table.search().select(["map"]).to_arrow())["map"]
        counted = names.value_counts().to_pylist()
        return dict(sorted((row["values"], row["counts"]) for row in counted))

    def read(self, name: str) -> tuple[Frames, Descriptors]:
        asked = self._table.search().where(_of([name])).select(["frame", "vector"])
        rows = self._retried(asked.to_arrow).sort_by("frame").combine_chunks()
        if not rows.num_rows:
            raise absent(name)
        vectors = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return rows["frame"].to_numpy(), np.asarray(vectors, dtype=np.float32).reshape(-1, self._dim)

    def search(
        self, descriptor: Descriptors, k: int, *, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> list[Place]:
        query = np.asarray(descriptor, dtype=np.float32).reshape(self._dim)
        asked: Any = self._table.search(query)  # whose type does not tell that it is one of vectors
        asked = asked.distance_type("dot").limit(k).nprobes(PROBES)
        conditions = [_of(only)] if only is not None else []
        conditions += [f"NOT ({_of(without)})"] if without else []
        if conditions:
            asked = asked.where(" AND ".join(conditions), prefilter=True)
        rows = self._retried(asked.select(["map", "frame", "_distance"]).to_arrow)
        found = zip(*(rows[name].to_pylist() for name in ("map", "frame", "_distance")), strict=True)
        return [Place(name, frame, 1.0 - distance) for name, frame, distance in found]

    def build_index(self) -> None:
        count = self._retried(self._table.count_rows)
        if count < WORTH_AN_INDEX:
            return
        vectors = IvfSq(distance_type="dot")  # a byte per value
        self._retried(lambda: self._table.create_index("vector", config=vectors, replace=True))
        self._retried(lambda: self._table.create_index("map", config=Bitmap(), replace=True))
        self._retried(self._table.optimize)

    def close(self) -> None:
        """Nothing is open between calls."""

    def _retried(self, change: Callable[[], Result]) -> Result:
        """The result of an operation, tried again if another writer was faster. Raises OutputError and MapError."""
        wait = FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return change()
            except (OSError, RuntimeError, ValueError) as error:
                if CONFLICT in str(error).lower():
                    if left:
                        time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - so that writers part
                        wait *= 2
                        continue
                    raise OutputError(
                        f"The place store in {self._place} has too many writers: {TRIES} tries of one change "
                        "conflicted with theirs. Try again."
                    ) from error
                raise MapError(
                    f"The place store in {self._place} cannot be used ({short(error)}). Check that it can be reached; "
                    "recon fleet merge makes a deleted one again."
                ) from error
        raise AssertionError("unreachable")


def _of(names: Collection[str]) -> str:
    """The condition that a row is of one of these maps."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
    return f"map IN ({quoted})" if quoted else "false"
