"""Both engines of the place store: the same answers, whole maps, several writers, and kills."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError, OutputError
from retrieval.describer import Descriptors, normalised
from retrieval.fleet import lance_places
from retrieval.fleet.place_store import Engine, Place, PlaceStore, open_store

DIM, FRAMES = 16, 30
WRITER = """
import sys, numpy as np
from pathlib import Path
from retrieval.fleet.place_store import open_store
folder, engine, prefix, count = sys.argv[1:]
store = open_store(Path(folder), "test", 16, engine)
for number in range(int(count)):
    store.add(f"{prefix}{number}", range(2000), np.ones((2000, 16), np.float32) / 4)
    print(number, flush=True)
"""


def vectors(seed: int, count: int = FRAMES) -> Descriptors:
    return normalised(np.random.default_rng(seed).normal(size=(count, DIM)))


@pytest.fixture(params=["embedded", "lance"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[PlaceStore]:
    """Maps a, b and c, the last of them newer than the index, and what is left of d and of an older b."""
    opened = open_store(tmp_path, "test", DIM, engine)
    for seed, name in enumerate("abd"):
        opened.add(name, range(FRAMES), vectors(seed))
    opened.build_index()
    opened.delete("d")
    opened.add("b", range(100, 100 + FRAMES), vectors(7))
    opened.add("c", range(FRAMES), vectors(8))
    yield opened
    opened.close()


def true_places(query: Descriptors, names: dict[str, tuple[int, int]], k: int) -> list[tuple[str, int]]:
    every = [
        (float(vector @ query), name, first + row)
        for name, (seed, first) in names.items()
        for row, vector in enumerate(vectors(seed))
    ]
    return [(name, frame) for _, name, frame in sorted(every, reverse=True)[:k]]


def found_places(places: list[Place]) -> list[tuple[str, int]]:
    return [(place.map, place.frame) for place in places]


def test_searches_are_exact_before_and_after_indexing(store: PlaceStore, engine: Engine, tmp_path: Path) -> None:
    names = {"a": (0, 0), "b": (7, 100), "c": (8, 0)}
    again = open_store(tmp_path, "test", DIM)  # which finds out what made the store
    for query in vectors(20, 5):
        for opened in (store, again):
            found = opened.search(query, 7)
            assert found_places(found) == true_places(query, names, 7)
            similarities = [place.similarity for place in found]
            assert similarities == sorted(similarities, reverse=True)
            seed, first = names[found[0].map]
            assert found[0].similarity == pytest.approx(float(vectors(seed)[found[0].frame - first] @ query), abs=1e-5)
            without_b = {name: names[name] for name in "ac"}
            assert found_places(opened.search(query, 40, without=["b", "x"])) == true_places(query, without_b, 40)
            only_c = found_places(opened.search(query, 7, only=["c", "x"]))
            assert only_c == true_places(query, {"c": (8, 0)}, 7)
            assert opened.search(query, 7, only=["c"], without=["c"]) == []
    store.build_index()
    for query in vectors(21, 5):
        assert found_places(again.search(query, 7)) == true_places(query, names, 7)
    again.close()


def test_maps_are_read_replaced_and_forgotten(store: PlaceStore) -> None:
    assert store.maps() == {"a": FRAMES, "b": FRAMES, "c": FRAMES}
    frames, read = store.read("b")
    assert frames.tolist() == list(range(100, 100 + FRAMES))
    np.testing.assert_array_equal(read, vectors(7))
    store.add("it's", [5, 3], vectors(9, 2))
    frames, read = store.read("it's")
    assert frames.tolist() == [3, 5]
    np.testing.assert_array_equal(read, vectors(9, 2)[::-1])
    store.delete("it's")
    store.delete("unknown")
    assert store.maps() == {"a": FRAMES, "b": FRAMES, "c": FRAMES}
    with pytest.raises(MapError, match="no map it's"):
        store.read("it's")
    with pytest.raises(ValueError, match="shape"):
        store.add("e", [1], vectors(0, 2))
    with pytest.raises(ValueError, match="one descriptor"):
        store.add("e", [1, 1], vectors(0, 2))


def test_a_store_of_another_describer_is_refused(store: PlaceStore, tmp_path: Path) -> None:
    with pytest.raises(MapError, match="descriptors of test, this search needs those of other"):
        open_store(tmp_path, "other", DIM)


def test_an_index_that_is_damaged_is_not_needed(tmp_path: Path) -> None:
    store = open_store(tmp_path, "test", DIM)
    store.add("a", range(FRAMES), vectors(0))
    store.build_index()
    next(tmp_path.glob("*.faiss")).write_bytes(b"nothing")
    again = open_store(tmp_path, "test", DIM)
    assert found_places(again.search(vectors(0)[3], 1)) == [("a", 3)]
    again.build_index()
    assert found_places(again.search(vectors(0)[3], 1)) == [("a", 3)]
    (tmp_path / "places.db").write_bytes(b"nothing" * 1000)
    with pytest.raises(MapError, match=r"places.db is damaged"):
        open_store(tmp_path, "test", DIM)


def writer(folder: Path, engine: Engine, prefix: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), engine, prefix, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_writers_side_by_side_and_a_kill_lose_nothing(engine: Engine, tmp_path: Path) -> None:
    """Two writers add maps; one of them is killed amid its work."""
    steady, killed = writer(tmp_path, engine, "s", 8), writer(tmp_path, engine, "k", 1000)
    assert killed.stdout
    done = [int(killed.stdout.readline()) for _ in range(3)][-1]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    steady.communicate()
    assert steady.returncode == 0
    store = open_store(tmp_path, "test", DIM)
    found = store.maps()
    assert set(found.values()) == {2000}
    assert found.keys() >= {f"s{number}" for number in range(8)} | {f"k{number}" for number in range(done + 1)}
    assert len(found) <= 8 + done + 1 + 100
    store.close()


def test_conflicts_are_tried_again_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = lance_places.LancePlaces(tmp_path, "test", DIM)
    waits: list[float] = []
    monkeypatch.setattr(lance_places.time, "sleep", waits.append)
    outcomes = iter([RuntimeError("Retryable commit conflict for version 3"), None])

    def change() -> int:
        if error := next(outcomes):
            raise error
        return 5

    assert store._retried(change) == 5
    assert len(waits) == 1

    def conflict() -> int:
        raise RuntimeError("Too many concurrent writers: commit conflict")

    with pytest.raises(OutputError, match="too many writers: 8 tries"):
        store._retried(conflict)
    assert len(waits) == 1 + lance_places.TRIES - 1
