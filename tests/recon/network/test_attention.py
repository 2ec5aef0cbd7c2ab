"""Every way of computing attention equals the plain formula."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recon.core.errors import SettingsError
from recon.network.attention import attend, choose_backend, plain_attention, refusal

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def triple(queries: int, keys: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(queries * keys + channels)
    query = torch.randn(2, 3, queries, channels, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 2, 3, keys, channels, generator=generator, dtype=torch.float64)
    return query.to(dtype), key.to(dtype), value.to(dtype)


@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from((8, 16, 64)))
def test_fused_kernel_equals_the_formula(queries: int, keys: int, channels: int) -> None:
    query, key, value = triple(queries, keys, channels, torch.float32)
    expected = plain_attention(query.double(), key.double(), value.double())
    fused = attend(query, key, value, "torch")
    torch.testing.assert_close(fused.double(), expected, rtol=0, atol=5e-6)  # float32 sums of at most 70 terms


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6), (torch.bfloat16, 3e-2)]
)
def test_plain_path_in_every_precision(dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = triple(9, 13, 16, dtype)
    expected = torch.softmax(query.double() @ key.double().mT / 4.0, dim=-1) @ value.double()
    torch.testing.assert_close(attend(query, key, value, "plain").double(), expected, rtol=0, atol=tolerance)


def test_formula_is_not_blind_to_its_keys() -> None:
    query, key, value = triple(4, 5, 8, torch.float64)
    assert (plain_attention(query, key, value) - plain_attention(query, -key, value)).abs().max() > 0.1


@pytest.fixture
def fake_xformers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """xformers with the plain formula as kernel, in its own layout (batch, tokens, heads, channels)."""
    operators = [SimpleNamespace(NAME="cutlassF", is_available=lambda: True)]
    fmha = ModuleType("xformers.ops.fmha")
    fmha.ALL_FW_OPS = operators  # type: ignore[attr-defined]
    ops = ModuleType("xformers.ops")
    ops.memory_efficient_attention = lambda q, k, v: plain_attention(  # type: ignore[attr-defined]
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    ).transpose(1, 2)
    for name, module in (("xformers", ModuleType("xformers")), ("xformers.ops", ops), ("xformers.ops.fmha", fmha)):
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(fmha=fmha)


def test_xformers_receives_its_layout(fake_xformers: SimpleNamespace) -> None:
    query, key, value = triple(5, 7, 8, torch.float64)
    torch.testing.assert_close(attend(query, key, value, "xformers"), plain_attention(query, key, value))


def test_xformers_is_chosen_where_its_cuda_extensions_load(fake_xformers: SimpleNamespace) -> None:
    assert choose_backend(CUDA) == "xformers"
    fake_xformers.fmha.ALL_FW_OPS = [SimpleNamespace(NAME="tritonflashattF", is_available=lambda: True)]
    assert "extensions do not load" in refusal("xformers", CUDA)
    assert choose_backend(CUDA) == "torch"


def test_xformers_that_cannot_be_imported_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers.ops.fmha", None)
    assert "cannot be imported" in refusal("xformers", CUDA)
    assert choose_backend(CUDA) == "torch"


def test_backend_on_the_cpu() -> None:
    assert choose_backend(CPU) == "torch"
    assert choose_backend(CPU, "plain") == "plain"
    with pytest.raises(SettingsError, match=r"CUDA only, not for cpu\. Use one of: torch, plain"):
        choose_backend(CPU, "xformers")
