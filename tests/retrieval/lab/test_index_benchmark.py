"""The index benchmark on numbers small enough to check by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import SettingsError
from retrieval.lab import index_benchmark
from retrieval.lab.index_benchmark import IndexBenchmark, made_up, made_up_queries, measure, table, write_results


def test_exact_search_finds_every_neighbour_and_takes_four_bytes_per_value(tmp_path: Path) -> None:
    settings = IndexBenchmark((400, 200), dim=32, queries=12, clock="processor")
    said: list[str] = []
    cases = measure(settings, said.append)
    assert said == ["200 descriptors", "400 descriptors"]
    assert [(case.count, case.exact, case.recall_at_10) for case in cases] == [(200, True, 1.0), (400, True, 1.0)]
    assert [case.together_agrees for case in cases] == [1.0, 1.0]
    assert cases[1].megabytes == pytest.approx(400 * (4 * 32 + 8) / 1e6, rel=0.05)
    assert all(case.build_seconds >= 0 and case.query_milliseconds >= 0 for case in cases)
    write_results(cases, settings, tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    assert content["data"].startswith("made up")
    assert content["cases"][1]["count"] == 400
    assert (tmp_path / "index.md").read_text() == table(cases)
    assert "| 400 | exact | " in table(cases)


def test_descriptors_lie_in_clusters_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_benchmark, "BATCH", 100)
    batches = list(made_up(250, 64))
    assert [(first, len(vectors)) for first, vectors in batches] == [(0, 100), (100, 100), (200, 50)]
    vectors = np.concatenate([rows for _, rows in batches])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0:20, 0:20].mean() > 0.6
    assert abs(similarity[0:20, 100:120].mean()) < 0.3
    queries = made_up_queries(250, 10, 64)
    assert ((queries @ vectors.T).argmax(axis=1) >= 200).all()


def test_too_small_numbers_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least 10"):
        IndexBenchmark(counts=(5,))
