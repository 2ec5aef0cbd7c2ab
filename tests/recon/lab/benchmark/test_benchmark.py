"""Both programs on six small frames, and results that miss requirements or fail."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recon.core.errors import SettingsError
from recon.core.similarity import Sim3
from recon.evaluate.depth import CloudEvaluation, DepthEvaluation
from recon.lab.benchmark import programs
from recon.lab.benchmark.measure import Findings, PathError, RunResult, SetResult, measure_set, shortfalls
from recon.lab.benchmark.programs import run_measured
from recon.lab.benchmark.ring import Ring
from recon.lab.benchmark.sets import SETS, BenchmarkSet, Requirement, chosen_sets
from recon.lab.benchmark.tables import BenchmarkResult, circumstances, to_markdown, write_results
from tests.support import half_size_sample

TINY = BenchmarkSet("tiny", Path("tiny"), Requirement(of_path=0.02, cloud=0.02), depth=True)
FRAMES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the first frames of the sample at half size, and one with files that are not images."""
    folder = tmp_path_factory.mktemp("data")
    half_size_sample(folder / "tiny", FRAMES)
    (folder / "broken" / "images").mkdir(parents=True)
    (folder / "broken" / "images" / "a.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> SetResult:
    return measure_set(TINY, data, tmp_path_factory.mktemp("out"), tell=lambda _: None)


def test_both_programs_are_measured_against_the_reference(measured: SetResult) -> None:
    assert measured.frames == FRAMES
    for (run,) in (measured.pipeline, measured.colmap):
        assert run.failure is None
        assert run.findings.posed >= 5
        assert run.findings.path.ate < 0.02  # metres
        assert 0.5 < run.seconds < 120
        assert 50e6 < run.peak_bytes < 4e9
    found = measured.pipeline[0].findings
    assert found.depth.frames == 1
    assert found.depth.median_error < 0.05
    assert found.cloud.share < 0.02


def test_results_contain_what_is_needed_to_compare_them(measured: SetResult, tmp_path: Path) -> None:
    result = BenchmarkResult(circumstances(), 1, (measured,))
    write_results(result, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["version"] == 2
    assert set(content["circumstances"]) == {"date", "commit", "device", "processors", "load", "versions"}
    (run,) = content["sets"][0]["colmap"]
    assert run["findings"]["models"] == list(measured.colmap[0].findings.models)
    assert run["seconds"] > 0
    assert run["processor_seconds"] > 0
    table = (tmp_path / "results.md").read_text().splitlines()
    (ours,) = measured.pipeline
    assert table[2].startswith(f"| tiny | {ours.processor_seconds:.0f} | {ours.findings.posed} of 6 |")
    assert table[3].startswith("| plain COLMAP | ")
    assert len({row.count("|") for row in table[:4]}) == 1
    assert result.circumstances.commit in table[-1]


def test_a_program_that_fails_is_a_result(data: Path, tmp_path: Path) -> None:
    broken = BenchmarkSet("broken", Path("broken"), Requirement())
    result = measure_set(broken, data, tmp_path, tell=lambda _: None)
    assert "The image cannot be opened" in result.pipeline[0].failure
    assert result.shortfalls == (result.pipeline[0].failure,)
    assert "| failed: exit code 2: recon: The image cannot be opened" in to_markdown(
        BenchmarkResult(circumstances(), 1, (result,))
    )


def test_time_and_memory_are_those_of_the_process(tmp_path: Path) -> None:
    # Memory held for less than a sampling interval may go unseen, so this program holds it for longer.
    work = "held = b'x' * 300_000_000; time.sleep(1)\nwhile time.process_time() < 0.5: pass"
    process = run_measured(("-c", f"import time; {work}; print('done')".replace("pass; ", "pass\n")), tmp_path / "a")
    assert 1 < process.seconds < 20
    assert 0.5 <= process.processor_seconds < 2
    assert 300e6 < process.peak_bytes < 400e6
    assert process.failure is None
    assert (tmp_path / "a.log").read_text() == "done\n"
    assert run_measured(("-c", "raise SystemExit('broke')"), tmp_path / "b").failure == "exit code 1: broke"


def test_measuring_takes_no_time_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(process: int) -> int:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        return process

    monkeypatch.setattr(programs, "_memory_with_workers", busy)
    assert run_measured(("-c", "import time; time.sleep(0.5)"), tmp_path / "a").processor_seconds < 0.4


PATH = PathError(0.05, 0.01, 0.002, Sim3.identity())
GOOD = Findings((10,), PATH, DepthEvaluation(3, 0.02, 0.01, 0.6), CloudEvaluation(9, 0.01, 2.0), Ring((0, 1), (30.0,)))


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        (Requirement(), None),
        (Requirement(ate=0.05, of_extent=0.01, of_path=0.002, depth_error=0.02, depth_kept=0.6, cloud=0.005), None),
        (Requirement(ate=0.04), "ATE 0.05, at most 0.04 expected"),
        (Requirement(of_extent=0.009), "ATE / extent 1.00%, at most 0.90% expected"),
        (Requirement(of_path=0.001), "ATE / path 0.20%, at most 0.10% expected"),
        (Requirement(depth_error=0.01), "depth error 2.00%, at most 1.00% expected"),
        (Requirement(depth_kept=0.7), "depth kept 60.00%, at least 70% expected"),
        (Requirement(cloud=0.004), "cloud to surface 0.50%, at most 0.40% expected"),
        (Requirement(ring=True), "the cameras do not go once around, steadily"),
    ],
)
def test_missed_requirements_are_named(requirement: Requirement, sentence: str | None) -> None:
    found = list(shortfalls(requirement, 10, RunResult(1.0, 2.0, 1, GOOD, None)))
    assert found == ([sentence] if sentence else [])


def test_unmeasured_figures_miss_their_requirement() -> None:
    every = Requirement(ate=1, of_extent=1, of_path=1, depth_error=1, depth_kept=0.1, cloud=1, ring=True)
    assert len(list(shortfalls(every, 10, RunResult(1.0, 2.0, 1, Findings((9,)), None)))) == 8
    assert list(shortfalls(every, 10, RunResult(1.0, 2.0, 1, None, "exit code 2: no"))) == ["exit code 2: no"]


def test_pieces_kept_apart_keep_the_ring_and_folded_ones_do_not() -> None:
    ring = Requirement(posed=None, ring=True)
    apart = replace(GOOD, models=(2,), ring=Ring((0, 1, 2), (6.0, 6.0)))
    folded = replace(GOOD, models=(2,), ring=Ring((0, 1, 2), (6.0, 106.0)))
    assert not list(shortfalls(ring, 10, RunResult(1.0, 2.0, 1, apart, None)))
    assert list(shortfalls(ring, 10, RunResult(1.0, 2.0, 1, folded, None)))


def test_several_runs_give_medians_with_their_range() -> None:
    runs = tuple(RunResult(seconds, 2 * seconds, 10**9, GOOD, None) for seconds in (10.0, 30.0, 20.0))
    table = to_markdown(BenchmarkResult(circumstances(), 3, (SetResult("a", 10, 2, runs, runs, ()),)))
    assert "| a, every 2nd frame | 40 (20 to 60) | 10 of 10; turns by 30 degrees in all" in table
    assert "| 20 (10 to 30) | 1.0 GB (1.0 GB to 1.0 GB) | yes |" in table
    assert "Medians of 3 runs" in table


def test_sets_are_chosen_by_name() -> None:
    assert chosen_sets(None) == SETS
    assert [member.name for member in chosen_sets("sceaux, fox,fox")] == ["sceaux", "fox"]
    with pytest.raises(SettingsError, match=r"no set cup\. Sets: sample, seven-scenes"):
        chosen_sets("fox,cup")


def test_every_set_has_the_files_that_it_names(real_data: Path) -> None:
    for member in SETS:
        folder = real_data / member.folder
        assert (folder / member.source).exists()
        assert member.reference is None or (folder / member.reference).is_file()
        assert not member.depth or ((folder / "depth").is_dir() and (folder / "intrinsics.txt").is_file())
