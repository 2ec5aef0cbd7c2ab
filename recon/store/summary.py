"""What a map holds, from its JSON files alone: no depth or points are read, and not even NumPy is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from recon.core.errors import MapError
from recon.core.metric import Metric
from recon.core.typed_json import read_object, typed
from recon.store.versions import VERSIONS_READ

AGAIN = "Check the map with: recon check"
NETWORK = "network {}"
CLASSICAL = "structure from motion ({matcher}), {depth} depth"
Content = TypeVar("Content")


@dataclass(frozen=True)
class Lens:
    """A distinct lens of a map. params: of COLMAP's ``model``, in pixels of a width x height image."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class MapSummary:
    """A map at a glance.

    made_by: front end and weights. mapped, between: frames of the map, and frames that were passed over and have a pose
    only. unplaced: frames without a pose by kind, see ``SkippedFrame``. extent: sides of the box around the camera
    centres, along the axes, in the map's unit. lenses: with how many frames each took. metric: None if lengths are in
    the map's own unit. loops: accepted ones, of how many candidates. doubts: sentences of the run. bytes_map,
    bytes_all: on disk, of the map and of the whole folder.
    """

    folder: str
    complete: bool
    sources: tuple[str, ...]
    made_by: str
    mapped: int
    between: int
    unplaced: dict[str, int]
    extent: tuple[float, float, float]
    lenses: tuple[tuple[Lens, int], ...]
    metric: Metric | None
    loops: tuple[int, int]
    doubts: tuple[str, ...]
    bytes_map: int
    bytes_all: int


def summarise(folder: Path) -> MapSummary:
    """The summary of the map in ``folder``. Raises MapError if there is none, or if one of its JSON files is damaged.

    A map without a report, as of a run that was killed, has no loops and doubts.
    """
    if not (folder / "map" / "map.json").is_file():
        from recon.store.missing import why_no_map  # noqa: PLC0415  takes as long as the rest

        raise MapError(why_no_map(folder))
    places = _read(folder / "map" / "map.json", _Places, VERSIONS_READ)
    parts = _read(folder / "map" / "run.json", _Parts, (1, 2))
    report = _read(folder / "report.json", _Report, (1,))
    posed = places.frames + places.between
    taken = Counter(row.camera for row in posed)
    settings = parts.parts[-1].settings if parts.parts else report.settings
    return MapSummary(
        folder=str(folder),
        complete=places.complete,
        sources=tuple(part.source for part in parts.parts) or tuple(filter(None, [report.source])),
        made_by=settings.made_by,
        mapped=len(places.frames),
        between=len(places.between),
        unplaced=dict(Counter(row.kind for row in places.skipped)),
        extent=_extent([row.centre for row in posed]),
        lenses=tuple((lens, taken[number]) for number, lens in enumerate(places.cameras)),
        metric=places.metric if places.complete else None,
        loops=(sum(loop.verdict == "accepted" for loop in report.loops), len(report.loops)),
        doubts=report.suspicions + tuple(chunk.doubt for chunk in report.chunks if chunk.warnings),
        bytes_map=_size(folder / "map"),
        bytes_all=_size(folder),
    )


@dataclass(frozen=True)
class _Row:
    """world_from_cam: (4, 4)."""

    camera: int
    world_from_cam: tuple[tuple[float, float, float, float], ...]

    @property
    def centre(self) -> tuple[float, ...]:
        return tuple(row[3] for row in self.world_from_cam[:3])


@dataclass(frozen=True)
class _Skipped:
    kind: str = "unplaced"


@dataclass(frozen=True)
class _Places:
    """The part of map.json that a summary needs."""

    complete: bool = False
    cameras: tuple[Lens, ...] = ()
    frames: tuple[_Row, ...] = ()
    between: tuple[_Row, ...] = ()
    skipped: tuple[_Skipped, ...] = ()
    metric: Metric | None = None


@dataclass(frozen=True)
class _Network:
    weights: str


@dataclass(frozen=True)
class _Settings:
    network: _Network | None = None
    front_end: str = ""
    matcher: str = ""
    depth: str = ""

    @property
    def made_by(self) -> str:
        if self.network:
            return NETWORK.format(self.network.weights)
        return self.front_end or (CLASSICAL.format(**vars(self)) if self.matcher else "")


@dataclass(frozen=True)
class _Part:
    source: str
    settings: _Settings


@dataclass(frozen=True)
class _Parts:
    """The part of run.json that a summary needs."""

    parts: tuple[_Part, ...] = ()


@dataclass(frozen=True)
class _Loop:
    verdict: str


@dataclass(frozen=True)
class _Chunk:
    first: int
    last: int
    warnings: tuple[str, ...] = ()

    @property
    def doubt(self) -> str:
        return f"frames {self.first} to {self.last}: {'; '.join(self.warnings)}"


@dataclass(frozen=True)
class _Report:
    """The part of report.json that a summary needs."""

    source: str = ""
    settings: _Settings = _Settings()
    chunks: tuple[_Chunk, ...] = ()
    loops: tuple[_Loop, ...] = ()
    suspicions: tuple[str, ...] = ()


def _read(path: Path, kind: type[Content], versions: tuple[int, ...]) -> Content:
    """The content of a file; nothing but defaults if there is none."""
    try:
        content: dict[str, Any] = read_object(path, versions, AGAIN)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. {AGAIN}") from error
    return typed(content, kind, path, AGAIN)


def _extent(centres: Iterable[tuple[float, ...]]) -> tuple[float, float, float]:
    x, y, z = (max(values) - min(values) for values in zip(*centres, strict=True)) if centres else (0.0, 0.0, 0.0)
    return x, y, z


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
