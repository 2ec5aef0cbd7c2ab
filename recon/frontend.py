"""The seam between the pipeline and whatever finds geometry in a chunk of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from recon.core.similarity import Array
from recon.core.types import Chunk, ChunkGeometry, SparseModel


class GeometryFrontEnd(Protocol):
    """Finds camera poses and dense depth for the frames of one chunk."""

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """Geometry of the chunk in a frame and unit of the front end's choice.

        Frames that cannot be placed are named in ``unplaced`` with the reason; finding none at all is not an error.
        """
        ...

    @property
    def memory(self) -> Mapping[str, Any]:
        """What the front end goes on with behind the last chunk, besides that chunk's geometry, as JSON has it."""
        ...

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """Take over a chunk that ``reconstruct`` saw in an earlier run, with the ``memory`` behind it.

        Called for all finished chunks in order, before others are reconstructed.
        """
        ...

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        """The whole map's poses after all chunks, made consistent with each other, in the same world.

        cam_from_world: rigid (4, 4) by frame index, as the chunks placed them. loops: pairs of frames (the earlier
        first) that are known to see the same place. Frames may be missing in the result where they contradict the
        rest, and others may have found a place. An empty result keeps everything as it is.
        """
        ...

    def close(self) -> None:
        """Give up what was kept in memory between chunks; the front end cannot be used afterwards."""
        ...
