"""A live run of a video made of a sequence: poses and memory during the capture, and the map after it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil

from recon.core.errors import OutputError, SourceError
from recon.core.files import make_folder, write_atomically
from recon.core.tracked import TrackingReport
from recon.evaluate.poses import compare
from recon.exports.trajectory import Trajectory, read_tum, rigid_trajectory, write_trajectory
from recon.lab.benchmark.commit import current_commit
from recon.lab.benchmark.programs import run_measured
from recon.lab.benchmark.sets import BenchmarkSet
from recon.store import report
from recon.store.map import open_map
from recon.store.tracked import NAME, read_tracked

CODEC = {"crf": "18", "preset": "veryfast", "g": "50"}
LOOK_SECONDS, MEMORY_SECONDS = 1.0, 10.0
MINUTES = (1, 3, 10, 20)  # of the memory in the table


@dataclass(frozen=True)
class LiveSettings:
    """images: of the video, which repeats the set back and forth; None for the set once. rate: images a second.
    watched: with the web viewer, whose dense points take a process more. known_lens: give the set's lens.
    """

    images: int | None = None
    rate: int = 10
    watched: bool = False
    known_lens: bool = False


@dataclass(frozen=True)
class LiveResult:
    """seconds: of the video, of its capture, and of the whole run. memory: [bytes] of all processes, pages that they
    share counted once, by second of the run. in_map: images that had a pose in the finished map at capture. ate_*: RMSE
    of camera centres in the reference's unit, at capture in the piece with the most poses. lag: the median and largest
    age of a chunk's newest image when the chunk was placed [s].
    """

    name: str
    images: int
    video_seconds: float
    capture_seconds: float
    run_seconds: float
    processor_seconds: float
    memory: dict[int, int]
    tracking: TrackingReport
    skipped: int
    in_map: int
    pieces: int
    poses_compared: int
    ate_at_capture: float
    keyframes_placed: int
    frames_placed: int
    ate: float
    lag: tuple[float, float]


@dataclass
class _Watch:
    """Looks at a run from outside: its memory, and when the last image was tracked."""

    folder: Path
    start: float = field(default_factory=time.monotonic)
    memory: dict[int, int] = field(default_factory=dict)
    first: float = 0.0
    last: float = 0.0
    _size: int = 0
    _looked: float = 0.0

    def __call__(self, process: int) -> None:
        now = time.monotonic() - self.start
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        with suppress(OSError):
            size = (self.folder / NAME).stat().st_size
            if size != self._size:
                self.first, self.last, self._size = self.first or now, now, size
        if now >= MEMORY_SECONDS * len(self.memory):
            self.memory[round(now)] = _memory(process)


def measure(member: BenchmarkSet, data: Path, out: Path, settings: LiveSettings) -> LiveResult:
    """Make the video of a set in ``out``, run it live into ``out / name``, and measure. Raises ReconError."""
    folder, video, truth = out / member.name, out / f"{member.name}.mp4", out / f"{member.name}.txt"
    make_folder(out)
    images = film(member, data, video, truth, settings)
    viewer = ("web", "record") if settings.watched else ("none",)
    options = [f"--viewer={one}" for one in viewer] + ["--out", str(folder), "--overwrite"]
    if settings.known_lens:
        numbers = np.loadtxt(data / member.folder / "intrinsics.txt").ravel()[:4]
        options += ["--intrinsics", ",".join(map(str, numbers))]
    watch = _Watch(folder)
    done = run_measured(("-m", "cli", "live", str(video), "--realtime", *options), folder, watch, LOOK_SECONDS)
    if done.failure:
        raise OutputError(f"{member.name}: {done.failure}. See {folder}.log.")
    said, found, run = read_tracked(folder), open_map(folder), report.read(folder / "report.json")
    reference, lags = read_tum(truth), [chunk.lag for chunk in run.chunks]
    assert run.tracking and run.stream
    largest = next(iter(said.pieces.values()), None)
    at_capture = None
    if largest is not None:
        at_capture = Trajectory(largest.indices.astype(float), largest.world_from_cam, largest.indices)
    return LiveResult(
        name=member.name,
        images=images,
        video_seconds=images / settings.rate,
        capture_seconds=watch.last - watch.first,
        run_seconds=done.seconds,
        processor_seconds=done.processor_seconds,
        memory=watch.memory,
        tracking=run.tracking,
        skipped=run.stream.skipped,
        in_map=sum(len(poses.indices) for piece, poses in said.pieces.items() if piece >= 0),
        pieces=sum(piece < 0 for piece in said.pieces),
        poses_compared=0 if largest is None else len(largest.indices),
        ate_at_capture=_ate(at_capture, reference),
        keyframes_placed=run.frames_placed,
        frames_placed=len(found.posed),
        ate=_ate(rigid_trajectory(found, by_index=True), reference),
        lag=(float(np.median(lags)), max(lags)) if lags else (0.0, 0.0),
    )


def film(member: BenchmarkSet, data: Path, video: Path, truth: Path, settings: LiveSettings) -> int:
    """Write the video of a set and its poses by number of the image; returns how many images it has.

    Raises SourceError if the images are missing.
    """
    source = data / member.folder
    paths = sorted((source / member.source).iterdir())[:: member.every] if (source / member.source).is_dir() else []
    if not paths:
        raise SourceError(f"{source / member.source} has no images.")
    order = list(islice(there_and_back(len(paths)), settings.images or len(paths)))
    height, width = _image(paths[0]).shape[:2]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(settings.rate), options=CODEC)
        stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        for place in order:
            image = _image(paths[place])[: stream.height, : stream.width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    known = read_tum(source / (member.reference or "poses.txt"))
    rows = dict(zip(known.timestamps.astype(int).tolist(), known.world_from_cam, strict=True))
    shown = {number: rows[place * member.every] for number, place in enumerate(order) if place * member.every in rows}
    write_trajectory(Trajectory(np.array(list(shown), dtype=float), np.array(list(shown.values()))), truth)
    return len(order)


def there_and_back(count: int) -> Iterator[int]:
    """0 to ``count`` - 1, back to 0, and again without end."""
    return cycle([*range(count), *range(count - 2, 0, -1)])


def write_results(results: Sequence[LiveResult], settings: LiveSettings, out: Path) -> None:
    """Write ``live.json`` and ``live.md``. Raises OutputError if the folder cannot be written."""
    document: dict[str, Any] = {"commit": current_commit(), "settings": asdict(settings)}
    text = json.dumps(document | {"results": [asdict(one) for one in results]}, indent=1)
    write_atomically(out / "live.json", lambda file: file.write(text.encode()))
    write_atomically(out / "live.md", lambda file: file.write(table(results).encode()))


def table(results: Sequence[LiveResult]) -> str:
    """A column for each set."""
    columns = [_cells(one) for one in results]
    rows = [("", *(one.name for one in results)), ("---",) * (1 + len(results))]
    rows += [(label, *(column[label] for column in columns)) for label in columns[0]] if columns else []
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(one: LiveResult) -> dict[str, str]:
    said = one.tracking
    posed = said.tracking + said.weak
    memory = [(minute, _at(one.memory, 60 * minute)) for minute in MINUTES if 60 * minute <= max(one.memory, default=0)]
    return {
        "images, seconds of the video": f"{one.images}, {one.video_seconds:.0f}",
        "seconds of the capture": f"{one.capture_seconds:.0f}",
        "with a pose at capture": f"{posed} ({posed / max(said.frames, 1):.1%}), first after {said.first_pose:.1f} s",
        "tracking, weak, lost, waiting": f"{said.tracking}, {said.weak}, {said.lost}, {said.waiting}",
        "in the finished map at capture, in pieces": f"{one.in_map}, {posed - one.in_map} in {one.pieces}",
        "milliseconds from image to pose, p50 and p95": f"{said.p50:.0f}, {said.p95:.0f}",
        "from a keyframe to its place in the local map": f"{said.map_p50:.0f}, {said.map_p95:.0f} of {said.keyframes}",
        "from a keyframe to its dense points": f"{said.dense_p50:.0f}, {said.dense_p95:.0f} of {said.dense}",
        "processor milliseconds of the tracker per image": f"{said.processor:.0f}",
        "keyframes dropped because the map was slower": str(one.skipped),
        "age of a chunk in the finished map, median and largest": "{:.0f} s, {:.0f} s".format(*one.lag),
        "ATE at capture": f"{one.ate_at_capture:.3g} ({one.poses_compared} poses)",
        "ATE after the end": f"{one.ate:.3g} ({one.frames_placed} images, {one.keyframes_placed} of them keyframes)",
        "memory": ", ".join(f"{size / 1e9:.2f} GB after {minute} min" for minute, size in memory),
        "largest memory": f"{max(one.memory.values(), default=0) / 1e9:.2f} GB",
        "processor seconds, wall seconds of the run": f"{one.processor_seconds:.0f}, {one.run_seconds:.0f}",
    }


def _at(memory: dict[int, int], second: int) -> int:
    return memory[min(memory, key=lambda one: abs(one - second))]


def _ate(estimate: Trajectory | None, reference: Trajectory) -> float:
    try:
        return float("nan") if estimate is None else compare(estimate, reference).ate_rmse
    except SourceError:
        return float("nan")


def _memory(process: int) -> int:
    """Of a process and all that it has started [bytes]; pages that they share are counted once."""
    total = 0
    with suppress(psutil.Error):
        for one in (root := psutil.Process(process), *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_full_info().pss
    return total


def _image(path: Path) -> Any:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_BGR)
    if image is None:
        raise SourceError(f"{path} is not an image.")
    return image
