"""The seam between the pipeline and whatever finds geometry in a chunk of frames, and the one place that chooses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from recon.core.events import Listener
from recon.core.refusal import Unplaced
from recon.core.registry import Registry, loaded
from recon.core.similarity import Array
from recon.core.types import Chunk, ChunkGeometry, SparseModel
from recon.settings import RunSettings


@dataclass(frozen=True)
class Workplace:
    """What a front end gets from its run. folder: for files of its own. finished: frames of an earlier run, by index,
    whose chunks are recalled first, see ``Resumable``.
    """

    folder: Path
    tell: Listener
    finished: Sequence[int] = ()


class GeometryFrontEnd(Protocol):
    """Finds camera poses and dense depth for the frames of one chunk. See ``Resumable`` for what it may do besides."""

    @classmethod
    def prepare(cls, settings: RunSettings) -> Callable[[Workplace], GeometryFrontEnd]:
        """What starts the front end. Weights are read here, before the run touches its folder.

        Raises ReconError where the settings or weights cannot work.
        """
        ...

    @property
    def unadjusted(self) -> str:
        """Why to doubt a map for which ``refine`` returns nothing, a sentence without its stop; empty for no reason."""
        ...

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """Geometry of the chunk in a frame and unit of the front end's choice.

        Frames that cannot be placed are named in ``unplaced`` with the reason; finding none at all is not an error.
        """
        ...

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        """The whole map's poses after all chunks, made consistent with each other, in the same world.

        cam_from_world: rigid (4, 4) by frame index, as the chunks placed them. loops: pairs of frames (the earlier
        first) that are known to see the same place. Frames may be missing in the result where they contradict the
        rest, and others may have found a place. An empty result keeps everything as it is.
        """
        ...

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        """The sentence for a source of two or more frames (``names`` by index), fewer than two of which have a place.

        reasons: why, by index.
        """
        ...

    def close(self) -> None:
        """Give up what was kept in memory between chunks; the front end cannot be used afterwards."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A front end that can continue behind the chunks of an earlier run."""

    def memory(self) -> Mapping[str, Any]:
        """What it needs to continue behind the last chunk, besides that chunk's geometry, as JSON has it."""
        ...

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """Take over a chunk that ``reconstruct`` saw in an earlier run, with the ``memory`` behind it.

        Called for all finished chunks in order, before others are reconstructed.
        """
        ...


FRONT_ENDS: Registry[str | type[GeometryFrontEnd]] = Registry(
    "front end",
    {
        "sfm": "recon.sfm.frontend:StructureFromMotion",
        "network": "recon.network.frontend:TransformerFrontEnd",
    },
)


def front_end_name(settings: RunSettings) -> str:
    """The name of the front end that the settings ask for."""
    return settings.front_end or ("network" if settings.network else "sfm")


def front_end_class(settings: RunSettings) -> type[GeometryFrontEnd]:
    """The front end that the settings ask for. Raises SettingsError for a name that is not registered."""
    return loaded(FRONT_ENDS.known(front_end_name(settings)))
