"""``recon bench index``: cost and recall of the place index against the number of its descriptors.

The descriptors are synthetic: random unit vectors in clusters of 20, as if 20 frames saw each place. Queries belong to
some of the clusters. Real descriptors lie closer together along a walk, and are no harder to find.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from recon.core.errors import SettingsError
from recon.core.files import write_atomically
from recon.lab.benchmark.clock import CLOCKS, Clock
from retrieval.describer import Descriptors, normalised
from retrieval.index import Ids, PlaceIndex, gpu_is_there

VERSION = 1
CLUSTER = 20
SPREAD = 0.7  # of a member around its cluster's centre: two members have a similarity of 0.67, like neighbouring frames
BATCH = 20_000
NEIGHBOURS = 10


@dataclass(frozen=True)
class IndexBenchmark:
    """counts: numbers of descriptors. dim: their length. queries: how many are timed, one by one. clock: use processor
    time on a busy machine. Raises SettingsError for numbers that cannot be measured.
    """

    counts: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    dim: int = 512
    queries: int = 200
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        if min(*self.counts, self.dim, self.queries) < NEIGHBOURS:
            raise SettingsError(f"The index benchmark takes numbers of at least {NEIGHBOURS}, got {self}.")


@dataclass(frozen=True)
class IndexCase:
    """build_seconds: to add all, in batches as a growing map does, including the training.
    query_milliseconds: median of single queries on one thread. recall_at_10: share of the true ten nearest among the
    ten found. megabytes: size of the saved index, which equals its memory. together_milliseconds: per
    query, of all at once, on a GPU if FAISS finds one. together_agrees: share of the neighbours of single queries that
    these find too."""

    count: int
    exact: bool
    build_seconds: float
    query_milliseconds: float
    recall_at_10: float
    megabytes: float
    together_milliseconds: float
    together_agrees: float


def measure(settings: IndexBenchmark, say: Callable[[str], None]) -> list[IndexCase]:
    """Measure every number of descriptors in turn."""
    cases = []
    for count in sorted(settings.counts):
        say(f"{count} descriptors")
        cases.append(_measured(count, settings))
    return cases


def _measured(count: int, settings: IndexBenchmark) -> IndexCase:
    now, index = CLOCKS[settings.clock], PlaceIndex("benchmark", settings.dim)
    queries = made_up_queries(count, settings.queries, settings.dim)
    nearest, seconds = Nearest(queries), 0.0
    for first, vectors in made_up(count, settings.dim):
        nearest.update(first, vectors)
        start = now()
        index.add(range(first, first + len(vectors)), vectors)
        seconds += now() - start
    times, singly = [], []
    for query in queries:
        start = now()
        singly.append(index.search(query[None], NEIGHBOURS).ids[0])
        times.append(now() - start)
    index.search(queries, NEIGHBOURS)  # copies the index to a GPU
    start = now()
    together = index.search(queries, NEIGHBOURS).ids
    each = 1000 * (now() - start) / len(queries)
    single = np.stack(singly)
    recall, agrees = _share_found(nearest.ids, single), _share_found(single, together)
    milliseconds = 1000 * statistics.median(times)
    return IndexCase(count, index.is_exact, seconds, milliseconds, recall, _megabytes(index), each, agrees)


def _share_found(wanted: Ids, found: Ids) -> float:
    """The share of the neighbours in ``wanted`` (queries, k) that are in the same row of ``found``."""
    hits = sum(len(np.intersect1d(*rows)) for rows in zip(wanted, found, strict=True))
    return hits / wanted.size


def made_up(count: int, dim: int) -> Iterator[tuple[int, Descriptors]]:
    """Batches of clustered descriptors, with the row of the first; deterministic."""
    for first in range(0, count, BATCH):
        rng = np.random.default_rng([0, first])
        number = min(BATCH, count - first)
        centres = np.repeat(_centres(first, -(-number // CLUSTER), dim), CLUSTER, axis=0)[:number]
        yield first, normalised(centres + SPREAD * rng.normal(size=(number, dim)))


def made_up_queries(count: int, queries: int, dim: int) -> Descriptors:
    """New members of clusters of the last batch."""
    rng = np.random.default_rng(1)
    first = (count - 1) // BATCH * BATCH
    centres = _centres(first, -(-(count - first) // CLUSTER), dim)
    return normalised(centres[rng.integers(len(centres), size=queries)] + SPREAD * rng.normal(size=(queries, dim)))


def _centres(first: int, number: int, dim: int) -> Descriptors:
    return np.asarray(np.random.default_rng([2, first]).normal(size=(number, dim)), dtype=np.float32)


class Nearest:
    """The true nearest neighbours of some queries among descriptors that come in batches."""

    def __init__(self, queries: Descriptors) -> None:
        self._queries = queries
        self._similarities = np.full((len(queries), NEIGHBOURS), -np.inf, dtype=np.float32)
        self.ids: Ids = np.full((len(queries), NEIGHBOURS), -1, dtype=np.int64)

    def update(self, first: int, vectors: Descriptors) -> None:
        similarities = np.hstack([self._similarities, self._queries @ vectors.T])
        ids = np.hstack([self.ids, np.broadcast_to(first + np.arange(len(vectors)), (len(self.ids), len(vectors)))])
        best = np.argpartition(-similarities, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        self._similarities, self.ids = (np.take_along_axis(rows, best, axis=1) for rows in (similarities, ids))


def _megabytes(index: PlaceIndex) -> float:
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder))
        return sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6


def table(cases: Sequence[IndexCase]) -> str:
    """A Markdown table."""
    lines = [
        "| descriptors | search | build [s] | query [ms] | recall@10 | memory [MB] | query of many [ms] | agrees |",
        "|---" * 8 + "|",
    ]
    for case in cases:
        kind = "exact" if case.exact else "lists, a byte per value"
        figures = f"{case.build_seconds:.2f} | {case.query_milliseconds:.2f} | {case.recall_at_10:.3f}"
        together = f"{case.together_milliseconds:.2f} | {case.together_agrees:.3f}"
        lines.append(f"| {case.count} | {kind} | {figures} | {case.megabytes:.0f} | {together} |")
    return "\n".join(lines) + "\n"


def write_results(cases: Sequence[IndexCase], settings: IndexBenchmark, folder: Path) -> None:
    """Write index.json and index.md. Raises OutputError."""
    content = {
        "version": VERSION,
        "data": "made up: clustered random unit vectors",
        "settings": asdict(settings),
        "faiss": faiss.__version__,
        "processor": platform.processor() or platform.machine(),
        "gpu": gpu_is_there(),
        "cases": [asdict(case) for case in cases],
    }
    write_atomically(folder / "index.json", lambda file: file.write(json.dumps(content, indent=1).encode()))
    write_atomically(folder / "index.md", lambda file: file.write(table(cases).encode()))
