"""The network, compared with stored outputs of the public code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon.core.errors import SourceError
from recon.lab.reference.comparison import compare
from recon.lab.reference.suites import compare_case, find_cases, verify

MANIFESTS = {"vggt-1b", "flashvggt", "flashvggt_stream"}


def test_every_case_is_reproduced(reference_folder: Path) -> None:
    comparisons = list(verify(reference_folder))
    assert [f"{c.case} {c.output}: {c.error:.2e} > {c.bound:.2e} {c.reason}" for c in comparisons if not c.ok] == []
    covered = {comparison.case.split("/")[0] for comparison in comparisons}
    suites = {"conv", "dinov2", "track", "small_variance", "geometry", "preprocess", "manifests"}
    assert suites <= covered
    assert {c.output for c in comparisons if c.case == "manifests"} >= MANIFESTS


def test_every_output_of_a_config_is_compared(reference_folder: Path) -> None:
    for case in find_cases(reference_folder):
        if (case / "inputs.safetensors").exists() and case.parent != reference_folder:
            stored = load_file(case / "outputs.safetensors").keys()
            assert stored <= {comparison.output for comparison in compare_case(case)}
            return
    pytest.fail("no run was found")


def test_a_changed_weight_is_seen(reference_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(reference_folder / "conv" / "flash_v1_df2_anchor", tmp_path / "conv" / "run")
    weights = load_file(reference_folder / "conv" / "weights.safetensors")
    weights["aggregator.global_blocks.2.attn.k_norm.bias"] += 1e-2
    save_file(weights, tmp_path / "conv" / "weights.safetensors")
    failed = {comparison.output for comparison in verify(tmp_path) if not comparison.ok}
    assert "tokens_2" in failed
    assert "tokens_1" not in failed


def test_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"suite/config\.json"):
        list(verify(tmp_path))


def test_outputs_that_are_missing_or_not_finite_fail() -> None:
    one = torch.ones(2)
    assert compare("case", "x", one, one, 0.0).ok
    assert not compare("case", "x", None, one, 1.0).ok
    assert not compare("case", "x", torch.ones(3), one, 1.0).ok
    assert not compare("case", "x", torch.tensor([1.0, float("nan")]), one, 1.0).ok
