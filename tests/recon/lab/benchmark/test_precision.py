"""The benchmark of precisions: what it measures, and the weights that it draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recon.core.errors import SettingsError
from recon.lab.benchmark import precision as benchmark
from recon.lab.benchmark.precision import FORMS, PrecisionSettings, draw_weights, measure_case, read_sizes
from recon.network.checkpoints import identify, read_checkpoint
from recon.network.config import DescriptorsV1, NetworkConfig
from tests.network_support import SMALL


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    draw_weights(tmp_path / "drawn.safetensors", SMALL, seed=0)
    return tmp_path / "drawn.safetensors"


def test_drawn_weights_are_a_file_that_a_run_takes(drawn: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(drawn)
    assert identify(checkpoint) == (SMALL, DescriptorsV1())
    weight = checkpoint.tensors["aggregator.frame_blocks.0.mlp.fc1.weight"]
    assert weight.std() * weight.shape[1] ** 0.5 == pytest.approx(1, abs=0.05)
    assert checkpoint.tensors["depth_head.norm.weight"].mean() == pytest.approx(1, abs=0.05)
    assert checkpoint.parameters == draw_weights(tmp_path / "again.safetensors", SMALL, seed=0)
    again = read_checkpoint(tmp_path / "again.safetensors").tensors
    assert all(torch.equal(x, again[name]) for name, x in checkpoint.tensors.items())


def test_every_form_is_measured_and_written(drawn: Path, tmp_path: Path) -> None:
    settings = PrecisionSettings("compact", ((70, 56),), frames=4, chunk=2)
    cases = tuple(measure_case(settings, drawn, form, (70, 56), torch.get_num_threads()) for form in FORMS)
    held = [case.held for case in cases]
    assert sorted(held, reverse=True) == held[:3] + held[3:]
    for case in cases:
        assert len(case.chunk_seconds) == 2
        assert min(case.chunk_seconds) > 0
        assert case.peak_bytes > case.held
    found = benchmark.Precisions(settings, "CPU", 1, "2", "abc", 10**6, cases)
    benchmark.write_results(found, tmp_path)
    content = json.loads((tmp_path / "precision.json").read_text())
    assert [case["form"] for case in content["cases"]] == list(FORMS)
    lines = (tmp_path / "precision.md").read_text().splitlines()
    assert [line.split(" | ")[1] for line in lines[4:]] == list(FORMS)
    assert "70x56: " in benchmark.describe(cases[0], 2)


def test_an_interrupted_benchmark_leaves_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, config: NetworkConfig, seed: int) -> int:
        path.write_bytes(b"half of the weights")
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "draw_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(benchmark.measure(PrecisionSettings("compact"), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_case_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    settings = PrecisionSettings("compact", ((70, 56),), ("bfloat16",), frames=1, chunk=1)
    (found,) = benchmark.measure(settings, tmp_path)
    assert [case.form for case in found.cases] == ["bfloat16"] and list(tmp_path.iterdir()) == []


def test_sizes() -> None:
    assert read_sizes("210x154,518x392") == ((210, 154), (518, 392))
    for text in ("210", "210x154x3", "a x b"):
        with pytest.raises(SettingsError, match="--sizes takes sizes such as 210x154"):
            read_sizes(text)
    with pytest.raises(SettingsError, match="at least 1"):
        PrecisionSettings(chunk=0)


@pytest.mark.parametrize("sizes", ["100x100", "0x14", "-14x14"])
def test_sizes_are_multiples_of_a_patch(sizes: str) -> None:
    with pytest.raises(SettingsError, match="multiples of 14 pixels"):
        read_sizes(sizes)
