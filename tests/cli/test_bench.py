"""``recon bench real`` on the terminal; tests/recon/lab/benchmark tests the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recon.lab.benchmark.measure import Findings, RunResult, SetResult
from recon.lab.benchmark.sets import BenchmarkSet
from tests.cli.conftest import Recon

GOOD = RunResult(12.0, 20.0, 10**9, Findings((10,)), None)
BAD = RunResult(1.0, 2.0, 10**8, None, "exit code 2: recon: no")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, int]]:
    """Sets that the command measured; fox misses a requirement, all others pass."""
    calls: list[tuple[str, Path, int]] = []

    def measure(member: BenchmarkSet, data: Path, out: Path, repeat: int, tell: Callable[[str], None]) -> SetResult:
        calls.append((member.name, data, repeat))
        tell(f"{member.name}: recon run")
        bad = member.name == "fox"
        return SetResult(
            member.name, 10, 1, (BAD if bad else GOOD,), (GOOD,), ("exit code 2: recon: no",) if bad else ()
        )

    monkeypatch.setattr("recon.lab.benchmark.measure.measure_set", measure)
    return calls


def test_the_table_is_printed_and_written(recon: Recon, tmp_path: Path, measured: list[tuple[str, Path, int]]) -> None:
    outcome = recon("bench", "real", tmp_path, "--sets", "sceaux,kitti03", "--out", tmp_path / "out", "--repeat", 2)
    assert outcome.code == 0
    assert measured == [("sceaux", tmp_path, 2), ("kitti03", tmp_path, 2)]
    assert outcome.err == "sceaux: recon run\nkitti03: recon run\n"
    assert "| sceaux | 20 | 10 of 10 |" in outcome.out
    assert (tmp_path / "out" / "results.md").read_text().strip() in outcome.out
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["sets"]) == 2


@pytest.mark.usefixtures("measured")
def test_a_set_that_misses_a_requirement_is_shown_and_exits_with_1(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("bench", "real", tmp_path, "--sets", "fox,sceaux", "--out", tmp_path / "out")
    assert outcome.code == 1
    assert "| no: exit code 2: recon: no |" in outcome.out
    assert "| sceaux | 20 | 10 of 10 |" in outcome.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sets", "cup"), "there is no set cup"),
        (("--sets", "fox"), "fox/images does not exist"),
        (("--sets", "fox", "--out", "file/out"), "Cannot create"),
    ],
)
def test_wrong_arguments_are_reported_in_a_sentence(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = recon("bench", "real", tmp_path, *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
