"""``recon bench scaling`` and ``recon bench index``."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.lab.benchmark import scaling
from tests.cli.conftest import Recon


def test_scaling_writes_numbers_table_and_plot(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scaling.SIZES, "compact", (56, 56))
    outcome = recon(
        "bench", "scaling", "--out", tmp_path / "out", "--frames", "2,4", "--chunk", 2, "--repeats", 1,
        "--methods", "dense,our stream", "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scaling.json", "scaling.md", "scaling.png"}
    assert "| frames | dense | our stream |" in outcome.out


def test_wrong_numbers_are_refused(recon: Recon, tmp_path: Path) -> None:
    for given, sentence in (("a,b", "got a,b"), ("0,4", "numbers of at least 1")):
        outcome = recon("bench", "scaling", "--out", tmp_path, "--frames", given)
        assert outcome.code == 2
        assert sentence in outcome.err
    outcome = recon("bench", "scaling", "--out", tmp_path, "--methods", "dense,sparse")
    assert outcome.code == 2
    assert "got sparse" in outcome.err


def test_index_benchmark_writes_numbers_and_a_table(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("bench", "index", "--out", tmp_path / "out", "--counts", "100,300", "--dim", 16, "--queries", 10)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.json", "index.md"}
    assert "| 300 | exact |" in outcome.out
    assert recon("bench", "index", "--out", tmp_path, "--counts", "a").code == 2
