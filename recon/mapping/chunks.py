"""Groups a stream of frames into overlapping chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat

from recon.core.errors import SettingsError
from recon.core.types import Chunk, Frame


def chunks(
    frames: Iterable[Frame], size: int, overlap: int, finished: Sequence[tuple[int, int]] = ()
) -> Iterator[Chunk]:
    """Chunks of ``size`` frames, each of which starts with the last ``overlap`` frames of the previous one.

    finished: size and overlap of the first chunks, if an earlier run has made them.

    A chunk is yielded as soon as its last frame is read; at most one chunk of frames is in memory. The last chunk may
    be shorter, but always adds at least one new frame. Raises SettingsError unless size > overlap >= 1.
    """
    if not size > overlap >= 1:
        raise SettingsError(f"--chunk must exceed --overlap, and --overlap be at least 1; got {size} and {overlap}.")
    return _chunks(frames, chain(finished, repeat((size, overlap))))


def _chunks(frames: Iterable[Frame], shapes: Iterator[tuple[int, int]]) -> Iterator[Chunk]:
    held: list[Frame] = []
    index = repeated = 0
    size, _ = next(shapes)
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield Chunk(index, tuple(held), repeated)
            size, overlap = next(shapes)
            held = held[-overlap:]
            index, repeated = index + 1, len(held)
    if len(held) > repeated:
        yield Chunk(index, tuple(held), repeated)
