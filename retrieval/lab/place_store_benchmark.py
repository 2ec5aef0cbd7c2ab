"""``recon bench place-store``: both engines of the place store on made-up descriptors, see ``index_benchmark``.

Maps have 5000 frames. Two processes then add maps at once, and a third one is killed while it adds; each tells of every
map that it has added.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from recon.core.errors import SettingsError
from recon.core.files import write_atomically
from retrieval.describer import Descriptors, normalised
from retrieval.fleet.place_store import Engine, PlaceStore, open_store
from retrieval.lab.index_benchmark import NEIGHBOURS, Nearest, made_up, made_up_queries

VERSION = 1
MAP = 5_000  # frames
DESCRIBER = "benchmark"
WRITTEN = 10  # maps that each of two writers adds
BEFORE_KILL = 3  # maps after which a writer is killed
SLOW = 10  # queries without an index


@dataclass(frozen=True)
class PlaceStoreBenchmark:
    """counts: numbers of rows. dim: of the descriptors. queries: how many are timed with an index. Raises SettingsError
    for numbers that cannot be measured.
    """

    counts: tuple[int, ...] = (100_000, 1_000_000)
    engines: tuple[Engine, ...] = ("embedded", "lance")
    dim: int = 512
    queries: int = 100

    def __post_init__(self) -> None:
        if min(self.counts) < MAP or min(self.dim, self.queries) < NEIGHBOURS:
            raise SettingsError(f"--counts must be at least {MAP}, --dim and --queries {NEIGHBOURS}, got {self}.")


@dataclass(frozen=True)
class PlaceStoreCase:
    """Wall times. unindexed, indexed: of a query, the median [ms]. recall: share of the true ten nearest among the ten
    found with an index. excluding: of a query that leaves out a map [ms]. fresh: of a query when a tenth more rows
    have come since [ms]; fresh_recall: of those rows. writers: time of two that add ten maps each; conflicts
    are tried again within. lost, torn: maps that a writer had told of and are missing, and maps with some of their
    frames, after two writers and a kill. delete: time to delete one map.
    """

    engine: Engine
    rows: int
    insert_seconds: float
    index_seconds: float
    unindexed: float
    indexed: float
    recall: float
    excluding: float
    fresh: float
    fresh_recall: float
    megabytes: float
    writers_seconds: float
    lost: int
    torn: int
    delete_seconds: float


def measure(settings: PlaceStoreBenchmark, out: Path, say: Callable[[str], None]) -> list[PlaceStoreCase]:
    """Measure every engine with every number of rows in turn, in a folder that is deleted afterwards."""
    cases = []
    for count in sorted(settings.counts):
        for engine in settings.engines:
            folder = out / f"{engine}-{count}"
            shutil.rmtree(folder, ignore_errors=True)
            try:
                cases.append(_measured(engine, count, settings, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            say(table(cases[-1:]).splitlines()[-1])
    return cases


def _measured(engine: Engine, count: int, settings: PlaceStoreBenchmark, folder: Path) -> PlaceStoreCase:
    store, dim = open_store(folder, DESCRIBER, settings.dim, engine), settings.dim
    queries = made_up_queries(count, settings.queries, dim)
    nearest = Nearest(queries)
    insert = 0.0
    for first, vectors in made_up(count, dim):
        nearest.update(first, vectors)
        insert += _timed(lambda first=first, vectors=vectors: _add(store, first, vectors))  # type: ignore[misc]
    slow, _ = _asked(store, queries[:SLOW], nearest.ids)
    index = _timed(store.build_index)
    fast, recall = _asked(store, queries, nearest.ids)
    last = _name((count - 1) // MAP)
    excluding, _ = _asked(store, queries[:SLOW], nearest.ids, [last])
    megabytes = _megabytes(folder)
    delete = _timed(lambda: store.delete(last))
    fresh, fresh_recall = _newer(store, count, dim)
    writers, lost, torn = _writers(engine, folder, store, dim)
    store.close()
    return PlaceStoreCase(
        engine,
        count,
        insert,
        index,
        slow,
        fast,
        recall,
        excluding,
        fresh,
        fresh_recall,
        megabytes,
        writers,
        lost,
        torn,
        delete,
    )


def _newer(store: PlaceStore, count: int, dim: int) -> tuple[float, float]:
    """Median milliseconds of a query for rows that came after the index, a tenth more, and the share of them found."""
    rng, number = np.random.default_rng(3), count // 10
    vectors = normalised(rng.normal(size=(number, dim)))
    first = (count // MAP + 1) * MAP
    _add(store, first, vectors)
    store.search(vectors[0], 1)
    times, found = [], 0
    for row in range(0, number, number // SLOW):
        start = time.perf_counter()
        (best,) = store.search(vectors[row], 1)
        times.append(time.perf_counter() - start)
        found += best.frame == first + row
    return 1000 * statistics.median(times), found / len(times)


def _add(store: PlaceStore, first: int, vectors: Descriptors) -> None:
    for start in range(0, len(vectors), MAP):
        part = vectors[start : start + MAP]
        store.add(_name((first + start) // MAP), range(first + start, first + start + len(part)), part)


def _name(number: int) -> str:
    return f"map-{number:05d}"


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _asked(
    store: PlaceStore, queries: Descriptors, true: Iterable[Iterable[int]], without: Sequence[str] = ()
) -> tuple[float, float]:
    """Median milliseconds of a query after the first, and the recall."""
    store.search(queries[0], NEIGHBOURS, without=without)
    times, hits = [], 0
    for query, nearest in zip(queries, true, strict=False):
        start = time.perf_counter()
        found = store.search(query, NEIGHBOURS, without=without)
        times.append(time.perf_counter() - start)
        hits += len(set(nearest).intersection(place.frame for place in found))
    return 1000 * statistics.median(times), hits / (NEIGHBOURS * len(times))


def _writers(engine: Engine, folder: Path, store: PlaceStore, dim: int) -> tuple[float, int, int]:
    """Seconds of two writers, and how many maps are lost or torn after them and a kill."""
    before = store.maps()
    start = time.perf_counter()
    both = [_writer(engine, folder, dim, prefix, WRITTEN) for prefix in "ab"]
    told = [line.strip() for one in both for line in one.communicate()[0].splitlines()]
    seconds = time.perf_counter() - start
    killed = _writer(engine, folder, dim, "killed", 1000)
    assert killed.stdout
    told += [killed.stdout.readline().strip() for _ in range(BEFORE_KILL)]
    killed.kill()
    killed.communicate()
    after = store.maps()
    expected = before.keys() | {name for name in told if name}
    return seconds, len(expected - after.keys()), sum(after[name] != MAP for name in after.keys() - before.keys())


def _writer(engine: Engine, folder: Path, dim: int, prefix: str, count: int) -> subprocess.Popen[str]:
    arguments = [engine, str(folder), str(dim), prefix, str(count)]
    command = [sys.executable, "-m", "retrieval.lab.place_store_benchmark", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def write_maps(engine: Engine, folder: Path, dim: int, prefix: str, count: int) -> None:
    """Add maps and tell of each; what another process does."""
    store = open_store(folder, DESCRIBER, dim, engine)
    vectors = np.concatenate([part for _, part in made_up(MAP, dim)])
    for number in range(count):
        store.add(f"{prefix}-{number}", range(MAP), vectors)
        print(f"{prefix}-{number}", flush=True)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def table(cases: Sequence[PlaceStoreCase]) -> str:
    """A Markdown table."""
    lines = [
        "| engine | rows | insert [s] | index [s] | query, no index [ms] | query [ms] | recall@10 | "
        "without a map [ms] | 10% newer rows: query [ms], found | disk [MB] | two writers, 20 maps [s] | "
        "lost, torn | delete [s] |",
        "|" + "---|" * 13,
    ]
    for case in cases:
        times = f"{case.insert_seconds:.1f} | {case.index_seconds:.1f} | {case.unindexed:.1f} | {case.indexed:.1f}"
        newer = f"{case.excluding:.1f} | {case.fresh:.1f}, {case.fresh_recall:.0%}"
        changes = f"{case.writers_seconds:.1f} | {case.lost}, {case.torn} | {case.delete_seconds:.2f}"
        row = f"{case.engine} | {case.rows} | {times} | {case.recall:.3f} | {newer} | {case.megabytes:.0f} | {changes}"
        lines.append(f"| {row} |")
    return "\n".join(lines) + "\n"


def write_results(cases: Sequence[PlaceStoreCase], settings: PlaceStoreBenchmark, folder: Path) -> None:
    """Write place-store.json and place-store.md. Raises OutputError."""
    content = {
        "version": VERSION,
        "data": "made up: clustered random unit vectors",
        "settings": asdict(settings),
        "processor": platform.processor() or platform.machine(),
        "cases": [asdict(case) for case in cases],
    }
    write_atomically(folder / "place-store.json", lambda file: file.write(json.dumps(content, indent=1).encode()))
    write_atomically(folder / "place-store.md", lambda file: file.write(table(cases).encode()))


if __name__ == "__main__":
    chosen: Engine = "lance" if sys.argv[1] == "lance" else "embedded"
    write_maps(chosen, Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
