import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.core.errors import SettingsError
from recon.core.types import Frame
from recon.mapping.chunks import chunks


def frame(index: int) -> Frame:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    return Frame(index, float(index), image, f"{index}.png", (2, 2), "lens", 0.0, np.ones((2, 2), dtype=np.bool_))


def indices(count: int, size: int, overlap: int) -> list[list[int]]:
    return [[item.index for item in chunk.frames] for chunk in chunks(map(frame, range(count)), size, overlap)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [[0]]),
        (4, [[0, 1, 2, 3]]),
        (5, [[0, 1, 2, 3], [2, 3, 4]]),
        (6, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (7, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]),
    ],
)
def test_chunks_of_four_with_overlap_two(count: int, expected: list[list[int]]) -> None:
    assert indices(count, size=4, overlap=2) == expected


def test_chunks_after_those_of_an_earlier_run() -> None:
    found = chunks(map(frame, range(12)), 4, 1, [(3, 0), (5, 2)])
    assert [([item.index for item in chunk.frames], chunk.overlap) for chunk in found] == [
        ([0, 1, 2], 0),
        ([1, 2, 3, 4, 5], 2),
        ([5, 6, 7, 8], 1),
        ([8, 9, 10, 11], 1),
    ]


@given(st.data())
def test_every_frame_once_in_order_and_overlaps_repeat(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 60))
    overlap = data.draw(st.integers(1, 10))
    size = data.draw(st.integers(overlap + 1, 25))
    frames = [frame(index) for index in range(count)]
    found = list(chunks(iter(frames), size, overlap))
    assert [item for chunk in found for item in chunk.frames[chunk.overlap :]] == frames
    assert [chunk.index for chunk in found] == list(range(len(found)))
    assert [chunk.overlap for chunk in found] == [0, *[overlap] * (len(found) - 1)][: len(found)]
    assert all(len(chunk.frames) == size for chunk in found[:-1])
    assert all(chunk.overlap < len(chunk.frames) <= size for chunk in found)
    for before, after in pairwise(found):
        assert before.frames[-overlap:] == after.frames[:overlap]


def test_a_chunk_comes_before_the_next_frame_is_read() -> None:
    read = []

    def source() -> Iterator[Frame]:
        for index in range(10):
            read.append(index)
            yield frame(index)

    next(chunks(source(), 4, 1))
    assert read == [0, 1, 2, 3]


def test_at_most_one_chunk_of_frames_is_held() -> None:
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def source() -> Iterator[Frame]:
        nonlocal most
        for index in range(50):
            new = frame(index)
            alive.add(new)
            most = max(most, len(alive))
            yield new

    for chunk in chunks(source(), 6, 2):
        del chunk
    assert most <= 7  # six of a chunk, and the one being handed over


@pytest.mark.parametrize(("size", "overlap"), [(4, 4), (4, 5), (4, 0), (1, 1), (0, -1)])
def test_impossible_sizes_are_refused_at_once(size: int, overlap: int) -> None:
    with pytest.raises(SettingsError, match=f"got {size} and {overlap}"):
        chunks([], size, overlap)
