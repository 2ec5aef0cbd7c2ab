"""Times of the ledger of a made-up map of 2,000 frames: ``python -m tests.ledger_times``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recon.core.similarity import Sim3
from recon.core.types import Camera, Chunk, ChunkGeometry, Frame, FrameGeometry, PlacedFrame, SparsePoints
from recon.settings import RunSettings
from recon.store.growing import GrowingStore
from recon.store.journal import Journal, read_journal
from recon.store.map import open_map
from recon.store.summary import summarise

FRAMES, CHUNK, OVERLAP, POINTS, OBSERVATIONS = 2000, 50, 10, 100_000, 500_000
LENS = Camera("SIMPLE_RADIAL", 640, 480, (500.123456789, 320.0, 240.0, -0.0123456789))
TINY, WHOLE, BLACK = np.zeros((2, 2), np.float32), np.ones((2, 2), np.bool_), np.zeros((2, 2, 3), np.uint8)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of something."""
    start = time.process_time()
    work()
    return time.process_time() - start


def chunk_of(number: int, poses: list[Sim3]) -> tuple[Chunk, ChunkGeometry, dict[str, object]]:
    step = CHUNK - OVERLAP
    indices = range(max(0, number * step - OVERLAP), (number + 1) * step)
    frames = tuple(
        Frame(index, index / 30, BLACK, f"{index:06d}.jpg", (640, 480), "lens", 0.0, WHOLE, "ab" * 16)
        for index in indices
    )
    geometry = tuple(
        FrameGeometry(index, poses[index].matrix(), LENS, LENS.matrix(), TINY, TINY, BLACK) for index in indices
    )
    context = {index: poses[index].matrix().tolist() for index in indices}
    memory = {"context": context, "lens_of": dict.fromkeys(range(indices.stop), 0)}
    return Chunk(number, frames, OVERLAP if number else 0), ChunkGeometry(geometry, SparsePoints.empty()), memory


def measure(out: Path) -> None:
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(FRAMES, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    poses = [Sim3(1.1, turn, rng.normal(size=3)) for turn in turns]
    frames = tuple(PlacedFrame(index, index / 30, f"{index:06d}.jpg", LENS, pose) for index, pose in enumerate(poses))
    (out / "map").mkdir(parents=True)
    journal = Journal.begin(out, "/photos", RunSettings())
    store, times = GrowingStore(out, journal, resumable=True), []
    for number in range(FRAMES // (CHUNK - OVERLAP)):
        chunk, geometry, memory = chunk_of(number, poses)
        start = time.process_time()
        with store.transaction():
            store.write_places(frames[: chunk.frames[-1].index + 1], (), SparsePoints.empty())
            journal.write(chunk, geometry, memory)
        times.append(time.process_time() - start)
    points = SparsePoints(
        rng.normal(size=(POINTS, 3)),
        rng.integers(0, 255, (POINTS, 3), dtype=np.uint8),
        np.sort(rng.integers(0, POINTS, OBSERVATIONS)),
        rng.integers(0, FRAMES, OBSERVATIONS),
        rng.uniform(0, 640, (OBSERVATIONS, 2)),
    )
    store.finish(frames, (), points, between=(), complete=True)
    print(f"chunk, first ten  {1e3 * statistics.median(times[:10]):5.0f} ms")
    print(f"chunk, last ten   {1e3 * statistics.median(times[-10:]):5.0f} ms")
    for name, read in {"open_map": open_map, "read_journal": read_journal, "summarise": summarise}.items():
        taken = [seconds(lambda read=read: read(out)) for _ in range(7)]
        print(f"{name:16}  {1e3 * statistics.median(taken):5.0f} ms")
    print(f"bytes per frame   {(out / 'map' / 'map.db').stat().st_size / FRAMES:5.0f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder) / "run")
