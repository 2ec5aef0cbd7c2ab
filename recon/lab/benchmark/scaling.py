"""How the cost of the network grows with the number of frames, for four kinds of attention across frames.

The time is that of tokens and poses. Depth heads are left out, since their cost per frame does not depend on the
attention.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from recon.core.errors import SettingsError
from recon.core.files import write_atomically
from recon.lab.benchmark.clock import CLOCKS, Clock
from recon.lab.benchmark.commit import current_commit
from recon.lab.benchmark.published_stream import PublishedStream
from recon.network.attention import choose_backend
from recon.network.cache import DescriptorCache, MemoryBudget
from recon.network.config import VGGT_1B, AggregatorConfig, CameraHeadConfig, Dense, DescriptorsV1, NetworkConfig
from recon.network.eviction import evict
from recon.network.model import GeometryNetwork
from recon.network.runtime import device_name, finish, forget_peak, is_shortage, peak_bytes, precision

VERSION = 1
Shape = Literal["compact", "vggt-1b"]
Method = Literal["dense", "descriptors", "published stream", "our stream"]
METHODS: tuple[Method, ...] = ("dense", "descriptors", "published stream", "our stream")
CONFIGS: dict[Shape, NetworkConfig] = {
    "compact": NetworkConfig(
        AggregatorConfig(dim=384, depth=6, heads=6), CameraHeadConfig(dim=768, heads=12), None, None, None
    ),
    "vggt-1b": VGGT_1B,
}
SIZES: dict[Shape, tuple[int, int]] = {"compact": (224, 224), "vggt-1b": (392, 518)}  # height, width
DISTINCT_IMAGES = 16
FIFTH = 4  # the chunk with which later ones are compared: the memory is full by then


@dataclass(frozen=True)
class ScalingSettings:
    """frames: numbers of frames to measure. chunk: frames per chunk of the streams. memory_frames: our stream's budget.

    repeats: most runs of a case; fewer if they have taken ``patience`` seconds in total. clock: use the processor time
    of all threads on a busy CPU.
    """

    shape: Shape = "compact"
    frames: tuple[int, ...] = (8, 16, 32, 64, 128)
    methods: tuple[Method, ...] = METHODS
    chunk: int = 8
    factor: int = 4
    memory_frames: int = 32
    repeats: int = 3
    patience: float = 60.0
    seed: int = 0
    clock: Clock = "wall"

    def __post_init__(self) -> None:
        if min(*self.frames, self.chunk, self.factor, self.memory_frames, self.repeats) < 1:
            raise SettingsError(f"A benchmark takes numbers of at least 1, got {self}.")


@dataclass(frozen=True)
class Case:
    """One method on one number of frames.

    seconds: median of all runs; fastest, slowest. chunk_seconds: median per chunk, for streams. peak_bytes: of GPU
    memory, or, on the CPU, of resident memory of the process so far. failure: why there are no numbers.
    """

    method: Method
    frames: int
    runs: int
    seconds: float
    fastest: float
    slowest: float
    chunk_seconds: tuple[float, ...]
    peak_bytes: int
    failure: str = ""


@dataclass(frozen=True)
class Scaling:
    """All cases of one run of the benchmark and where it ran."""

    settings: ScalingSettings
    device: str
    on_gpu: bool
    threads: int
    backend: str
    torch: str
    commit: str
    cases: tuple[Case, ...]

    def case(self, method: Method, frames: int) -> Case | None:
        """The measured case; None if there is none or it failed."""
        found = (case for case in self.cases if (case.method, case.frames) == (method, frames) and not case.failure)
        return next(found, None)


def measure(settings: ScalingSettings, device: torch.device) -> Iterator[Scaling]:
    """Measure all cases, with random weights and images; yields the results so far after each case. For each number of
    frames, the most expensive method comes last: it may take longer than all others together.
    """
    network = random_network(settings, device)
    images = _images(settings, device)
    found = _nothing_yet(settings, device)
    with torch.inference_mode(), precision(device):
        for _ in _steps("our stream", network, images, settings.chunk, settings):
            pass  # warm-up
        for frames in settings.frames:
            for method in reversed(settings.methods):
                case = _measure(method, network, images, frames, settings)
                found = replace(found, cases=(*found.cases, case))
                yield found


def _nothing_yet(settings: ScalingSettings, device: torch.device) -> Scaling:
    return Scaling(
        settings=settings,
        device=device_name(device),
        on_gpu=device.type == "cuda",
        threads=torch.get_num_threads(),
        backend=choose_backend(device),
        torch=metadata.version("torch"),
        commit=current_commit(),
        cases=(),
    )


def random_network(settings: ScalingSettings, device: torch.device) -> GeometryNetwork:
    """The network with PyTorch's own random initial weights."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(settings.seed)
        network = GeometryNetwork(CONFIGS[settings.shape], choose_backend(device))
    return network.eval().requires_grad_(False)


def _images(settings: ScalingSettings, device: torch.device) -> Tensor:
    """A few images (1, images, 3, height, width); longer sequences repeat them."""
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand(1, DISTINCT_IMAGES, 3, *SIZES[settings.shape], generator=generator).to(device)


def _measure(method: Method, network: GeometryNetwork, images: Tensor, frames: int, settings: ScalingSettings) -> Case:
    device = images.device
    forget_peak(device)
    runs: list[list[float]] = []
    failure = ""
    try:
        while len(runs) < settings.repeats and sum(map(sum, runs)) < settings.patience:
            runs.append(list(_timed(_steps(method, network, images, frames, settings), device, settings.clock)))
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        failure = "out of memory"
    totals = [sum(run) for run in runs] or [0.0]
    chunks = tuple(statistics.median(times) for times in zip(*runs, strict=True))
    return Case(
        method=method,
        frames=frames,
        runs=len(runs),
        seconds=statistics.median(totals),
        fastest=min(totals),
        slowest=max(totals),
        chunk_seconds=chunks if len(chunks) > 1 else (),
        peak_bytes=peak_bytes(device),
        failure=failure,
    )


def _timed(steps: Iterator[None], device: torch.device, clock: Clock) -> Iterator[float]:
    """Seconds of each step, including all GPU work."""
    now = CLOCKS[clock]
    while True:
        start = now()
        if next(steps, steps) is steps:
            return
        finish(device)
        yield now() - start


def _steps(
    method: Method, network: GeometryNetwork, images: Tensor, frames: int, settings: ScalingSettings
) -> Iterator[None]:
    """The work of a method on ``frames`` frames: one step for a single pass, one per chunk for a stream."""
    rule, level = DescriptorsV1(settings.factor), network.last_level
    if method in ("dense", "descriptors"):
        chosen = Dense() if method == "dense" else rule
        aggregated = network.aggregate(_take(images, 0, frames), chosen, levels={level})
        network.poses(network.camera_tokens(aggregated))
        yield
        return
    chunks = [(first, min(first + settings.chunk, frames)) for first in range(0, frames, settings.chunk)]
    if method == "published stream":
        yield from _published_steps(network, images, chunks, rule)
        return
    cache, budget = DescriptorCache.empty(), MemoryBudget(settings.memory_frames)
    for first, last in chunks:
        _, cache = network.extend(_take(images, first, last), cache, rule, budget, levels={level})
        network.poses(cache.camera_tokens)
        cache = evict(cache, budget)
        yield


def _published_steps(
    network: GeometryNetwork, images: Tensor, chunks: list[tuple[int, int]], rule: DescriptorsV1
) -> Iterator[None]:
    """The published stream estimates all poses at the end."""
    stream, tokens = PublishedStream(network, rule), []
    for first, last in chunks:
        aggregated = stream.step(_take(images, first, last), {network.last_level})
        tokens.append(network.camera_tokens(aggregated).clone())
        if last == chunks[-1][1]:
            network.poses(torch.cat(tokens, dim=1))
        yield


def _take(images: Tensor, first: int, last: int) -> Tensor:
    return images[:, torch.arange(first, last, device=images.device) % images.shape[1]]


def describe(case: Case) -> str:
    """One line about a case."""
    if case.failure:
        return f"{case.method}, {case.frames} frames: {case.failure}"
    return f"{case.method}, {case.frames} frames: {case.seconds:.2f} s, median of {case.runs}"


def write_results(scaling: Scaling, folder: Path) -> None:
    """``scaling.json`` with everything that was measured, ``scaling.md`` and ``scaling.png``. Raises OutputError."""
    text = json.dumps({"version": VERSION} | asdict(scaling), indent=1)
    write_atomically(folder / "scaling.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "scaling.md", lambda file: file.write(table(scaling).encode()))
    plot(scaling, folder / "scaling.png")


def table(scaling: Scaling) -> str:
    """Markdown: seconds per frame and their share of dense attention by number of frames, then whether streams stay
    level.
    """
    settings = scaling.settings
    lines = [
        f"{settings.shape} on {scaling.device}, {scaling.threads} threads, attention by {scaling.backend}, PyTorch "
        f"{scaling.torch}, commit {scaling.commit}, seed {settings.seed}. Chunks of {settings.chunk} frames, "
        f"descriptors of {settings.factor} x {settings.factor} patches, our memory {settings.memory_frames} frames. "
        f"Seconds of {settings.clock} time per frame, median (share of dense; fastest to slowest run; runs).",
        "",
        "| frames | " + " | ".join(settings.methods) + " |",
        "|---" * (len(settings.methods) + 1) + "|",
    ]
    for frames in settings.frames:
        cells = [_cell(scaling, method, frames) for method in settings.methods]
        lines.append(f"| {frames} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_flatness(scaling)]) + "\n"


def _cell(scaling: Scaling, method: Method, frames: int) -> str:
    case, dense = scaling.case(method, frames), scaling.case("dense", frames)
    if case is None:
        return next((c.failure for c in scaling.cases if (c.method, c.frames) == (method, frames)), "")
    share = f"{case.seconds / dense.seconds:.1%}; " if dense else ""
    spread = f"{case.fastest / frames:.3f} to {case.slowest / frames:.3f}; {case.runs}"
    memory = f"; {case.peak_bytes / 1e9:.1f} GB" if scaling.on_gpu else ""
    return f"{case.seconds / frames:.3f} ({share}{spread}{memory})"


def _flatness(scaling: Scaling) -> Iterator[str]:
    """How the last chunk of a stream compares with the fifth."""
    for case in scaling.cases:
        if len(case.chunk_seconds) > FIFTH + 1 and not case.failure:
            fifth, last = case.chunk_seconds[FIFTH], case.chunk_seconds[-1]
            yield (
                f"- {case.method}, {case.frames} frames: last chunk {last:.3f} s, fifth {fifth:.3f} s, "
                f"{last / fifth:.2f} times."
            )


def plot(scaling: Scaling, path: Path) -> None:
    """Plot seconds per frame against the number of frames, on logarithmic axes. Raises OutputError."""
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for method in scaling.settings.methods:
        found = [case for frames in scaling.settings.frames if (case := scaling.case(method, frames))]
        axes.plot([case.frames for case in found], [case.seconds / case.frames for case in found], "o-", label=method)
    axes.set(xscale="log", yscale="log", xlabel="frames", ylabel="seconds per frame")
    axes.set_xticks(scaling.settings.frames, [str(frames) for frames in scaling.settings.frames])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
