"""A front end that wraps another one and takes the chunks that an earlier run finished from its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recon.core.errors import ReconError
from recon.core.stopwatch import stage
from recon.core.types import Chunk, ChunkGeometry, FrameGeometry
from recon.frontend import GeometryFrontEnd, Resumable, Separate
from recon.store.journal import Journal


class ReplayedChunks:
    """Geometry of chunks from the journal or, if it has none, from the ``inner`` front end, which sees all chunks."""

    def __init__(self, inner: GeometryFrontEnd, journal: Journal) -> None:
        self._inner, self._journal = inner, journal
        self._before: dict[int, FrameGeometry] = {}  # of the last chunk

    def reconstruct_all(
        self, chunks: Iterator[Chunk], is_next_ready: Callable[[], bool]
    ) -> Iterator[tuple[Chunk, ChunkGeometry]]:
        """Chunks with their geometry, see ``reconstruct``.

        A front end in another process goes through the next chunk while the caller uses the last. At most one chunk is
        read ahead, if ``is_next_ready`` says that reading it delays nothing.
        """
        if not isinstance(self._inner, Separate):
            yield from ((chunk, self.reconstruct(chunk)) for chunk in chunks)
            return
        inner, finished = self._inner, len(self._journal.finished)
        following = _Following(chunks)
        while chunk := following.take():
            if chunk.index >= finished:  # those before are recalled by now
                inner.begin(chunk)
                following.begin = inner.begin
            following.fetch(is_next_ready)
            geometry = self.reconstruct(chunk)
            following.fetch(is_next_ready)
            yield chunk, geometry

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """See ``GeometryFrontEnd``. Raises what ``Journal.recall`` does."""
        finished = chunk.index < len(self._journal.finished)
        with stage("reading back" if finished else "geometry"):
            geometry = self._recall(chunk) if finished else self._inner.reconstruct(chunk)
        self._before = {frame.index: frame for frame in geometry.frames}
        return geometry

    def _recall(self, chunk: Chunk) -> ChunkGeometry:
        geometry = self._journal.recall(chunk, self._before)
        if isinstance(self._inner, Resumable):  # the journal refuses to resume any other
            self._inner.recall(chunk, geometry, self._journal.finished[chunk.index].memory)
        return geometry

    def memory(self) -> Mapping[str, Any]:
        """The front end's memory after a chunk, for the journal; empty for a front end that cannot be resumed."""
        return self._inner.memory() if isinstance(self._inner, Resumable) else {}


class _Following:
    """The next chunk, read before it is used. An error of the source waits until then.

    begin: called with each chunk that is read, once it is set.
    """

    begin: Callable[[Chunk], None] | None = None

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._next: Chunk | None = None
        self._error: ReconError | None = None

    def take(self) -> Chunk | None:
        """The next chunk, None after the last. Raises the source's ReconError."""
        self.fetch(lambda: True)
        if self._error:
            raise self._error
        chunk, self._next = self._next, None
        return chunk

    def fetch(self, is_ready: Callable[[], bool]) -> None:
        """Read the next chunk, if that has not been done and it is ready."""
        if self._next or self._error or not is_ready():
            return
        try:
            self._next = next(self._chunks, None)
        except ReconError as error:
            self._error = error
        if self._next and self.begin:
            self.begin(self._next)
