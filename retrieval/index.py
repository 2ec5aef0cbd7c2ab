"""Search for the most similar descriptors: a small class around FAISS (Douze et al. 2024).

Up to ``IndexSettings.exact_up_to`` descriptors are compared one by one. More are kept in lists around k-means centres,
with a byte per value, and a query searches only the nearest lists. For a million descriptors this is ten times faster.
It finds 99% of the true neighbours if the lists were trained on the place, and 80 to 90% if the place came later.
Product quantisation would need less memory, but loses half of the neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from retrieval import index_file
from retrieval.describer import Descriptors

Ids = NDArray[np.int64]
NOTHING = -1  # FAISS's id for an empty result
LISTS_PER_ROOT = 4  # lists = 4 sqrt(descriptors), by FAISS's guidelines
TRAINING_PER_LIST = 64
SMALLEST_PER_LIST = 40
GROWTH_BEFORE_TRAINING = 1.5  # lists that were trained before a place was seen lose half of its neighbours
TRAINING_ROUNDS = 10  # of k-means; FAISS's 25 take a quarter longer in total and find no more neighbours
GPU_QUERIES = 64  # with fewer, the CPU is faster than a transfer to the GPU
SEED = 0


@dataclass(frozen=True)
class IndexSettings:
    """exact_up_to: number of descriptors above which the search is approximate. probed: share of the lists searched."""

    exact_up_to: int = 100_000
    probed: float = 0.05


@dataclass(frozen=True, eq=False)
class Matches:
    """ids, similarities: (queries, k), the best first; id -1 and similarity -inf if there are fewer."""

    ids: Ids
    similarities: NDArray[np.float32]


class PlaceIndex:
    """Descriptors of frames under the frames' own ids, searched by inner product.

    describer: ``PlaceDescriber.name``; loading refuses an index of another one.
    """

    def __init__(self, describer: str, dim: int, settings: IndexSettings | None = None) -> None:
        self._start(describer, dim, settings or IndexSettings(), faiss.IndexIDMap2(faiss.IndexFlatIP(dim)), None)

    def _start(self, describer: str, dim: int, settings: IndexSettings, index: Any, mapped: Path | None) -> None:
        self.describer, self.dim = describer, dim
        self._settings, self._index, self._mapped = settings, index, mapped
        self._on_gpu: Any = None
        self._ids: set[int] = set(_stored_ids(index).tolist())
        self._trained_on = len(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, frame_id: int) -> bool:
        return frame_id in self._ids

    def ids(self) -> Ids:
        """All ids (n,), in ascending order."""
        return np.array(sorted(self._ids), dtype=np.int64)

    @property
    def is_exact(self) -> bool:
        return isinstance(self._index, faiss.IndexIDMap2)

    def add(self, ids: Sequence[int], descriptors: Descriptors) -> None:
        """Add descriptors (n, dim) of unit length under new ids (n,).

        Raises ValueError for another shape, for values that are not finite, and for an id that exists already.
        """
        vectors = self._checked(descriptors)
        if len(ids) != len(vectors):
            raise ValueError(f"{len(vectors)} descriptors need as many ids, got {len(ids)}")
        known = self._ids.intersection(ids)
        if known or len(set(ids)) < len(ids):
            raise ValueError(f"an id stands for one descriptor; more than once: {sorted(known) or 'within the call'}")
        self._own()
        self._index.add_with_ids(vectors, np.asarray(ids, dtype=np.int64))
        self._ids.update(ids)
        self._adapt()

    def remove(self, ids: Sequence[int]) -> None:
        """Remove the descriptors of some ids. Raises KeyError for an unknown id."""
        strangers = set(ids) - self._ids
        if strangers:
            raise KeyError(f"not in the index: {sorted(strangers)}")
        self._own()
        self._index.remove_ids(np.asarray(ids, dtype=np.int64))
        self._ids.difference_update(ids)

    def search(self, queries: Descriptors, k: int, *, skip: range = range(0)) -> Matches:
        """The ``k`` most similar descriptors of each query (n, dim), without the ids in ``skip``.

        A search for loops skips the sequence's recent frames, which are always the most similar. Many queries without
        ``skip`` run on a GPU if faiss-gpu finds one.
        """
        vectors = self._checked(queries)
        if len(vectors) >= GPU_QUERIES and not len(skip) and gpu_is_there():
            return _matches(*self._copied_to_gpu().search(vectors, k))
        with _threads(1 if len(vectors) == 1 else None):
            return _matches(*self._index.search(vectors, k, params=self._parameters(skip)))

    def save(self, folder: Path) -> None:
        """Write the index so that ``folder`` holds the old one or the whole new one. Raises OutputError."""
        index_file.write(folder, self._index, index_file.Header(self.describer, self.dim, len(self), self.is_exact))

    @classmethod
    def load(cls, folder: Path, describer: str, dim: int, settings: IndexSettings | None = None) -> PlaceIndex:
        """The index in ``folder``, memory-mapped; the first change loads it into memory.

        Raises MapError if there is none, if it is damaged, or if it holds another describer's descriptors.
        """
        path = index_file.checked(folder, describer, dim)
        loaded = cls.__new__(cls)
        loaded._start(describer, dim, settings or IndexSettings(), index_file.read(path, mapped=True), path)
        return loaded

    def _checked(self, descriptors: Descriptors) -> Descriptors:
        vectors = np.ascontiguousarray(descriptors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"descriptors must have the shape (n, {self.dim}), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ValueError("descriptors must be finite")
        return vectors

    def _parameters(self, skip: range) -> Any:
        selector = faiss.IDSelectorNot(faiss.IDSelectorRange(skip.start, skip.stop)) if skip.stop > skip.start else None
        if self.is_exact:
            return faiss.SearchParameters(sel=selector) if selector else None
        return faiss.SearchParametersIVF(sel=selector, nprobe=self._probes())

    def _probes(self) -> int:
        return max(1, round(self._settings.probed * int(self._index.nlist)))

    def _copied_to_gpu(self) -> Any:
        """A copy of the index on the first GPU, kept until the index changes."""
        if self._on_gpu is None:
            self._on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self._index)
            if not self.is_exact:
                self._on_gpu.nprobe = self._probes()
        return self._on_gpu

    def _own(self) -> None:
        """Prepare for a change: load a mapped index into memory, since FAISS would write to the read-only mapping."""
        self._on_gpu = None
        if self._mapped is not None:
            self._index, self._mapped = index_file.read(self._mapped, mapped=False), None

    def _adapt(self) -> None:
        """Switch to lists if there are too many descriptors for exact search, and to more lists if these grow long."""
        outgrown = len(self) > GROWTH_BEFORE_TRAINING * self._trained_on
        if len(self) > self._settings.exact_up_to and (self.is_exact or outgrown):
            ids = self.ids()
            self._index = _listed(ids, _reconstructed(self._index, ids), self.dim)
            self._trained_on = len(self)


def gpu_is_there() -> bool:
    """Whether FAISS was built for GPUs and finds one."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _matches(similarities: NDArray[np.float32], ids: Ids) -> Matches:
    return Matches(ids, np.where(ids == NOTHING, -np.inf, similarities).astype(np.float32))


def _listed(ids: Ids, vectors: Descriptors, dim: int) -> Any:
    """An inverted file with a byte per value."""
    count = max(1, min(int(LISTS_PER_ROOT * np.sqrt(len(vectors))), len(vectors) // SMALLEST_PER_LIST))
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, count, faiss.ScalarQuantizer.QT_8bit, metric)
    index.cp.seed, index.cp.niter = SEED, TRAINING_ROUNDS
    index.cp.max_points_per_centroid = TRAINING_PER_LIST
    chosen = np.random.default_rng(SEED).permutation(len(vectors))[: TRAINING_PER_LIST * count]
    index.train(vectors[np.sort(chosen)])
    index.add_with_ids(vectors, ids)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)
    return index


def _reconstructed(index: Any, ids: Ids) -> Descriptors:
    return np.asarray(index.reconstruct_batch(ids), dtype=np.float32)


def _stored_ids(index: Any) -> Ids:
    if isinstance(index, faiss.IndexIDMap2):
        return np.asarray(faiss.vector_to_array(index.id_map), dtype=np.int64)
    lists = index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    parts = [faiss.rev_swig_ptr(lists.get_ids(number), size).copy() for number, size in enumerate(sizes) if size]
    return np.concatenate([np.zeros(0, np.int64), *parts])


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run FAISS with ``count`` threads; None for no change. With two threads, a single query would wait for both to
    wake up.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
