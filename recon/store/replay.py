"""A front end that wraps another one and takes the chunks that an earlier run finished from its journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recon.core.stopwatch import stage
from recon.core.types import Chunk, ChunkGeometry, FrameGeometry
from recon.frontend import GeometryFrontEnd, Resumable
from recon.store.journal import Journal


class ReplayedChunks:
    """Geometry of chunks from the journal or, if it has none, from the ``inner`` front end, which sees all chunks."""

    def __init__(self, inner: GeometryFrontEnd, journal: Journal) -> None:
        self._inner, self._journal = inner, journal
        self._before: dict[int, FrameGeometry] = {}  # of the last chunk

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
