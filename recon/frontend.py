"""The seam between the pipeline and whatever finds geometry in a chunk of frames."""

from __future__ import annotations

from typing import Protocol

from recon.types import Chunk, ChunkGeometry


class GeometryFrontEnd(Protocol):
    """Finds camera poses and dense depth for the frames of one chunk."""

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """Geometry of the chunk in a frame and unit of the front end's choice.

        Frames that cannot be placed are named in ``unplaced`` with the reason; finding none at all is not an error.
        """
        ...
