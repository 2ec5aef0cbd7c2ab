"""Descriptors of the frames of many maps, searched together: the interface, and its two engines.

``EmbeddedPlaces`` is SQLite with FAISS, for one machine. ``LancePlaces`` is LanceDB, for several writers and for object
stores. A map is added in one piece: of one that a kill interrupts, all frames are there, or none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError
from retrieval.describer import Descriptors

Engine = Literal["embedded", "lance"]
LANCE_FOLDER = "lance"
Frames = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """A frame of a map that looks like a query. similarity: the inner product of their descriptors."""

    map: str
    frame: int
    similarity: float


class PlaceStore(Protocol):
    """The places of maps, by the maps' names. All descriptors are of one describer, and new ones are found at once.

    Methods raise OutputError if the store cannot be written, or MapError if it is damaged.
    """

    def add(self, name: str, frames: Sequence[int], descriptors: Descriptors) -> None:
        """Add a map with descriptors (n, dim) of unit length of its frames (n,), in place of what it had."""
        ...

    def search(
        self, descriptor: Descriptors, k: int, *, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> list[Place]:
        """The ``k`` places most similar to a descriptor (dim,), the best first. only: maps to search, None for all.
        without: maps to leave out.
        """
        ...

    def read(self, name: str) -> tuple[Frames, Descriptors]:
        """The frames (n,) of a map and their descriptors (n, dim), in order of the frames. Raises MapError if the map
        is not there.
        """
        ...

    def delete(self, name: str) -> None:
        """Forget a map; nothing happens if it is not there."""
        ...

    def maps(self) -> dict[str, int]:
        """How many frames each map has."""
        ...

    def build_index(self) -> None:
        """Make searches fast; once after many maps, as each call costs seconds."""
        ...

    def close(self) -> None: ...


def open_store(folder: Path | str, describer: str, dim: int, engine: Engine | None = None) -> PlaceStore:
    """The store in ``folder``, made if there is none. describer: ``PlaceDescriber.name``. engine: None for the one that
    made the store, embedded for a new one. A folder of LanceDB may also be a URL, such as ``s3://bucket/places``.

    Raises MapError if the store is damaged or of another describer, and OutputError if it cannot be made.
    """
    if engine == "lance" or "://" in str(folder) or (engine is None and (Path(folder) / LANCE_FOLDER).is_dir()):
        from retrieval.fleet.lance_places import LancePlaces  # noqa: PLC0415 - an extra

        return LancePlaces(folder if "://" in str(folder) else Path(folder) / LANCE_FOLDER, describer, dim)
    from retrieval.fleet.embedded_places import EmbeddedPlaces  # noqa: PLC0415 - as heavy as FAISS

    return EmbeddedPlaces(Path(folder), describer, dim)


def checked(frames: Sequence[int], descriptors: Descriptors, dim: int) -> tuple[Frames, Descriptors]:
    """The arguments of ``PlaceStore.add`` as arrays, in order of the frames.

    Raises ValueError for another shape, values that are not finite, and a frame that occurs twice.
    """
    numbers, vectors = np.asarray(frames, dtype=np.int64), np.asarray(descriptors, dtype=np.float32)
    if vectors.shape != (len(numbers), dim) or not np.isfinite(vectors).all():
        raise ValueError(f"descriptors must be finite and of the shape ({len(numbers)}, {dim}), got {vectors.shape}")
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError("a frame stands for one descriptor")
    order = np.argsort(numbers)
    return numbers[order], np.ascontiguousarray(vectors[order])


def absent(name: str) -> MapError:
    """The error for a map that is not in the store."""
    return MapError(f"The place store has no map {name}. Add it: recon fleet merge adds every finished map.")


def of_another(where: object, stored: object, wanted: object) -> MapError:
    """The error for a store of another describer."""
    return MapError(
        f"The place store in {where} holds descriptors of {stored}, this search needs those of {wanted}. Delete it: "
        "recon fleet merge makes it again."
    )
