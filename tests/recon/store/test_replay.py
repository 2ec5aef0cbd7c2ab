"""The order in which chunks are read, reconstructed and used, with a front end in another process and without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from recon.core.errors import SourceError
from recon.core.types import Chunk, ChunkGeometry, SparsePoints
from recon.store.journal import ChunkRecord, Journal
from recon.store.replay import ReplayedChunks
from tests.support import frame_of


class Here:
    """A front end in this process that notes what happens."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        self.log.append(f"wait {chunk.index}")
        return ChunkGeometry((), SparsePoints.empty())


class There(Here):
    """One in another process."""

    def begin(self, chunk: Chunk) -> None:
        if f"begin {chunk.index}" not in self.log:
            self.log.append(f"begin {chunk.index}")


class Finished:
    """A journal with chunks to recall."""

    def __init__(self, count: int) -> None:
        self.finished = (ChunkRecord(0, (), (), {}, {}, {}),) * count

    def recall(self, chunk: Chunk, before: object) -> ChunkGeometry:
        return ChunkGeometry((), SparsePoints.empty())


def read(log: list[str], count: int, *, broken: bool = False) -> Iterator[Chunk]:
    for index in range(count):
        log.append(f"read {index}")
        yield Chunk(index, (frame_of(index),), 0)
    if broken:
        raise SourceError("the rest cannot be read")


def order(kind: type[Here], *, finished: int = 0, ready: bool = True) -> list[str]:
    log: list[str] = []
    front_end = ReplayedChunks(cast(Any, kind(log)), cast(Journal, Finished(finished)))
    for chunk, _ in front_end.reconstruct_all(read(log, 3), lambda: ready):
        log.append(f"use {chunk.index}")
    return log


def test_in_one_process_a_chunk_is_used_before_the_next_is_read() -> None:
    assert order(Here) == [step for n in range(3) for step in (f"read {n}", f"wait {n}", f"use {n}")]
    assert order(Here, finished=2)[-3:] == ["read 2", "wait 2", "use 2"]


def test_another_process_has_the_next_chunk_while_this_one_uses_the_last() -> None:
    assert " ".join(order(There)) == (
        "read 0 begin 0 read 1 begin 1 wait 0 use 0 read 2 begin 2 wait 1 use 1 wait 2 use 2"
    )


def test_a_chunk_is_not_kept_waiting_for_frames_of_the_next() -> None:
    one_by_one = [step for n in range(3) for step in (f"read {n}", f"begin {n}", f"wait {n}", f"use {n}")]
    assert order(There, ready=False) == one_by_one


def test_nothing_begins_before_what_is_to_be_recalled() -> None:
    assert " ".join(order(There, finished=1)) == "read 0 read 1 use 0 begin 1 read 2 begin 2 wait 1 use 1 wait 2 use 2"
    assert not [step for step in order(There, finished=3) if step.startswith(("begin", "wait"))]


def test_an_error_of_the_source_comes_after_the_chunks_before_it() -> None:
    log: list[str] = []
    front_end = ReplayedChunks(There(log), Finished(0))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="the rest cannot be read"):
        for chunk, _ in front_end.reconstruct_all(read(log, 2, broken=True), lambda: True):
            log.append(f"use {chunk.index}")
    assert log[-2:] == ["wait 1", "use 1"]
