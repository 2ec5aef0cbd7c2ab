"""Why frames of a run have no place."""

from __future__ import annotations

from recon.core.refusal import Hindrance
from recon.core.types import Chunk, ChunkGeometry, PassedFrame, SkippedFrame, SparsePoints
from recon.mapping.frames import ALONE, NOT_YET, UNFINISHED, RunFrames
from tests.support import frame_of, placed_frame


def test_every_frame_without_a_pose_is_named_once_with_its_reason() -> None:
    frames = RunFrames()
    unreadable = SkippedFrame(2, "2.jpg", "the file is empty")
    passed = [PassedFrame(index, 0.0, f"{index}.jpg") for index in (6, 7)]
    for item in (frame_of(0), frame_of(1), unreadable, frame_of(3), frame_of(4), frame_of(5), *passed):
        frames.take(item)
    still = Hindrance.STILL.unplaced
    chunk = Chunk(0, tuple(frame_of(index) for index in (0, 1, 3, 4)), 0)
    frames.explain(chunk, ChunkGeometry((), SparsePoints.empty(), {3: still}))
    assert frames.settle(placed_frame(7)) == 1
    assert frames.skipped({0, 1}) == (
        unreadable,
        SkippedFrame(3, "0003.jpg", still.reason, "unplaced"),
        SkippedFrame(4, "0004.jpg", ALONE.reason, "unplaced"),
        SkippedFrame(5, "0005.jpg", UNFINISHED.reason, "unplaced"),
        SkippedFrame(6, "6.jpg", NOT_YET, "passed"),
    )
    assert [frame.index for frame in frames.between] == [7]


def test_frames_that_were_passed_over_count_as_done() -> None:
    frames = RunFrames()
    for index in range(0, 12, 2):
        frames.take(PassedFrame(index, 0.0, f"{index}.jpg") if index % 4 else frame_of(index))
    assert [frames.count_up_to(index) for index in (0, 3, 10)] == [1, 2, 6]
