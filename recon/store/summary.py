"""What a map holds, from its ledger and report alone: no depth or points are read, and not even NumPy is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recon.core.errors import MapError
from recon.core.metric import Metric
from recon.core.typed_json import read_object, typed
from recon.store.ledger import Ledger

AGAIN = "Check the map with: recon check"
NETWORK = "network {}"
CLASSICAL = "structure from motion ({matcher}), {depth} depth"


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
    """The summary of the map in ``folder``. Raises MapError if there is none, or if its ledger or report is damaged.

    A map without a report, as of a run that was killed, has no loops and doubts.
    """
    ledger = Ledger(folder)
    with ledger.reading():
        states, parts = ledger.read("map", _State, AGAIN), ledger.read("parts", _Part, AGAIN)
        posed, skipped = ledger.read("frames", _Row, AGAIN), ledger.read("skipped", _Skipped, AGAIN)
    if not states:
        from recon.store.missing import why_no_map  # noqa: PLC0415  takes as long as the rest

        raise MapError(why_no_map(folder))
    report = _read_report(folder / "report.json")
    mapped = sum(row.mapped for row in posed)
    settings = parts[-1].settings if parts else report.settings
    complete = bool(states[0].complete)
    return MapSummary(
        folder=str(folder),
        complete=complete,
        sources=tuple(part.source for part in parts) or tuple(filter(None, [report.source])),
        made_by=settings.made_by,
        mapped=mapped,
        between=len(posed) - mapped,
        unplaced=dict(Counter(row.kind for row in skipped)),
        extent=_extent([row.centre for row in posed]),
        lenses=tuple(Counter(row.camera for row in posed).items()),
        metric=states[0].metric if complete else None,
        loops=(sum(loop.verdict == "accepted" for loop in report.loops), len(report.loops)),
        doubts=report.suspicions + tuple(chunk.doubt for chunk in report.chunks if chunk.warnings),
        bytes_map=_size(folder / "map"),
        bytes_all=_size(folder),
    )


@dataclass(frozen=True)
class _Row:
    """world_from_cam: (4, 4)."""

    camera: Lens
    mapped: Literal[0, 1]
    world_from_cam: tuple[tuple[float, float, float, float], ...]

    @property
    def centre(self) -> tuple[float, ...]:
        return tuple(row[3] for row in self.world_from_cam[:3])


@dataclass(frozen=True)
class _Skipped:
    kind: str = "unplaced"


@dataclass(frozen=True)
class _State:
    complete: Literal[0, 1]
    metric: Metric | None


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


def _read_report(path: Path) -> _Report:
    """The content of a report; nothing but defaults if there is none."""
    try:
        content = read_object(path, 1, AGAIN)
    except FileNotFoundError:
        return _Report()
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. {AGAIN}") from error
    return typed(content, _Report, path, AGAIN)


def _extent(centres: Iterable[tuple[float, ...]]) -> tuple[float, float, float]:
    x, y, z = (max(values) - min(values) for values in zip(*centres, strict=True)) if centres else (0.0, 0.0, 0.0)
    return x, y, z


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run has replaced it in the meantime
            found += path.stat().st_size if path.is_file() else 0
    return found
