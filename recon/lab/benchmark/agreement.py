"""Whether a device computes what the CPU computes: a small network of random weights in every way that a run can use.

The reference is the CPU in float32 with attention written out. Every way streams the same two chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recon.lab.benchmark.precision import ENOUGH, draw_weights
from recon.network.attention import BACKENDS, Backend, refusal
from recon.network.cache import DescriptorCache
from recon.network.config import AggregatorConfig, CameraHeadConfig, DescriptorsV1, DptConfig, NetworkConfig, VitConfig
from recon.network.frontend import open_network
from recon.network.layers import Attention
from recon.network.model import GeometryNetwork, Prediction
from recon.network.pose_encoding import matrices_from_encoding
from recon.network.runtime import compile_blocks
from recon.settings import NetworkSettings, Precision

DIM, HEADS = 128, 2
NETWORK = NetworkConfig(
    AggregatorConfig(dim=DIM, depth=3, heads=HEADS, vit=VitConfig(image_size=70, dim=DIM, depth=2, heads=HEADS)),
    CameraHeadConfig(dim=2 * DIM, depth=1, heads=2 * HEADS),
    DptConfig(dim=2 * DIM, features=32, channels=(16, 32, 64, 64), levels=(0, 1, 2, 2)),
    None,
    None,
)
RULE = DescriptorsV1(2)
SIZE = (56, 70)  # height, width
FRAMES, CHUNK = 6, 3
EXACT, ROUNDED = (1e-4, 0.05), (0.02, 10.0)  # allowed for float32, and for 16 and 8 bits


@dataclass(frozen=True)
class Agreement:
    """How one way differs from the reference. depth: median relative error. angle: largest error of a rotation [deg].
    allowed: both. refused: why this way cannot run here.
    """

    way: str
    depth: float = 0.0
    angle: float = 0.0
    allowed: tuple[float, float] = EXACT
    refused: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.refused) or (self.depth <= self.allowed[0] and self.angle <= self.allowed[1])

    def __str__(self) -> str:
        if self.refused:
            return f"not here  {self.way}: {self.refused}"
        depth, angle = self.allowed
        errors = f"depth {self.depth:.1e} of {depth:g}, rotation {self.angle:.3f} of {angle:g} degrees"
        return f"{'ok' if self.ok else 'FAILED':<8}  {self.way}: {errors}"


def agreements(device: torch.device, folder: Path, *, compiled: bool = False) -> Iterator[Agreement]:
    """One result per way. The weights are in ``folder`` meanwhile."""
    path = folder / "drawn.safetensors"
    draw_weights(path, NETWORK, seed=0)
    try:
        reference = _stream(_opened(path, torch.device("cpu"), "plain"), torch.device("cpu"))
        for backend in BACKENDS:
            if reason := refusal(backend, device):
                yield Agreement(backend, refused=reason)
                continue
            network = _opened(path, device, backend)
            yield _compared(f"{backend}, float32", _stream(network, device), reference, EXACT)
            in_half = _stream(network, device, torch.autocast(device.type, torch.bfloat16))
            yield _compared(f"{backend}, blocks in bfloat16", in_half, reference, ROUNDED)
        forms: tuple[tuple[Precision, int], ...] = (("float32", 0), ("bfloat16", ENOUGH), ("int8", ENOUGH))
        for precision, free in forms:
            way, allowed = (precision, ROUNDED) if free else ("float32 layer by layer", EXACT)
            found = _stream(_opened(path, device, None, precision, free), device)
            yield _compared(f"weights in {way}", found, reference, allowed)
        if compiled:
            network = _opened(path, device, None)
            compile_blocks(network)
            yield _compared("compiled, float32", _stream(network, device), reference, EXACT)
    finally:
        path.unlink(missing_ok=True)


def _opened(
    path: Path, device: torch.device, backend: Backend | None, precision: Precision = "float32", free: int = ENOUGH
) -> GeometryNetwork:
    network = open_network(NetworkSettings(str(path), device=str(device), precision=precision), free).network
    for module in network.modules():
        if isinstance(module, Attention) and backend:
            module.backend = backend
    return network


def _stream(
    network: GeometryNetwork, device: torch.device, blocks: AbstractContextManager[object] | None = None
) -> list[Prediction]:
    images = torch.rand(1, FRAMES, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    cache, found = DescriptorCache.empty(), []
    # Convolutions in TF32, PyTorch's default on a GPU, would hide small faults.
    with torch.inference_mode(), blocks or nullcontext(), torch.backends.cudnn.flags(allow_tf32=False):
        for chunk in images.split(CHUNK, dim=1):
            prediction, cache = network.step(chunk.to(device), cache, RULE)
            found.append(prediction)
    return found


def _compared(way: str, ours: list[Prediction], theirs: list[Prediction], allowed: tuple[float, float]) -> Agreement:
    depth, expected = _depths(ours), _depths(theirs)
    error = ((depth - expected).abs() / expected).median()
    trace = (_rotations(ours).mT @ _rotations(theirs)).diagonal(dim1=-2, dim2=-1).sum(-1)
    angle = ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg().max()
    return Agreement(way, error.item(), angle.item(), allowed)


def _depths(found: list[Prediction]) -> Tensor:
    return torch.cat([prediction.depth.values for prediction in found], dim=1).double().cpu()


def _rotations(found: list[Prediction]) -> Tensor:
    """(frames, 3, 3)"""
    encodings = torch.cat([prediction.encodings[0] for prediction in found]).double().cpu()
    return matrices_from_encoding(encodings, SIZE)[0][:, :3, :3]
