"""Stores a map while it grows; writes nothing while chunks of an earlier run are replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry, PlacedFrame, SkippedFrame, SparsePoints, Submap
from recon.store.finished import finished_world, forget_finished, keep_finished
from recon.store.journal import Journal
from recon.store.map import MapStore, stored_metric


class GrowingStore:
    """The store of a run. earlier: poses of the finished map that the run extends."""

    def __init__(self, out: Path, journal: Journal, *, resumable: bool) -> None:
        self._journal, self._resumable = journal, resumable
        self._store = MapStore(out, journal.ledger)
        self.earlier: Mapping[int, Sim3] = finished_world(out)
        self._metric = stored_metric(out)

    def transaction(self) -> AbstractContextManager[object]:
        """In which all that a chunk changes is stored: a kill leaves the map as it was before or after."""
        return nullcontext() if self._journal.is_recalling else self._journal.ledger.writing()

    def write_submap(self, submap: Submap, new_frames: set[int], other_frames: Sequence[FrameGeometry] = ()) -> None:
        """See ``MapStore``. The other frames are stored only if the run can be resumed."""
        if not self._journal.is_recalling:
            self._store.write_submap(submap, new_frames, other_frames if self._resumable else ())

    def read_submap(self, number: int, placed: Mapping[int, PlacedFrame]) -> dict[int, FrameGeometry]:
        """See ``MapStore``."""
        return self._store.read_submap(number, placed)

    def write_places(
        self, frames: tuple[PlacedFrame, ...], skipped: tuple[SkippedFrame, ...], points: SparsePoints
    ) -> None:
        """Store the poses of all frames, in an unfinished map. Raises OutputError."""
        if not self._journal.is_recalling:
            with self._journal.ledger.writing():
                keep_finished(self._journal.ledger, self.earlier)
                self._store.write_places(frames, skipped, points, complete=False, metric=self._metric)

    def finish(
        self,
        frames: tuple[PlacedFrame, ...],
        skipped: tuple[SkippedFrame, ...],
        points: SparsePoints,
        *,
        between: tuple[PlacedFrame, ...],
        complete: bool,
    ) -> None:
        """Store the final poses, see ``MapStore.write_places``. Raises OutputError."""
        in_earlier_world = any(frame.index in self.earlier for frame in frames)
        metric = self._metric if in_earlier_world else None
        with self._journal.ledger.writing():
            keep_finished(self._journal.ledger, self.earlier)
            self._store.write_places(frames, skipped, points, complete=complete, between=between, metric=metric)
            if complete:
                forget_finished(self._journal.ledger)
