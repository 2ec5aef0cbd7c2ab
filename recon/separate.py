"""A front end in its own process, and ``SeparateFrontEnd``, its proxy in the pipeline's process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recon.core.events import Listener
from recon.core.failures import ERROR_FILE, WorkerDied
from recon.core.refusal import Unplaced
from recon.core.serving import note_crashes
from recon.core.similarity import Array
from recon.core.types import Chunk, ChunkGeometry, FrameGeometry, SparseModel
from recon.core.workers import Call, Kept, Workers
from recon.frontend import PreparedFrontEnd, Resumable, Workplace, front_end_class
from recon.settings import RunSettings

Sent = tuple[ChunkGeometry, tuple[FrameGeometry | int, ...]]


class SharedFrames:
    """The frames of the last chunk, known to both processes.

    Frames that the next chunk keeps are sent as their index and so remain the same objects on the receiving side.
    """

    def __init__(self) -> None:
        self._known: dict[int, FrameGeometry] = {}

    def packed(self, geometry: ChunkGeometry) -> Sent:
        """The geometry of a chunk in the form to send."""
        frames = tuple(frame.index if self._known.get(frame.index) is frame else frame for frame in geometry.frames)
        self._known = {frame.index: frame for frame in geometry.frames}
        return replace(geometry, frames=()), frames

    def unpacked(self, sent: Sent) -> ChunkGeometry:
        """The geometry of a received chunk."""
        rest, received = sent
        frames = tuple(self._known[frame] if isinstance(frame, int) else frame for frame in received)
        self._known = {frame.index: frame for frame in frames}
        return replace(rest, frames=frames)


class HostedFrontEnd:
    """The actual front end, in its own process."""

    def __init__(self, settings: RunSettings) -> None:
        kind = front_end_class(settings)
        self._resumable, self._start = issubclass(kind, Resumable), kind.prepare(settings)
        self._shared = SharedFrames()
        self._front_end: Any = None

    def is_resumable(self) -> bool:
        return self._resumable

    def start(self, folder: Path, tell: Listener, finished: Sequence[int]) -> None:
        note_crashes(folder.parent / ERROR_FILE)
        self._front_end = self._start(Workplace(folder, tell, finished))

    def reconstruct(self, chunk: Chunk) -> tuple[Sent, Mapping[str, Any]]:
        """The geometry of a chunk, and the front end's memory after it."""
        geometry = self._front_end.reconstruct(chunk)
        return self._shared.packed(geometry), self._front_end.memory() if self._resumable else {}

    def recall(self, chunk: Chunk, sent: Sent, memory: Mapping[str, Any]) -> None:
        self._front_end.recall(chunk, self._shared.unpacked(sent), memory)

    def unadjusted(self) -> str:
        return str(self._front_end.unadjusted)

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        model: SparseModel = self._front_end.refine(cam_from_world, loops)
        return model

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        return str(self._front_end.explain_nothing(source, names, reasons))

    def close(self) -> None:
        if self._front_end:
            self._front_end.close()


class SeparateFrontEnd:
    """Proxy of a front end in another process; see ``GeometryFrontEnd``. Every method may raise WorkerDied."""

    def __init__(self, hosted: Kept, workers: Workers, place: Workplace) -> None:
        self._hosted, self._workers = hosted, workers
        self._shared = SharedFrames()
        self._begun: dict[int, Call] = {}
        self._memory: Mapping[str, Any] = {}
        hosted.call("start", place.folder, workers.tell, tuple(place.finished))

    @property
    def unadjusted(self) -> str:
        return str(self._hosted.call("unadjusted"))

    def begin(self, chunk: Chunk) -> None:
        """See ``Separate``."""
        if chunk.index not in self._begun:
            self._begun[chunk.index] = self._hosted.submit("reconstruct", chunk)

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        self.begin(chunk)
        sent, self._memory = self._begun.pop(chunk.index).result()
        return self._shared.unpacked(sent)

    def refine(self, cam_from_world: Mapping[int, Array], loops: Sequence[tuple[int, int]]) -> SparseModel:
        model: SparseModel = self._hosted.call("refine", cam_from_world, loops)
        return model

    def explain_nothing(self, source: str, names: Mapping[int, str], reasons: Mapping[int, Unplaced]) -> str:
        return str(self._hosted.call("explain_nothing", source, names, reasons))

    def close(self) -> None:
        """Interrupt the other process and end it."""
        if self._hosted.idle:
            with suppress(WorkerDied):
                self._hosted.call("close")
        self._workers.end("geometry")


class SeparateResumable(SeparateFrontEnd):
    """Proxy of a front end that is ``Resumable``."""

    def memory(self) -> Mapping[str, Any]:
        return self._memory

    def recall(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        self._hosted.call("recall", chunk, self._shared.packed(geometry), memory)


def prepare_front_end(settings: RunSettings, workers: Workers) -> PreparedFrontEnd:
    """The front end that the settings ask for, in a worker if there is one. Raises what its ``prepare`` raises."""
    if not workers.separate:
        kind = front_end_class(settings)
        return PreparedFrontEnd(issubclass(kind, Resumable), kind.prepare(settings))
    hosted = workers.keep("geometry", "recon.separate:HostedFrontEnd", settings)
    resumable = hosted.call("is_resumable")
    # A proxy needs no ``prepare``.
    start: Any = partial(SeparateResumable if resumable else SeparateFrontEnd, hosted, workers)
    return PreparedFrontEnd(resumable, start)
