"""The interface between the pipeline and the front ends that reconstruct a chunk of frames, and the choice of one."""

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
    """What a run gives its front end. folder: for the front end's own files. finished: indices of an earlier run's
    frames, whose chunks are recalled first; see ``Resumable``.
    """

    folder: Path
    tell: Listener
    finished: Sequence[int] = ()


class GeometryFrontEnd(Protocol):
    """Estimates camera poses and dense depth for the frames of a chunk. ``Resumable`` is an optional addition."""

    @classmethod
    def prepare(cls, settings: RunSettings) -> Callable[[Workplace], GeometryFrontEnd]:
        """A function that starts the front end. Weights are read here, before the run touches its folder.

        Raises ReconError if the settings or weights cannot work.
        """
        ...

    @property
    def unadjusted(self) -> str:
        """Why a map is doubtful if ``refine`` returns nothing: a sentence without full stop, or an empty string."""
        ...

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        """Geometry of the chunk, in a coordinate frame and unit that the front end chooses.

        Frames that cannot be placed are listed in ``unplaced`` with the reason; placing none is not an error.
        """
        ...

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        """Consistent poses of the whole map, in the same world, after all chunks.

        cam_from_world: rigid (4, 4) by frame index, as placed by the chunks. loops: pairs of frames, the earlier one
        first, that see the same place. The result may omit frames that contradict the rest and add frames that had no
        pose. An empty result leaves the map unchanged.
        """
        ...

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        """The error message for a source of at least two frames of which fewer than two have a pose.

        names: of all frames, by index. reasons: why frames have no pose, by index.
        """
        ...

    def close(self) -> None:
        """Free the memory kept between chunks; the front end cannot be used afterwards."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A front end that can continue after the chunks of an earlier run."""

    def memory(self) -> Mapping[str, Any]:
        """What it needs, besides the last chunk's geometry, to continue after that chunk, as JSON values."""
        ...

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """Restore a chunk reconstructed in an earlier run, and the ``memory`` after it.

        Called for all finished chunks in order, before any chunk is reconstructed.
        """
        ...


@runtime_checkable
class Separate(Protocol):
    """A front end in another process, which works in parallel with this one."""

    def begin(self, chunk: Chunk) -> None:
        """Start on a chunk, unless already started; ``reconstruct`` then waits for the result."""
        ...


FRONT_ENDS: Registry[str | type[GeometryFrontEnd]] = Registry(
    "front end",
    {
        "sfm": "recon.sfm.frontend:StructureFromMotion",
        "network": "recon.network.frontend:TransformerFrontEnd",
    },
)


@dataclass(frozen=True)
class PreparedFrontEnd:
    """A front end before its run. resumable: whether it is ``Resumable``. start: as returned by ``prepare``."""

    resumable: bool
    start: Callable[[Workplace], GeometryFrontEnd]


def front_end_name(settings: RunSettings) -> str:
    """The name of the front end that the settings ask for."""
    return settings.front_end or ("network" if settings.network else "sfm")


def front_end_class(settings: RunSettings) -> type[GeometryFrontEnd]:
    """The front end that the settings ask for. Raises SettingsError for a name that is not registered."""
    return loaded(FRONT_ENDS.known(front_end_name(settings)))
