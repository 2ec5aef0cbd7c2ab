"""Device, precision and compilation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recon.core.errors import SettingsError
from recon.network.cache import DescriptorCache
from recon.network.config import Dense, DescriptorsV1, VitConfig
from recon.network.model import GeometryNetwork
from recon.network.runtime import (
    choose_device,
    compile_blocks,
    device_name,
    finish,
    forget_peak,
    is_shortage,
    peak_bytes,
    precision,
)
from tests.network_support import SMALL, random_images, random_network


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("has_bfloat16", "half"), [(True, torch.bfloat16), (False, torch.float16)])
def test_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, half: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bfloat16)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    context = precision(torch.device("cuda"))
    assert context.fast_dtype == half


def test_precision_on_the_cpu_is_full() -> None:
    with precision(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_half_precision_blocks_have_full_precision_heads_and_caches_of_half_the_size() -> None:
    network, images = random_network(), random_images(1, 2, 3, 56, 56)
    exact, full = network.step(images, DescriptorCache.empty(), DescriptorsV1(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, half = network.step(images, DescriptorCache.empty(), DescriptorsV1(2))
    assert rough.encodings.dtype == rough.depth.values.dtype == torch.float32
    kept = [layer for layer in half.layers if layer]
    assert {layer.keys.dtype for layer in kept} == {layer.values.dtype for layer in kept} == {torch.bfloat16}
    assert sum(layer.bytes for layer in kept) * 2 == sum(layer.bytes for layer in full.layers if layer)
    torch.testing.assert_close(rough.encodings, exact.encodings, rtol=0.1, atol=0.1)  # three digits through 6 blocks


def test_compiled_blocks_compute_the_same() -> None:
    vit = VitConfig(image_size=56, dim=32, depth=1, heads=2)
    config = replace(SMALL, aggregator=replace(SMALL.aggregator, vit=vit))
    network, images = random_network(config), random_images(1, 2, 3, 56, 56)
    expected = network.predict(images, Dense())
    compile_blocks(network, backend="eager")
    blocks = [*network.aggregator.frame_blocks, *network.aggregator.patch_embed.blocks]
    assert all(block._compiled_call_impl is not None for block in blocks)
    torch.testing.assert_close(network.predict(images, Dense()).encodings, expected.encodings)


def test_memory_shortage_is_recognised() -> None:
    assert is_shortage(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_shortage(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_shortage(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_shortage(RuntimeError("CUDA error: out of memory"))
    assert not is_shortage(RuntimeError("shapes do not match"))


def test_network_needs_its_heads() -> None:
    images = random_images(1, 1, 3, 56, 56)
    for missing, word in (("camera", "no camera head"), ("depth", "no depth head")):
        network = GeometryNetwork(replace(SMALL, **{missing: None}))
        with pytest.raises(SettingsError, match=word):
            network.predict(images, Dense())


def test_a_gpu_is_waited_for_and_its_memory_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, calls = torch.device("cuda"), []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    finish(gpu)
    forget_peak(gpu)
    assert calls == ["synchronize", "empty_cache", "reset_peak_memory_stats"]
    assert peak_bytes(gpu) == 7
    assert device_name(gpu) == "a GPU"


def test_a_cpu_has_nothing_to_wait_for() -> None:
    cpu = torch.device("cpu")
    finish(cpu)
    forget_peak(cpu)
    assert peak_bytes(cpu) > 1e7
    assert device_name(cpu).endswith("CPU")
