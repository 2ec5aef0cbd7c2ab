"""The check of a device: what it compares on the CPU, and that it sees a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor

from cli.lab import check_device
from recon.lab.benchmark.agreement import Agreement, agreements
from recon.network import layers
from recon.network.attention import plain_attention

CPU = torch.device("cpu")


def test_every_way_agrees_on_the_cpu(tmp_path: Path) -> None:
    found = list(agreements(CPU, tmp_path))
    assert [one.way for one in found] == [
        "xformers",
        "torch, float32",
        "torch, blocks in bfloat16",
        "plain, float32",
        "plain, blocks in bfloat16",
        "weights in float32 layer by layer",
        "weights in bfloat16",
        "weights in int8",
    ]
    assert all(one.ok for one in found)
    assert found[0].refused.startswith("xformers has kernels for CUDA only")
    by_way = {one.way: one for one in found}
    assert by_way["plain, float32"].depth == 0
    assert 0 < by_way["weights in bfloat16"].depth < by_way["weights in int8"].depth
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_kernel_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def attend(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
        return plain_attention(query * (1.02 if backend == "torch" else 1), key, value)

    monkeypatch.setattr(layers, "attend", attend)
    with pytest.raises(typer.Exit) as ended:
        check_device(device="cpu")
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert "FAILED    torch, float32: depth" in said
    assert "ok        plain, float32: depth 0.0e+00 of 0.0001" in said


def test_each_error_counts() -> None:
    assert Agreement("x", 1e-4, 0.05).ok
    assert not Agreement("x", 2e-4, 0.0).ok
    assert not Agreement("x", 0.0, 0.06).ok
    assert not Agreement("x", float("nan"), 0.0).ok
