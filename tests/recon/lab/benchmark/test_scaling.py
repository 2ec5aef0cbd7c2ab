"""The scaling benchmark: its output, and its reports of failures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from recon.core.errors import SettingsError
from recon.lab.benchmark import scaling as benchmark
from recon.lab.benchmark.scaling import METHODS, ScalingSettings, describe, measure, table, write_results
from recon.network.model import GeometryNetwork

CPU = torch.device("cpu")
QUICK = ScalingSettings(frames=(2, 6), chunk=1, memory_frames=2, repeats=1)


def last(results: Iterator[benchmark.Scaling]) -> benchmark.Scaling:
    *_, final = results
    return final


@pytest.fixture(scope="module", autouse=True)
def _smaller_images() -> object:
    sizes = dict(benchmark.SIZES)
    benchmark.SIZES["compact"] = (56, 56)
    yield
    benchmark.SIZES.update(sizes)


@pytest.fixture(scope="module")
def measured() -> benchmark.Scaling:
    return last(measure(QUICK, CPU))


def test_every_method_is_measured(measured: benchmark.Scaling) -> None:
    assert {(case.method, case.frames) for case in measured.cases} == {(m, n) for m in METHODS for n in (2, 6)}
    for case in measured.cases:
        assert 0 < case.fastest <= case.seconds <= case.slowest
        assert len(case.chunk_seconds) == (case.frames if "stream" in case.method else 0)
        assert case.runs == 1


def test_results_state_their_origin(measured: benchmark.Scaling, tmp_path: Path) -> None:
    write_results(measured, tmp_path)
    content = json.loads((tmp_path / "scaling.json").read_text())
    assert content["version"] == 1
    assert content["settings"]["seed"] == 0
    assert content["settings"]["frames"] == [2, 6]
    assert {"device", "threads", "backend", "torch", "commit"} <= content.keys()
    assert set(content["cases"][0]) == set(benchmark.Case.__dataclass_fields__)


def test_table_has_a_row_per_number_of_frames_and_the_flatness(measured: benchmark.Scaling) -> None:
    lines = table(measured).splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["frames", "2", "6"]
    assert all("100.0%" in line for line in lines if line.startswith(("| 2", "| 6")))
    assert [line for line in lines if line.startswith("- our stream, 6 frames: last chunk")]


def test_table_and_plot_are_files(measured: benchmark.Scaling, tmp_path: Path) -> None:
    write_results(measured, tmp_path)
    assert (tmp_path / "scaling.md").read_text() == table(measured)
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.size == (720, 480)


def test_a_case_without_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    aggregate = GeometryNetwork.aggregate

    def short(self: GeometryNetwork, images: torch.Tensor, *rest: object, **named: object) -> object:
        if images.shape[1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return aggregate(self, images, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(GeometryNetwork, "aggregate", short)
    settings = ScalingSettings(frames=(2, 3), methods=("dense",), repeats=1, clock="processor")
    measured = last(measure(settings, CPU))
    assert describe(measured.cases[1]) == "dense, 3 frames: out of memory"
    assert "| 3 | out of memory |" in table(measured)
    assert measured.case("dense", 3) is None


def test_other_faults_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("broken")

    monkeypatch.setattr(GeometryNetwork, "aggregate", broken)
    with pytest.raises(RuntimeError, match="broken"):
        last(measure(ScalingSettings(frames=(1,), methods=("dense",)), CPU))


def test_results_are_known_after_every_case_and_dense_comes_last(tmp_path: Path) -> None:
    results = measure(ScalingSettings(frames=(1, 2), methods=("dense", "our stream"), chunk=1, repeats=1), CPU)
    write_results(next(results), tmp_path)
    assert re.search(r"\| 1 \|  \| \d+\.", (tmp_path / "scaling.md").read_text())
    assert [(case.method, case.frames) for case in last(results).cases] == [
        ("our stream", 1), ("dense", 1), ("our stream", 2), ("dense", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"frames": (0,)}, {"chunk": 0}, {"repeats": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="numbers of at least 1"):
        ScalingSettings(**wrong)  # type: ignore[arg-type]


def test_random_weights_do_not_touch_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, second = (benchmark.random_network(QUICK, CPU).state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
