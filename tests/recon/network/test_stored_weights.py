"""Weights of the blocks in bfloat16 and 8 bits, and read from the file as they are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.core.errors import WeightsError
from recon.core.types import Chunk, Frame
from recon.frontend import Workplace
from recon.network import frontend
from recon.network.cache import DescriptorCache
from recon.network.checkpoints import load_network, read_checkpoint, save_checkpoint
from recon.network.config import VGGT_1B, AggregatorConfig, CameraHeadConfig, DescriptorsV1, DptConfig, VitConfig
from recon.network.frontend import TransformerFrontEnd, open_network, plan_network
from recon.network.model import GeometryNetwork, Prediction
from recon.network.pose_encoding import matrices_from_encoding
from recon.network.stored_weights import (
    StoredLinear,
    WeightStream,
    block_layers,
    kept_in,
    planned_storage,
    resident_bytes,
)
from recon.settings import NetworkSettings, Precision
from tests.network_support import SMALL, random_images, random_network

RULE = DescriptorsV1(2)
DIM = 128  # rounding averages out over channels
CONFIG = replace(
    SMALL,
    aggregator=AggregatorConfig(dim=DIM, depth=3, heads=2, vit=VitConfig(image_size=70, dim=DIM, depth=2, heads=2)),
    camera=CameraHeadConfig(dim=2 * DIM, depth=1, heads=2),
    depth=DptConfig(dim=2 * DIM, features=16, channels=(8, 8, 8, 8), levels=(0, 1, 2, 2)),
)
CPU = torch.device("cpu")
GIGABYTE = 10**9


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with points, which a run does not use."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    config = replace(CONFIG, points=replace(CONFIG.depth, output_dim=4, activation="inv_log"))  # type: ignore[type-var]
    save_checkpoint(path, random_network(config), RULE)
    return path


def short_of_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(frontend, "free_memory", lambda device: free)


def opened(path: Path, precision: Precision = "float32") -> GeometryNetwork:
    return open_network(NetworkSettings(str(path), device="cpu", precision=precision)).network


@pytest.fixture(scope="module")
def exact(path: Path) -> GeometryNetwork:
    return opened(path)


def stream(network: GeometryNetwork) -> list[Prediction]:
    """Two chunks of a stream."""
    cache, found = DescriptorCache.empty(), []
    with torch.inference_mode():
        for images in random_images(1, 4, 3, 56, 70).split(2, dim=1):
            prediction, cache = network.step(images, cache, RULE)
            found.append(prediction)
    return found


def depths(found: list[Prediction]) -> Tensor:
    return torch.cat([prediction.depth.values for prediction in found], dim=1)


def poses(found: list[Prediction]) -> Tensor:
    """(frames, 3, 4)"""
    return matrices_from_encoding(torch.cat([prediction.encodings[0] for prediction in found]), (56, 70))[0]


def angles(ours: Tensor, theirs: Tensor) -> Tensor:
    """Degrees between rotations (frames, 3, 3)."""
    trace = (ours[:, :3, :3].mT @ theirs[:, :3, :3]).diagonal(dim1=-2, dim2=-1).sum(-1)
    return ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()


@pytest.mark.parametrize(("precision", "depth", "angle"), [("bfloat16", 0.0005, 1.0), ("int8", 0.002, 3.0)])
def test_depth_and_poses_of_rounded_weights_are_near_those_of_float32(
    path: Path, exact: GeometryNetwork, precision: Precision, depth: float, angle: float
) -> None:
    ours, theirs = stream(opened(path, precision)), stream(exact)
    error = ((depths(ours) - depths(theirs)).abs() / depths(theirs)).median()
    assert 0 < error < depth
    assert 0 < angles(poses(ours), poses(theirs)).max() < angle
    assert angles(poses(theirs)[:1], poses(theirs)[1:]).min() > 20 * angle  # between frames


def test_each_weight_is_rounded_by_half_a_step_at_most() -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    weight[2] = 0  # a channel that is off
    for precision, step in (("int8", weight.abs().amax(1, keepdim=True) / 127), ("bfloat16", weight.abs() * 2**-7)):
        keep = kept_in(precision)  # type: ignore[arg-type]
        assert keep
        restored = keep("", weight)()
        assert restored.dtype == torch.float32
        assert ((restored - weight).abs() <= step / 2 + 1e-7).all()
        assert torch.equal(restored[2], weight[2])


def test_bytes_in_memory_are_as_planned(path: Path, exact: GeometryNetwork) -> None:
    blocks = sum(layer.weight.nbytes for _, layer in block_layers(exact))
    held = {precision: resident_bytes(opened(path, precision)) for precision in get_args(Precision)}
    assert held["bfloat16"] == held["float32"] - blocks // 2
    assert held["float32"] - blocks < held["int8"] < held["float32"] - 0.7 * blocks
    for precision, found in held.items():
        assert plan_network(NetworkSettings(str(path), device="cpu", precision=precision)).bytes == found


def test_weights_short_of_memory_are_read_layer_by_layer_and_change_no_bit(
    path: Path, exact: GeometryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[WeightStream] = []
    most = 0

    class Watched(WeightStream):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            streams.append(self)

        def weight(self, name: str) -> Tensor:
            nonlocal most
            weight = super().weight(name)
            most = max(most, self.held)
            return weight

    monkeypatch.setattr(frontend, "WeightStream", Watched)
    short_of_memory(monkeypatch, resident_bytes(exact))
    network = opened(path)
    assert len(streams) == 1
    for ours, theirs in zip(stream(network), stream(exact), strict=True):
        assert torch.equal(ours.depth.values, theirs.depth.values)
        assert torch.equal(ours.encodings, theirs.encodings)
    layers = [module for module in network.modules() if isinstance(module, StoredLinear)]
    assert len(layers) == 4 * (2 + 3 + 3 + 1)
    largest = max(layer.weight.nbytes for layer in layers)
    assert largest < most <= 2 * largest  # one in use and the next one
    assert resident_bytes(network) + most <= plan_network(NetworkSettings(str(path), device="cpu")).bytes


def test_weights_that_cannot_be_read_any_more_are_an_error(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    checkpoint = read_checkpoint(copy)
    config, checkpoint = frontend.needed_in_a_run(CONFIG, checkpoint)
    network = load_network(checkpoint, config, keep=WeightStream(copy, CPU).kept)
    del checkpoint  # its mapping
    with copy.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(WeightsError, match=r"copy\.safetensors became shorter during the run"):
        stream(network)


def test_the_run_says_how_it_keeps_the_weights(path: Path) -> None:
    settings = NetworkSettings(str(path), device="cpu", precision="int8")
    assert open_network(settings).about.endswith("computed by torch on cpu; 4 MB of int8 weights.")
    about = open_network(replace(settings, precision="float32"), free=0).about
    assert about.endswith(" MB of float32 weights, read layer by layer.")


def test_vggt_1b_fits_into_8_gb_in_every_form() -> None:
    config = replace(VGGT_1B, points=None, track=None)
    for precision, free, held, streamed in (
        ("float32", 24, 4.6, False),
        ("float32", 7, 0.3, True),
        ("bfloat16", 7, 2.4, False),
        ("int8", 7, 1.3, False),
    ):
        storage = planned_storage(config, Path("model.safetensors"), precision, free * GIGABYTE)  # type: ignore[arg-type]
        assert (round(storage.bytes / GIGABYTE, 1), storage.streamed) == (held, streamed)
    assert not planned_storage(config, Path("model.pt"), "float32", GIGABYTE).streamed  # not readable in parts


def frame(index: int) -> Frame:
    pixels = np.random.default_rng(index).integers(0, 256, (56, 70, 3), dtype=np.uint8)
    return Frame(index, float(index), pixels, f"{index}.png", (70, 56), "lens", 0.0, np.ones((56, 70), dtype=bool))


def test_a_stream_of_rounded_weights_resumes_and_only_with_the_same_precision(path: Path, tmp_path: Path) -> None:
    chunks = [Chunk(index, (frame(2 * index), frame(2 * index + 1)), 0) for index in range(2)]
    settings = NetworkSettings(str(path), device="cpu", precision="int8", pixels=70 * 56)
    whole = TransformerFrontEnd(open_network(settings), Workplace(tmp_path, lambda event: None))
    first, memory = whole.reconstruct(chunks[0]), whole.memory()
    resumed = TransformerFrontEnd(open_network(settings), Workplace(tmp_path, lambda event: None, (0, 1)))
    resumed.recall(chunks[0], first, memory)
    for ours, theirs in zip(resumed.reconstruct(chunks[1]).frames, whole.reconstruct(chunks[1]).frames, strict=True):
        np.testing.assert_array_equal(ours.depth, theirs.depth)
        np.testing.assert_array_equal(ours.cam_from_chunk, theirs.cam_from_chunk)
    other = open_network(replace(settings, precision="bfloat16"))
    refused = TransformerFrontEnd(other, Workplace(tmp_path / "other", lambda event: None))
    with pytest.raises(WeightsError, match="does not have the weights with which the run was made"):
        refused.recall(chunks[0], first, memory)
