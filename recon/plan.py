"""Preflight: what a run will need on this machine, and settings that fit, before anything heavy starts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from recon.core.errors import ResourceError, SourceError
from recon.core.machine import Machine, look_at_machine
from recon.core.sizes import scaled
from recon.core.types import Frame, Image
from recon.settings import CloudSettings, RunSettings
from recon.sfm.quality import QUALITIES, Quality
from recon.sources.base import SourceDescription
from recon.sources.keyframes import MOST_HELD
from recon.sources.spherical import covers_sphere

Result = TypeVar("Result")

SMALLEST_CHUNK = 20
SMALLEST_SIZE = 480
PROBE_PLANES = 8

# Bytes, measured with `recon run` on data/sample and on real sets of 10 to 250 images.
PROGRAM_MEMORY = 950e6  # packages of two processes and the recording
LEARNED_MEMORY = 300e6  # PyTorch, and a chunk's maps in the learned depth stage
SWEEP_MEMORY = 100e6  # cost volumes, per processor
MEMORY_PER_ADJUSTED_FRAME = 2.5e6  # of the joint adjustment at the end, which bounds the number of features
ADJUSTED_FRAMES = 150  # that bound, in frames
MEMORY_PER_CHUNK_FRAME = 2.5e6  # views and depth maps
MEMORY_PER_PIXEL = 8  # of a chunk's working images
DECODING_PER_PIXEL = 12  # of one original
COLOURS = 3  # bytes of a pixel; a mask adds 1
FEATURE = 16 + 128
MATCHES_PER_FRAME = 0.04e6
SPARSE_PER_FRAME = 0.05e6  # the COLMAP model and points.npz
DEPTH_PER_PIXEL = 1.8  # depth, confidence and colour
CLOUD_PER_FRAME = 0.3e6
BYTES_PER_POINT = 31  # of cloud.ply
RECORDING_PER_FRAME = 0.1e6
JPEG_PER_PIXEL = 0.5
RECORDINGS = ("video", "bag")  # kinds of sources whose images the run writes

# Time, in steps of the probe, measured with `recon run` on ten sets: within a quarter of the truth on nine. It
# cannot foresee how slowly the camera moves, nor how often a lens that is hard to determine is mapped again.
START_SECONDS = 7.0
LOCAL_PAIRS = 11  # pairs of neighbours that a frame is matched in
PAIR = 1.0  # matches' worth of a pair with its verification, in integers; 1.5 where the processor has none (VNNI)
REGISTRATION_OF_FRAME = 16  # matches' worth of registration and adjustment in the chunk, cloud and files
CONTEXT_OF_FRAME = 2  # matches' worth of loops, and of mapping the frames before a chunk together with it
ADJUSTMENT_OF_FRAME = 10  # matches' worth of the joint adjustment, up to ADJUSTED_FRAMES
PLANES_OF_FRAME = 75  # 48 planes at half size; the search and the check at full size cost as much as 27 more
BETWEEN = 3  # matches' worth of a frame that is not mapped: read twice, tracked, and posed
LEARNED_SWEEP = 0.55  # of the time of the classical one
COMPUTED = (
    0.6  # share of the frames whose depth is computed, where others take it from them: 0.4 of videos to 1 of photos
)


@dataclass(frozen=True)
class Plan:
    """What a run is expected to need.

    frames: 0 if the file does not say. mapped: those of them that are mapped, an estimate if keyframes are selected.
    original, working: (width, height) of most images. settings: lowered until they fit. seconds: wall time.
    joint_seconds: the part of it for the joint adjustment at the end. memory, gpu_memory, disk: peak bytes. notices: a
    sentence for every lowered setting. finished: frames already in the run to resume.
    """

    frames: int
    mapped: int
    original: tuple[int, int]
    working: tuple[int, int]
    chunks: int
    settings: RunSettings
    seconds: float
    joint_seconds: float
    memory: int
    gpu_memory: int
    disk: int
    machine: Machine
    notices: tuple[str, ...]
    finished: int = 0


@dataclass(frozen=True)
class Probe:
    """Seconds this machine takes to extract the features of a working image, to match two images, and to sweep
    PROBE_PLANES planes over one view on one processor."""

    detect: float
    match: float
    sweep: float


def make_plan(
    description: SourceDescription,
    settings: RunSettings,
    out: Path,
    machine: Machine | None = None,
    probe: Probe | None = None,
    *,
    recorded: bool = True,
    finished: int = 0,
    keyframe_share: float = 1.0,
) -> Plan:
    """Lower ``settings`` until they fit into this machine's memory, and estimate what the run will need.

    machine, probe: measured if not given, which takes up to two seconds. recorded: whether a viewer records the run.
    finished: frames that the run to resume has behind it. keyframe_share: expected share of frames to map.
    Raises SourceError if no image could be opened, and ResourceError if not even the smallest settings fit.
    """
    if not description.sizes:
        if description.frames == 1:
            raise SourceError("The image cannot be opened; it is damaged or empty.")
        raise SourceError(f"None of the {description.frames} images can be opened; all are damaged or empty.")
    machine = machine or look_at_machine(out)
    mapped = max(min(description.frames, 2), round(keyframe_share * description.frames))
    fitting, notices = _fit(description, settings.decided(description.frames), machine)
    quality = QUALITIES[settings.quality]
    disk = disk_need(replace(description, frames=mapped), settings.cloud, quality, recorded=recorded)
    if disk > machine.disk:
        raise ResourceError(
            f"The run needs about {disk / 1e6:,.0f} MB of disk, {machine.disk / 1e6:,.0f} MB are free at {out}. "
            "Free some space, choose another --out, or take fewer frames with --every or --max-frames."
        )
    original = description.sizes[0]
    working = scaled(original, fitting.source.size)
    left = max(0, description.frames - finished)
    left_mapped = round(keyframe_share * left)
    probe = probe or run_probe(working, quality)
    joint = 0.0 if settings.refine == "none" else _joint_seconds(mapped, probe, machine.processors)
    between = (left - left_mapped) * BETWEEN * probe.match
    growing = _chunk_seconds(left_mapped, chunk_count(left_mapped, fitting), fitting, probe, machine.processors)
    return Plan(
        frames=description.frames,
        mapped=mapped,
        original=original,
        working=working,
        chunks=chunk_count(mapped, fitting),
        settings=fitting,
        seconds=growing + between + joint,
        joint_seconds=joint,
        memory=memory_need(description, fitting, machine.processors),
        gpu_memory=0,
        disk=disk,
        machine=machine,
        notices=(*_hints(description), *notices),
        finished=finished,
    )


def _hints(description: SourceDescription) -> tuple[str, ...]:
    """What a user may not know about such images."""
    if description.views > 1 or not all(map(covers_sphere, description.sizes)):
        return ()
    return ("The images are twice as wide as high. If they are 360-degree panoramas, add --equirectangular.",)


def chunk_count(frames: int, settings: RunSettings) -> int:
    """How many chunks ``recon.mapping.chunks`` makes of a number of frames."""
    if frames <= settings.chunk:
        return min(frames, 1)
    return 1 + math.ceil((frames - settings.chunk) / (settings.chunk - settings.overlap))


def memory_need(description: SourceDescription, settings: RunSettings, processors: int) -> int:
    """Expected peak of resident memory in bytes."""
    original = max(math.prod(size) for size in description.sizes)
    working = max(math.prod(scaled(size, settings.source.size)) for size in description.sizes)
    frames = description.frames or settings.chunk  # at least a chunk, where the file does not say
    held = min(settings.chunk, frames)
    adjusted = 0 if settings.refine == "none" else min(frames, ADJUSTED_FRAMES)
    undecided = MOST_HELD + 1 if settings.source.keyframes == "select" else 0  # held with their originals
    return round(
        PROGRAM_MEMORY
        + (LEARNED_MEMORY if settings.depth == "filled" else 0)
        + processors * SWEEP_MEMORY
        + original * DECODING_PER_PIXEL
        + undecided * (original * COLOURS + working * (COLOURS + 1))
        + held * (working * MEMORY_PER_PIXEL + MEMORY_PER_CHUNK_FRAME)
        + adjusted * MEMORY_PER_ADJUSTED_FRAME
    )


def disk_need(
    description: SourceDescription,
    cloud: CloudSettings | None = None,
    quality: Quality = QUALITIES["normal"],
    *,
    recorded: bool = True,
) -> int:
    """Expected bytes on disk. Upright images on the same disk are linked, so only those of recordings count."""
    most_points = (cloud or CloudSettings()).max_points
    original = description.sizes[0]
    pictures = math.prod(original) * JPEG_PER_PIXEL if description.kind in RECORDINGS else 0.0
    depth = math.prod(scaled(original, quality.depth_size)) * DEPTH_PER_PIXEL
    found = quality.features * FEATURE + MATCHES_PER_FRAME + SPARSE_PER_FRAME
    recording = RECORDING_PER_FRAME if recorded else 0.0
    points = min(description.frames * CLOUD_PER_FRAME, most_points * BYTES_PER_POINT)
    return round(description.frames * (pictures + depth + found + recording) + points)


def _fit(
    description: SourceDescription, settings: RunSettings, machine: Machine
) -> tuple[RunSettings, tuple[str, ...]]:
    """Settings that fit into memory: try a smaller chunk, then smaller working images, then no learned depth."""

    def fits(candidate: RunSettings) -> bool:
        return memory_need(description, candidate, machine.processors) <= machine.memory

    fitting = settings
    smallest_chunk = max(SMALLEST_CHUNK, settings.overlap + 1)
    while not fits(fitting) and fitting.chunk > smallest_chunk:
        fitting = replace(fitting, chunk=max(smallest_chunk, fitting.chunk * 3 // 4))
    while not fits(fitting) and fitting.source.size > SMALLEST_SIZE:
        smaller = max(SMALLEST_SIZE, fitting.source.size * 3 // 4)
        fitting = replace(fitting, source=replace(fitting.source, size=smaller))
    if not fits(fitting) and settings.depth == "filled":
        fitting, notices = _fit(description, replace(settings, depth="classical"), machine)
        return fitting, (_lowered("--depth", "filled", "classical", machine), *notices)
    if not fits(fitting):
        need = memory_need(description, fitting, machine.processors)
        raise ResourceError(
            f"The run needs at least {need / 1e9:.1f} GB of memory, {machine.memory / 1e9:.1f} GB are free. "
            "Close other programs, give the container more memory, or take fewer frames with --every or --max-frames."
        )
    changes = (
        ("--chunk", settings.chunk, fitting.chunk),
        ("--size", settings.source.size, fitting.source.size),
    )
    return fitting, tuple(_lowered(name, asked, got, machine) for name, asked, got in changes if got != asked)


def _lowered(option: str, asked: object, got: object, machine: Machine) -> str:
    return f"{option} was reduced from {asked} to {got}: {machine.memory / 1e9:.1f} GB of memory is free."


def _chunk_seconds(frames: int, chunks: int, settings: RunSettings, probe: Probe, processors: int) -> float:
    """Seconds until all chunks are placed. Overlaps are swept twice."""
    pairs = frames * min(LOCAL_PAIRS, (frames - 1) / 2)
    mapping = REGISTRATION_OF_FRAME + (CONTEXT_OF_FRAME if chunks > 1 else 0)
    placing = frames * (probe.detect / processors + probe.match * mapping) + _matching_seconds(pairs, probe, processors)
    swept = frames + max(0, chunks - 1) * settings.overlap
    if QUALITIES[settings.quality].propagates:
        swept = round(COMPUTED * swept)
    stages = 1 + (LEARNED_SWEEP if settings.depth == "filled" else 0)
    sweeping = stages * probe.sweep * PLANES_OF_FRAME / PROBE_PLANES / processors
    return START_SECONDS + placing + swept * sweeping


def _joint_seconds(frames: int, probe: Probe, processors: int) -> float:
    """Seconds for the pairs that are far apart in time and for the joint adjustment; both are bounded."""
    from recon.sfm.consistency import GRID_PAIRS  # noqa: PLC0415 - heavy
    from recon.sfm.pairs import MOST_ALIKE, PAIRS_AROUND  # noqa: PLC0415

    compared = min(frames, math.sqrt(2 * GRID_PAIRS))
    chosen = MOST_ALIKE * compared + (PAIRS_AROUND if compared < frames else 0)
    far = min(chosen, max(0.0, frames * (frames - 1) / 2 - frames * LOCAL_PAIRS))
    adjusted = min(frames, ADJUSTED_FRAMES)
    return _matching_seconds(far, probe, processors) + probe.match * adjusted * ADJUSTMENT_OF_FRAME


def _matching_seconds(pairs: float, probe: Probe, processors: int) -> float:
    return pairs * probe.match * PAIR / processors


def run_probe(working: tuple[int, int], quality: Quality = QUALITIES["normal"]) -> Probe:
    """Time one step of each kind on a random texture of the working size; takes up to two seconds."""
    from recon.depth.plane_sweep import PlaneSweep, correlation_volume, semi_global  # noqa: PLC0415 - heavy
    from recon.depth.views import PosedView, halved  # noqa: PLC0415
    from recon.sfm.matching import SiftMatcher  # noqa: PLC0415

    matcher, sweep = SiftMatcher(max_features=quality.features), PlaneSweep()
    width, height = working
    usable = np.ones((height, width), dtype=bool)
    frame = Frame(0, 0.0, random_texture(width, height), "probe", working, "probe", 0.0, usable)
    features, detect = _timed(lambda: matcher.describe(frame))
    with threadpool_limits(1, "blas"):  # as in ``beside``
        # A matcher may remember a pair of frames.
        _, match = _timed(lambda: matcher.match(features, replace(features, descriptors=features.descriptors.copy())))

    width, height = scaled(working, quality.depth_size)
    intrinsics = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    usable = np.ones((height, width), dtype=bool)
    none = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    view = halved(PosedView(0, random_texture(width, height), usable, intrinsics, np.eye(4), *none))

    def swept() -> object:
        score = correlation_volume(view, [view] * sweep.sources, np.linspace(0.1, 1, PROBE_PLANES), sweep.window)
        return semi_global(1 - score, view.image, sweep.step_cost, sweep.jump_cost)

    return Probe(detect, match, _timed(swept)[1])


def random_texture(width: int, height: int) -> Image:
    """An image (height, width, 3) with detail at every scale, so that it has features everywhere."""
    random = np.random.default_rng(0)
    image = np.zeros((height, width, 3), dtype=np.float32)
    for step in (2, 4, 8, 16, 32):
        noise = random.uniform(0, 51, (height // step + 1, width // step + 1, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def _timed(step: Callable[[], Result]) -> tuple[Result, float]:
    """The result of ``step`` and its least seconds in three calls, after a first one that also loads libraries."""
    result, seconds = step(), math.inf
    for _ in range(3):
        start = time.perf_counter()
        result = step()
        seconds = min(seconds, time.perf_counter() - start)
    return result, seconds
