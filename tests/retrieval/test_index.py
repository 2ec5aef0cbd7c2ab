"""The place index, compared with exhaustive search in NumPy, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.core.errors import MapError, OutputError
from retrieval.describer import Descriptors, normalised
from retrieval.index import GPU_QUERIES, IndexSettings, PlaceIndex

DIM = 16
LISTED = IndexSettings(exact_up_to=500, probed=0.25)


def clustered(count: int, seed: int, dim: int = DIM) -> Descriptors:
    """Unit vectors around a few centres, as descriptors of places are, with near ties among neighbours."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    return normalised(centres[rng.integers(20, size=count)] + 0.4 * rng.normal(size=(count, dim)))


def exhaustive(stored: dict[int, np.ndarray], query: np.ndarray, k: int, skip: range) -> list[float]:
    """Similarities of the best k by plain search."""
    allowed = [float(vector @ query) for key, vector in stored.items() if key not in skip]
    return sorted(allowed, reverse=True)[:k]


def recall_at_10(index: PlaceIndex, vectors: Descriptors, queries: Descriptors) -> float:
    truth = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    found = index.search(queries, 10).ids
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth.tolist(), found.tolist(), strict=True)]))


@given(
    count=st.integers(1, 60),
    removed=st.integers(0, 59),
    k=st.integers(1, 12),
    start=st.integers(0, 200),
    length=st.integers(0, 80),
    seed=st.integers(0, 99),
)
def test_search_equals_the_exhaustive_one(count: int, removed: int, k: int, start: int, length: int, seed: int) -> None:
    vectors, skip = clustered(count, seed), range(start, start + length)
    ids = (3 * np.random.default_rng(seed).permutation(count)).tolist()
    index = PlaceIndex("test", DIM)
    index.add(ids, vectors)
    gone = ids[: min(removed, count - 1)]
    index.remove(gone)
    stored = {key: vector for key, vector in zip(ids, vectors, strict=True) if key not in gone}
    matches = index.search(vectors[:3], k, skip=skip)
    for query, found, similarities in zip(vectors[:3], matches.ids, matches.similarities, strict=True):
        expected = exhaustive(stored, query, k, skip)
        real = found >= 0
        # Equal similarities may come in either order, so similarities are compared, not ids.
        assert np.allclose(similarities[real], expected, atol=1e-5)
        assert (similarities[~real] == -np.inf).all()
        assert not set(found[real].tolist()) & (set(skip) | set(gone))
        assert np.allclose([stored[key] @ query for key in found[real]], similarities[real], atol=1e-5)


def test_recent_neighbours_are_skipped_and_nothing_else() -> None:
    walk = normalised(np.repeat(clustered(10, 1), 5, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(50, DIM)))
    index = PlaceIndex("test", DIM)
    index.add(range(50), walk)
    assert set(index.search(walk[49:], 5).ids[0].tolist()) == set(range(45, 50))
    skipped = index.search(walk[49:], 50, skip=range(40, 1000)).ids[0]
    assert sorted(skipped[skipped >= 0].tolist()) == list(range(40))


def test_many_descriptors_are_searched_in_lists() -> None:
    vectors = clustered(3000, 2)
    index = PlaceIndex("test", DIM, LISTED)
    index.add(range(0, 400), vectors[:400])
    assert index.is_exact
    index.add(range(400, 3000), vectors[400:])
    assert not index.is_exact
    assert len(index) == 3000
    queries = clustered(40, 3)
    assert recall_at_10(index, vectors, queries) > 0.9
    index.remove(range(100))
    found = index.search(vectors[:1], 20, skip=range(100, 1000)).ids[0]
    assert (found >= 1000).all()


def test_lists_are_rebuilt_when_they_grow_too_long() -> None:
    index = PlaceIndex("test", DIM, LISTED)
    vectors = clustered(4000, 2)
    index.add(range(600), vectors[:600])
    few = index._index.nlist
    index.add(range(600, 4000), vectors[600:])
    assert index._index.nlist > few
    assert recall_at_10(index, vectors, clustered(20, 3)) > 0.9


def test_same_input_gives_the_same_lists() -> None:
    vectors = clustered(1000, 4)
    both = []
    for _ in range(2):
        index = PlaceIndex("test", DIM, LISTED)
        index.add(range(1000), vectors)
        both.append(index.search(vectors[:30], 10))
    assert (both[0].ids == both[1].ids).all()
    assert (both[0].similarities == both[1].similarities).all()


def test_the_thread_count_is_restored() -> None:
    before = faiss.omp_get_max_threads()
    index = PlaceIndex("test", DIM)
    index.add([0], clustered(1, 0))
    index.search(clustered(1, 0), 1)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("settings", [None, LISTED])
def test_saved_index_finds_the_same(tmp_path: Path, settings: IndexSettings | None) -> None:
    vectors = clustered(1200, 5)
    index = PlaceIndex("test", DIM, settings)
    index.add(range(0, 2400, 2), vectors)
    index.save(tmp_path)
    loaded = PlaceIndex.load(tmp_path, "test", DIM, settings)
    assert len(loaded) == 1200
    assert 2 in loaded
    assert 1 not in loaded
    before, after = index.search(vectors[:20], 5), loaded.search(vectors[:20], 5)
    assert (before.ids == after.ids).all()
    assert np.array_equal(before.similarities, after.similarities)
    loaded.remove([0])  # a mapped file cannot be written to; the index moves into memory
    loaded.add([1], vectors[:1])
    assert loaded.search(vectors[:1], 1).ids[0, 0] == 1
    assert index_files(tmp_path) == 1
    assert PlaceIndex.load(tmp_path, "test", DIM, settings).search(vectors[:1], 1).ids[0, 0] == 0


def index_files(folder: Path) -> int:
    return len(list(folder.glob("*.faiss")))


def test_saving_again_replaces_the_old_file(tmp_path: Path) -> None:
    index = PlaceIndex("test", DIM)
    index.add([1], clustered(1, 0))
    index.save(tmp_path)
    index.add([2], clustered(1, 1))
    index.save(tmp_path)
    assert index_files(tmp_path) == 1
    assert len(PlaceIndex.load(tmp_path, "test", DIM)) == 2


def test_interrupted_save_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = PlaceIndex("test", DIM)
    index.add([1], clustered(1, 0))
    index.save(tmp_path)
    index.add([2], clustered(1, 1))

    def full(*_: object) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(OutputError, match="No space left"):
        index.save(tmp_path)
    assert len(PlaceIndex.load(tmp_path, "test", DIM)) == 1


def test_index_of_another_describer_or_length_or_metric_is_refused(tmp_path: Path) -> None:
    index = PlaceIndex("SIFT", DIM)
    index.add([1], clustered(1, 0))
    index.save(tmp_path)
    with pytest.raises(MapError, match="describer 'SIFT', this search needs 'ImAge'"):
        PlaceIndex.load(tmp_path, "ImAge", DIM)
    with pytest.raises(MapError, match="dim 16, this search needs 512"):
        PlaceIndex.load(tmp_path, "SIFT", 512)
    manifest = tmp_path / "places.json"
    # Distances grow as similarities fall: an index of distances must not pass for one of similarities.
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"metric": "L2"}))
    with pytest.raises(MapError, match="metric 'L2', this search needs 'inner product'"):
        PlaceIndex.load(tmp_path, "SIFT", DIM)


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "manifest", "list", "absent"])
def test_damaged_index_is_refused_with_its_path(tmp_path: Path, damage: str) -> None:
    index = PlaceIndex("test", DIM)
    index.add(range(50), clustered(50, 0))
    index.save(tmp_path)
    (path,) = tmp_path.glob("*.faiss")
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "changed":
        path.write_bytes(content[:500] + b"\x00" * 8 + content[508:])
    elif damage == "gone":
        path.unlink()
    else:
        (tmp_path / "places.json").write_text({"manifest": "{", "list": "[]", "absent": ""}[damage])
        if damage == "absent":
            (tmp_path / "places.json").unlink()
    with pytest.raises(MapError, match=str(tmp_path)) as caught:
        PlaceIndex.load(tmp_path, "test", DIM)
    assert "recon places build" in str(caught.value)


def test_ids_and_shapes_are_checked() -> None:
    index = PlaceIndex("test", DIM)
    index.add([7], clustered(1, 0))
    with pytest.raises(ValueError, match="7"):
        index.add([7], clustered(1, 1))
    with pytest.raises(ValueError, match="more than once"):
        index.add([8, 8], clustered(2, 1))
    with pytest.raises(ValueError, match="as many ids"):
        index.add([8], clustered(2, 1))
    with pytest.raises(ValueError, match=r"\(n, 16\)"):
        index.search(clustered(1, 0, dim=8), 1)
    with pytest.raises(ValueError, match="finite"):
        index.add([9], np.full((1, DIM), np.nan, dtype=np.float32))
    with pytest.raises(KeyError, match="9"):
        index.remove([9])
    assert len(index) == 1


@pytest.mark.parametrize("settings", [IndexSettings(), LISTED])
def test_many_queries_use_the_gpu_and_see_every_change(
    settings: IndexSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []

    def to_gpu(_: object, device: int, index: Any) -> Any:
        assert device == 0
        copies.append(faiss.clone_index(index))
        return copies[-1]

    vectors = clustered(600, 0)
    on_cpu, index = PlaceIndex("test", DIM, settings), PlaceIndex("test", DIM, settings)
    for one in (on_cpu, index):
        one.add(range(600), vectors)
    queries = vectors[:GPU_QUERIES]
    expected = on_cpu.search(queries, 5)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    assert np.array_equal(index.search(queries, 5).ids, expected.ids)
    index.search(queries, 5)
    assert len(copies) == 1
    index.search(queries[:1], 5)
    index.search(queries, 5, skip=range(100, 200))  # a GPU cannot skip
    assert len(copies) == 1
    index.remove([0])
    assert 0 not in index.search(queries, 5).ids
    assert len(copies) == 2
