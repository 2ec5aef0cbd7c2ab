"""Memory and time of a network by how its weights are kept: float32, bfloat16, 8 bits, or read layer by layer.

The weights are drawn at random: neither memory nor time depends on their values. Every case runs in a process of its
own, which opens the file as a run does and takes chunks of a stream, depth included.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from recon.core.errors import SettingsError
from recon.core.files import write_atomically
from recon.core.workers import Workers
from recon.lab.benchmark.clock import CLOCKS, Clock
from recon.lab.benchmark.commit import current_commit
from recon.lab.benchmark.scaling import CONFIGS, Shape
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.checkpoints import METADATA
from recon.network.config import DescriptorsV1, DptConfig, NetworkConfig
from recon.network.frontend import open_network, plan_network
from recon.network.model import GeometryNetwork
from recon.network.preprocess import PATCH
from recon.network.runtime import device_name, finish, forget_peak, peak_bytes, precision
from recon.network.stored_config import to_text
from recon.settings import NetworkSettings, Precision

MEASURE_CASE = "recon.lab.benchmark.precision:measure_case"
VERSION = 1
Form = Literal["float32", "bfloat16", "int8", "layer by layer"]
FORMS: tuple[Form, ...] = ("float32", "bfloat16", "int8", "layer by layer")
ENOUGH = 10**15  # bytes of memory, for which nothing is read layer by layer
ALIGNMENT = 8


@dataclass(frozen=True)
class PrecisionSettings:
    """sizes: (width, height) of the images in pixels, multiples of 14. frames: of a stream in chunks of ``chunk``."""

    shape: Shape = "vggt-1b"
    sizes: tuple[tuple[int, int], ...] = ((210, 154), (518, 392))
    forms: tuple[Form, ...] = FORMS
    frames: int = 4
    chunk: int = 2
    device: str = "cpu"
    seed: int = 0
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        if min(self.frames, self.chunk) < 1:
            raise SettingsError(f"--frames is {self.frames} and --chunk {self.chunk}; both must be at least 1.")


@dataclass(frozen=True)
class Case:
    """One form at one size. opening: seconds until the weights are in place. held: bytes of the weights in memory.
    peak_bytes: most memory during the stream, of the GPU or resident. chunk_seconds: of each chunk.
    """

    form: Form
    size: tuple[int, int]
    opening: float
    held: int
    peak_bytes: int
    chunk_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Precisions:
    """All cases of one run of the benchmark and where it ran."""

    settings: PrecisionSettings
    device: str
    threads: int
    torch: str
    commit: str
    parameters: int
    cases: tuple[Case, ...]


def read_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Sizes such as ``210x154,518x392``. Raises SettingsError."""
    try:
        pairs = [tuple(map(int, size.split("x"))) for size in text.split(",")]
        sizes = tuple((width, height) for width, height in pairs)
    except ValueError as error:
        raise SettingsError(f"--sizes takes sizes such as 210x154,518x392; got {text}.") from error
    if any(side < PATCH or side % PATCH for size in sizes for side in size):
        raise SettingsError(f"--sizes takes multiples of {PATCH} pixels, such as 210x154; got {text}.")
    return sizes


def measure(settings: PrecisionSettings, folder: Path) -> Generator[Precisions]:
    """Measure all cases; yields the results so far after each one. The weights are in ``folder`` meanwhile."""
    config = replace(CONFIGS[settings.shape], points=None, track=None)
    config = config if config.depth else replace(config, depth=_depth_head(config))
    path = folder / "drawn.safetensors"
    device = device_name(torch.device(settings.device))
    try:
        parameters = draw_weights(path, config, settings.seed)
        found = Precisions(
            settings, device, torch.get_num_threads(), metadata.version("torch"), current_commit(), parameters, ()
        )
        with Workers(1) as workers:
            for size, form in product(settings.sizes, settings.forms):
                case = workers.call("geometry", MEASURE_CASE, settings, path, form, size, found.threads)
                workers.end("geometry")  # the next case starts with empty memory
                found = replace(found, cases=(*found.cases, case))
                yield found
    finally:
        path.unlink(missing_ok=True)


def _depth_head(config: NetworkConfig) -> DptConfig:
    """For shapes of ``CONFIGS`` that have none."""
    last = config.aggregator.depth - 1
    return DptConfig(2 * config.aggregator.dim, features=64, channels=(48, 96, 192, 384), levels=(1, 2, last, last))


def draw_weights(path: Path, config: NetworkConfig, seed: int) -> int:
    """Write a weight file of random values, one tensor at a time; returns the number of parameters.

    Matrices have the spread that keeps the size of their input, scales and norms are near 1.
    """
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in GeometryNetwork(config).state_dict().items()}
    header: dict[str, object] = {"__metadata__": {METADATA: to_text(config, DescriptorsV1())}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    generator = torch.Generator().manual_seed(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(_drawn(name, shape, generator).numpy().tobytes())
    return end // 4


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    x = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return x.mul_(x[0].numel() ** -0.5)
    centre = 0.0 if name.endswith("bias") else 1.0
    return x.mul_(0.1).add_(centre)


def measure_case(settings: PrecisionSettings, path: Path, form: Form, size: tuple[int, int], threads: int) -> Case:
    """One case, in this process."""
    torch.set_num_threads(threads)
    device, now = torch.device(settings.device), CLOCKS[settings.clock]
    start = time.perf_counter()
    kept: Precision = "float32" if form == "layer by layer" else form
    chosen, free = NetworkSettings(str(path), device=settings.device, precision=kept), 0 if kept != form else ENOUGH
    opened = open_network(chosen, free)
    opening = time.perf_counter() - start
    forget_peak(device)
    generator = torch.Generator().manual_seed(settings.seed)
    images = torch.rand(1, settings.frames, 3, size[1], size[0], generator=generator)
    seconds, cache = [], DescriptorCache.empty()
    with torch.inference_mode(), precision(device):
        for chunk in images.split(settings.chunk, dim=1):
            start = now()
            _, cache = opened.network.step(chunk.to(device), cache, opened.rule, MemoryBudget(chosen.memory_frames))
            finish(device)
            seconds.append(now() - start)
    peak = peak_bytes(device)  # before the file is mapped once more
    return Case(form, size, opening, plan_network(chosen, free).bytes, peak, tuple(seconds))


def describe(case: Case, chunk: int) -> str:
    """One line about a case."""
    return (
        f"{case.form} at {case.size[0]}x{case.size[1]}: {case.chunk_seconds[-1] / chunk:.1f} s per frame, "
        f"{case.peak_bytes / 1e9:.1f} GB"
    )


def write_results(found: Precisions, folder: Path) -> None:
    """``precision.json`` with everything that was measured, and ``precision.md``. Raises OutputError."""
    text = json.dumps({"version": VERSION} | asdict(found), indent=1)
    write_atomically(folder / "precision.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "precision.md", lambda file: file.write(table(found).encode()))


def table(found: Precisions) -> str:
    """Markdown: a row per case."""
    settings = found.settings
    lines = [
        f"{settings.shape}, {found.parameters / 1e6:,.0f} M parameters, on {found.device}, {found.threads} threads, "
        f"PyTorch {found.torch}, commit {found.commit}, seed {settings.seed}. Streams of {settings.frames} frames in "
        f"chunks of {settings.chunk}; seconds of {settings.clock} time per frame of each chunk, single runs.",
        "",
        "| images | weights | in memory | most memory | seconds per frame | opening |",
        "|---|---|---|---|---|---|",
    ]
    for case in found.cases:
        each = ", ".join(f"{seconds / settings.chunk:.1f}" for seconds in case.chunk_seconds)
        held, most = f"{case.held / 1e9:.2f} GB", f"{case.peak_bytes / 1e9:.2f} GB"
        size = "{}x{}".format(*case.size)
        lines.append(f"| {size} | {case.form} | {held} | {most} | {each} | {case.opening:.0f} s |")
    return "\n".join(lines) + "\n"
