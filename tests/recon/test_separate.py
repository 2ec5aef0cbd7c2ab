"""The front end in a process of its own: the same map, each frame sent once, and what the report knows of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.events import ChunkReconstructed, Event
from recon.core.similarity import Sim3
from recon.core.types import Camera, ChunkGeometry
from recon.core.workers import Workers
from recon.pipeline import reconstruct
from recon.separate import SharedFrames
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.archive import load_arrays
from recon.store.map import open_map
from tests.support import chunk_geometry, half_size_sample

LENS = Camera("PINHOLE", 320, 240, (250.0, 250.0, 160.0, 120.0))
SETTINGS = RunSettings(
    SourceOptions(size=320, every=2), chunk=5, overlap=3, intrinsics=LENS, depth="classical", refine="none"
)


def test_frames_that_a_chunk_keeps_are_sent_once_and_stay_the_same_objects() -> None:
    first = chunk_geometry(range(4), Sim3.identity())
    other = chunk_geometry(range(2, 6), Sim3.identity())
    second = replace(other, frames=(*first.frames[2:], *other.frames[2:]))
    sender, receiver = SharedFrames(), SharedFrames()
    one = receiver.unpacked(sender.packed(first))
    rest, sent = sender.packed(second)
    assert (rest.frames, sent[:2]) == ((), (2, 3))
    two = receiver.unpacked((rest, sent))
    assert [frame.index for frame in two.frames] == [2, 3, 4, 5]
    assert two.frames[0] is one.frames[2]
    again = chunk_geometry([5], Sim3.identity())  # another estimate
    assert sender.packed(again)[1] == again.frames


def run(photos: Path, out: Path, count: int) -> list[ChunkGeometry]:
    """The geometry of every chunk, in a run with a number of workers."""
    events: list[Event] = []
    with Workers(count) as workers:
        report = reconstruct(str(photos), out, SETTINGS, [events.append], workers=workers)
    assert {"features", "matching", "mapping", "classical depth", "writing cloud"} <= {s.name for s in report.stages}
    assert report.processor_seconds == pytest.approx(sum(stage.processor_seconds for stage in report.stages), abs=0.1)
    return [event.submap.geometry for event in events if isinstance(event, ChunkReconstructed)]


def test_the_map_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    photos = half_size_sample(tmp_path / "in", 13) / "images"
    outs = [tmp_path / "none", tmp_path / "one"]
    alone, beside = (run(photos, out, count) for count, out in enumerate(outs))
    for mine, theirs in zip(alone, beside, strict=True):
        for a, b in zip(mine.frames, theirs.frames, strict=True):
            # COLMAP itself differs by about 1e-12 from one run to the next.
            np.testing.assert_allclose(a.cam_from_chunk, b.cam_from_chunk, atol=1e-9)
            np.testing.assert_array_equal(a.colour, b.colour)
        assert mine.unplaced == theirs.unplaced
    frames = [open_map(out).frames for out in outs]
    for placed, other in zip(*frames, strict=True):
        np.testing.assert_allclose(placed.world_from_cam.matrix(), other.world_from_cam.matrix(), atol=1e-6)
    for number in range(len(alone)):  # what a chunk keeps from the one before is not stored again
        names = [sorted(load_arrays(out / "map" / f"submap_{number:04d}.npz")) for out in outs]
        assert names[0] == names[1]


def test_the_process_that_captures_does_not_load_colmap() -> None:
    """COLMAP catches SIGTERM and holds the interpreter lock for seconds."""
    code = "import sys, cli.live, cli.run, recon.pipeline; sys.exit('pycolmap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
