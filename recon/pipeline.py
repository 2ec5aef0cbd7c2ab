"""The chunk-recursive pipeline: source -> chunks -> geometry -> placed submaps -> one consistent map -> exports."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from recon.core.colmap_log import quiet
from recon.core.errors import OutputError, ReconError, ReconstructionError, SourceError
from recon.core.events import (
    ChunkReconstructed,
    Event,
    Finished,
    FrameRead,
    FrameSkipped,
    Listener,
    LoopClosed,
    Notice,
    PosesCorrected,
    Progress,
    StreamStatus,
)
from recon.core.failures import explained
from recon.core.helping import Helpers
from recon.core.places import PlaceRecogniser
from recon.core.refusal import refusal
from recon.core.types import (
    Chunk,
    ChunkGeometry,
    Frame,
    FrameGeometry,
    PassedFrame,
    PlacedFrame,
    SkippedFrame,
    SparsePoints,
    Submap,
)
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.views import DepthStage
from recon.exports.outputs import write_outputs
from recon.frontend import GeometryFrontEnd
from recon.mapping.between import PASSED, FrameLocaliser
from recon.mapping.chunks import chunks
from recon.mapping.correction import correct
from recon.mapping.doubts import Doubts, find_doubts, unjudged, warnings
from recon.mapping.placement import Placement
from recon.mapping.sanity import InsaneMapError, examine
from recon.mapping.world import (
    depth_seen,
    final_from_grown,
    finished_world,
    forget_finished,
    keep_finished,
    moved,
    moved_points,
    typical_depth,
)
from recon.settings import DenseDepth, RunSettings
from recon.sfm.frontend import SfmSettings, StructureFromMotion
from recon.sources import Source, open_source
from recon.sources.base import Candidate
from recon.sources.overlay import OverlayFinder
from recon.store.folder import refuse_own_outputs, replacing, require_usable
from recon.store.journal import AS_IT_WAS, Journal, require_run
from recon.store.lock import sole_writer
from recon.store.map import MapStore, incoming_folder, make_folder, open_map
from recon.store.report import ChunkReport, RunReport, Stopwatch, main_versions, peak_memory, write
from recon.store.resumed import ResumedSource

if TYPE_CHECKING:
    from recon.mapping.loops import LoopCloser
    from recon.network.frontend import OpenNetwork

DATABASE_FAULTS = ("SQLite error", "database factory")  # what pycolmap says when the disk is full
ALONE = "has too little in common with the rest of the map"
NOT_YET = PASSED + "the run ended before its turn, or its source is gone"
UNFINISHED = "was read, but the run ended before its turn"
UNADJUSTED = "all frames together tell of a lens that cannot be, so the poses are those of the growing map"


def reconstruct(
    source: str,
    out: Path,
    settings: RunSettings | None = None,
    listeners: Sequence[Listener] = (),
    recogniser: PlaceRecogniser | None = None,
) -> RunReport:
    """Reconstruct images or a video into the folder ``out`` and return what happened.

    recogniser: finds loops, by which the map is corrected while it grows; None to close none.

    Ctrl-C stops at the next opportunity; what is finished then is exported and ``RunReport.interrupted`` is set.
    An output that cannot be written is reported in ``RunReport.unwritten``; the others are written.
    Raises KeyboardInterrupt when nothing was finished then, and ReconError: SourceError, OutputError (``out`` exists,
    is in use by another run, cannot be written, holds no run to resume), MapError (that run is damaged),
    ReconstructionError (no geometry), WeightsError (the network's weights), UnexpectedError (anything else).
    """
    settings = settings or RunSettings()
    opened = open_source(source, settings.source, incoming_folder(out, resume=settings.resume))
    return reconstruct_source(source, opened, out, settings, listeners=listeners, recogniser=recogniser)


def reconstruct_source(
    name: str,
    source: Source,
    out: Path,
    settings: RunSettings,
    *,
    listeners: Sequence[Listener] = (),
    recogniser: PlaceRecogniser | None = None,
) -> RunReport:
    """Reconstruct an opened source, also a live one; see ``reconstruct``. name: what the source is called."""
    refuse_own_outputs(name, out)
    network = load_network(settings)
    if settings.resume:
        require_run(out)
    with quiet(), sole_writer(out, "run"), replacing(out, overwrite=settings.overwrite):
        journal = open_journal(name, source, out, settings)
        if settings.resume:
            source = ResumedSource(source, out, journal)
        with explained(out, resumable=network is None), _full_disk_told(out):
            return Run(
                name, source, out, settings, listeners, journal=journal, network=network, recogniser=recogniser
            ).execute()


@contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    """Say in a sentence what pycolmap's database makes of a full disk."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in DATABASE_FAULTS):
            raise
        raise OutputError(
            f"Cannot write {out / 'map' / 'features.db'}; is the disk full? Free some space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(incoming_folder(out, resume=True), ignore_errors=True)


def load_network(settings: RunSettings) -> OpenNetwork | None:
    """The network that the settings name, None where they name none. See ``open_network`` for errors."""
    if settings.network is None:
        return None
    from recon.network.frontend import open_network  # noqa: PLC0415  torch takes seconds to import

    return open_network(settings.network)


def open_depth_stage(kind: DenseDepth, tell: Listener) -> DepthStage:
    """What makes dense depth of frames with poses; the classical stage alone where the learned one's weights lack."""
    if kind == "classical":
        return PlaneSweep()
    from recon.depth.learned import filled_sweep  # noqa: PLC0415  torch takes seconds to import
    from recon.depth.weights import BUNDLED  # noqa: PLC0415

    if not BUNDLED.is_file():
        tell(Notice(f"{BUNDLED} is missing: depth has gaps where the plane sweep finds none."))
        return PlaneSweep()
    return filled_sweep(BUNDLED)


def open_loop_closer(recogniser: PlaceRecogniser | None) -> LoopCloser | None:
    """What closes the loops that a recogniser finds."""
    if recogniser is None:
        return None
    from recon.mapping.loops import LoopCloser  # noqa: PLC0415  gtsam is only needed here

    return LoopCloser(recogniser)


def open_journal(name: str, source: Source, out: Path, settings: RunSettings) -> Journal:
    """The journal of a new run in ``out``, or of the one to resume; see ``require_usable`` and ``Journal.resume``.

    Files give the same frames each time, and so does a folder that is watched; cameras, streams and videos at their own
    speed do not.
    """
    again = source.status is None or source.description.kind == "folder"
    where = str(Path(name).expanduser().resolve()) if again else name
    if settings.resume:
        return Journal.resume(out, where, settings, source if again else None)
    require_usable(out, overwrite=settings.overwrite)
    make_folder(out / "map")
    return Journal.begin(out, where, settings)


class Run:
    """One reconstruction, from the source to the exports."""

    def __init__(
        self,
        name: str,
        source: Source,
        out: Path,
        settings: RunSettings,
        listeners: Sequence[Listener],
        *,
        journal: Journal,
        network: OpenNetwork | None = None,
        recogniser: PlaceRecogniser | None = None,
    ) -> None:
        self._name, self._source, self._out, self._settings = name, source, out, settings
        self._listeners = listeners
        self._unwritten: tuple[str, ...] = ()
        self._journal = journal
        self._watch = Stopwatch()
        self._store = MapStore(out)
        self._placement = Placement()
        self._notices: list[str] = []
        self._suspicions: tuple[str, ...] = ()
        self._helpers = Helpers(out, self._tell)
        self._overlay = OverlayFinder(self._tell)
        self._front_end = self._open_front_end(network)
        self._names: dict[int, tuple[str, float]] = {}
        self._unreadable: list[SkippedFrame] = []
        self._passed: dict[int, PassedFrame] = {}
        self._between: dict[int, PlacedFrame | SkippedFrame] = {}
        self._reasons: dict[int, str] = {}
        self._chunks: list[ChunkReport] = []
        self._before: dict[int, FrameGeometry] = {}  # of the last chunk
        self._doubts: dict[int, Doubts] = {}
        self._points = SparsePoints.empty()
        self._loops = self._helpers.attempt("loops", lambda: open_loop_closer(recogniser))
        self._depths: dict[int, float] = {}  # of frames, see recon.mapping.world
        self._earlier = finished_world(out) if settings.resume else {}

    def _open_front_end(self, network: OpenNetwork | None) -> GeometryFrontEnd:
        """The transformer where there is one, else structure from motion."""
        if network is None:
            stage = open_depth_stage(self._settings.depth, self._tell)
            cameras = self._settings.source.cameras
            sfm = SfmSettings(
                self._settings.camera_model, self._settings.intrinsics, depth_stage=stage, cameras=cameras
            )
            return StructureFromMotion(self._out / "map", sfm, self._tell, sorted(self._journal.frames))
        from recon.network.frontend import TransformerFrontEnd  # noqa: PLC0415  torch takes seconds to import

        return TransformerFrontEnd(network, self._tell)

    def execute(self) -> RunReport:
        """Do everything; see ``reconstruct``."""
        try:
            complete = self._build()
            try:
                self._export(complete=complete)
            except KeyboardInterrupt:
                complete = False
                self._tell(Notice("Interrupted while writing: recon export makes the files that are missing."))
            report = self._write_report(interrupted=not complete)
        finally:
            self._front_end.close()
        self._tell(Finished(self._out, report.frames_placed, report.frames_read))
        return report

    def _build(self) -> bool:
        """Build the map; False when Ctrl-C ended that early. Raises KeyboardInterrupt when there is nothing to keep."""
        try:
            self._build_chunks()
            self._require_a_map()
            if self._settings.refine != "none":
                self._make_consistent()
            self._settle_world()
            self._require_sanity()
            self._place_passed()
        except KeyboardInterrupt:
            if self._is_recalling:
                self._tell(Notice("Interrupted before the map was read back: it is as it was."))
                raise
            if len(self._placement.main) < 2:
                self._discard()
                self._tell(Notice("Interrupted before any frames had a place: nothing is kept."))
                raise
            self._tell(Notice("Interrupted: writing what is finished."))
            self._settle_world()
            return False
        except ReconError as error:
            if len(self._placement.main) < 2 or isinstance(error, InsaneMapError):
                self._discard()
            raise
        return True

    @property
    def _is_recalling(self) -> bool:
        """Whether chunks of an earlier run are still to be read back."""
        return len(self._chunks) < len(self._journal.finished)

    def _build_chunks(self) -> None:
        settings, finished = self._settings, [(len(old.frames), old.overlap) for old in self._journal.finished]
        if finished:
            self._tell(Notice(self._resumption()))
        for chunk in chunks(self._read(), settings.chunk, settings.overlap, finished):
            self._reconstruct(chunk)
        if self._is_recalling:
            raise SourceError(
                f"{self._name} has fewer frames than the run in {self._out} has of it already. {AS_IT_WAS}"
            )

    def _resumption(self) -> str:
        """The sentence about what goes on."""
        known, first = self._journal.frames, self._journal.parts[-1].first
        follow = f"the frames of {self._name} follow from number {first} on" if first else "the rest follows"
        return f"Resuming: {len(known)} frames of the run in {self._out} are read back; {follow}."

    def _tell(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notices.append(event.text)
            if event.doubtful:
                self._suspicions += (event.text.removesuffix("."),)
        for number, listener in enumerate(self._listeners):
            self._helpers.attempt(type(listener).__name__, partial(listener, event), key=number)

    def _read(self) -> Iterator[Frame]:
        """The source's frames; what cannot be read is reported and left out."""
        items = iter(self._source)
        while True:
            with self._watch.measure("read"):
                item = next(items, None)
            if item is None:
                return
            match item:
                case SkippedFrame():
                    self._unreadable.append(item)
                    self._tell(FrameSkipped(item))
                case PassedFrame():
                    self._passed[item.index] = item
                case Notice():
                    self._tell(item)
                case Frame():
                    self._names[item.index] = (item.name, item.timestamp)
                    self._tell(FrameRead(item))
                    self._tell_status()
                    yield item

    def _tell_status(self) -> StreamStatus | None:
        """How a live source is getting on, also told to the listeners."""
        status = self._source.status
        if status:
            self._tell(status)
        return status

    def _reconstruct(self, chunk: Chunk) -> None:
        """Find the chunk's geometry, place it and put it on disk."""
        start, recalled = time.perf_counter(), self._is_recalling
        chunk = self._helpers.attempt("the search for overlays", partial(self._overlay.leave_out, chunk)) or chunk
        geometry = self._recall(chunk) if recalled else self._find_geometry(chunk)
        self._reasons.update({frame.index: ALONE for frame in chunk.frames} | geometry.unplaced)
        residual = 0.0
        if geometry.frames:
            before = len(self._placement.pieces)
            with self._watch.measure("alignment"):
                submap, new = self._placement.place(chunk, geometry)
            residual = submap.residual
            doubts = self._judge(chunk, geometry.frames[max(0, len(geometry.frames) - len(new) - 1) :])
            added = {frame.index for frame in new}
            self._depths.update({f.index: typical_depth(f) for f in geometry.frames if f.index in added})
            if 0 < before < len(self._placement.pieces):
                self._tell(Notice(f"{_span(chunk)} could not be connected with the frames before; trying again later."))
            if not recalled:
                self._write_submap(submap, new)
            self._tell(ChunkReconstructed(submap, new))
            if self._loops is not None:
                new_piece = len(self._placement.pieces) > before
                self._close_loops(self._loops, submap, chunk, new, doubts=doubts, new_piece=new_piece)
        if not recalled:
            self._journal.write(chunk, geometry, self._front_end.memory)
        self._before = {frame.index: frame for frame in geometry.frames}
        status = self._tell_status()
        self._chunks.append(
            ChunkReport(
                index=chunk.index,
                first=chunk.frames[0].index,
                last=chunk.frames[-1].index,
                frames=len(chunk.frames),
                placed=len(geometry.frames),
                residual=residual,
                seconds=time.perf_counter() - start,
                lag=status.lag if status else 0.0,
            )
        )
        self._tell(Progress("frames", len(self._names), self._source.description.frames))

    def _judge(self, chunk: Chunk, frames: Sequence[FrameGeometry]) -> Doubts:
        """What speaks against the frames that a chunk adds."""
        found = self._helpers.attempt("doubts", lambda: find_doubts(frames))
        if found is None:
            return unjudged(frames)
        self._doubts[chunk.index] = found
        return found

    def _find_geometry(self, chunk: Chunk) -> ChunkGeometry:
        with self._watch.measure("geometry"):
            return self._front_end.reconstruct(chunk)

    def _recall(self, chunk: Chunk) -> ChunkGeometry:
        """The geometry that an earlier run found."""
        with self._watch.measure("reading back"):
            geometry = self._journal.recall(chunk, self._before)
            self._front_end.recall(chunk, geometry, self._journal.finished[chunk.index].memory)
        return geometry

    def _write_submap(self, submap: Submap, new: Sequence[PlacedFrame]) -> None:
        """Put a submap on disk, with frames that it sees otherwise than the chunk before did, and where all lie."""
        added = {frame.index for frame in new}
        others = [frame for frame in submap.geometry.frames if frame.index not in added]
        changed = [frame for frame in others if self._before.get(frame.index) is not frame]
        if self._settings.network:
            changed = []  # such a run cannot be resumed
        with self._watch.measure("store"):
            self._store.write_submap(submap, added, changed)
            self._write_growing()

    def _close_loops(
        self,
        loops: LoopCloser,
        submap: Submap,
        chunk: Chunk,
        new: Sequence[PlacedFrame],
        *,
        doubts: Doubts,
        new_piece: bool,
    ) -> None:
        """Look for places seen before, and move all submaps where one closes a loop."""
        placed = {index: frame for piece in self._placement.pieces for index, frame in piece.items()}
        added, known = {frame.index for frame in new}, set(loops.closed)
        frames = [frame for frame in chunk.frames if frame.index in added]
        extend = partial(
            loops.extend,
            submap,
            frames,
            lambda number: self._store.read_submap(number, placed),
            doubts=doubts,
            new_piece=new_piece,
            revised=self._placement.revised,
        )
        with self._watch.measure("loops"):
            moved = self._helpers.attempt("loops", extend)
        for line in loops.ledger:
            if line.verdict == "accepted" and (line.earlier, line.frame) not in known:
                self._tell(LoopClosed(line))
        if not moved:
            return
        pieces = len(self._placement.pieces)
        self._placement.move(moved)
        if len(self._placement.pieces) < pieces:
            self._tell(Notice(f"{_span(chunk)} connect two parts of the map: they show places seen before."))
        if not self._is_recalling:
            with self._watch.measure("store"):
                self._write_growing()
        self._tell(PosesCorrected(self._places()[0], self._points))

    def _write_growing(self) -> None:
        """Put on disk where all frames lie, in a map that is not finished."""
        keep_finished(self._out, self._earlier)
        self._store.write_places(*self._places(), complete=False)

    def _places(self) -> tuple[tuple[PlacedFrame, ...], tuple[SkippedFrame, ...], SparsePoints]:
        """Placed frames, all others with the reason, and the points."""
        placed = self._placement.main
        skipped = [
            SkippedFrame(index, name, self._reasons.get(index, UNFINISHED))
            for index, (name, _) in self._names.items()
            if index not in placed
        ]
        for index, frame in self._passed.items():
            between = self._between.get(index, SkippedFrame(index, frame.name, NOT_YET))
            skipped += [between] if isinstance(between, SkippedFrame) else []
        frames = tuple(placed[index] for index in sorted(placed))
        return frames, tuple(sorted(skipped + self._unreadable, key=lambda frame: frame.index)), self._points

    def _require_a_map(self) -> None:
        """Raise ReconstructionError when no two frames could be placed."""
        if len(self._placement.main) >= 2:
            return
        count = len(self._names)
        if count < 2:
            raise ReconstructionError(
                f"{self._name} gives {count} readable image; at least two from different places are needed."
            )
        if self._settings.network and self._reasons:
            index, reason = min(self._reasons.items())
            raise ReconstructionError(
                f"Fewer than two of the {count} frames of {self._name} could be placed; {self._names[index][0]}: "
                f"{reason}. See whether the weights are whole: recon weights verify {self._settings.network.weights}"
            )
        raise ReconstructionError(refusal(self._name, count, self._reasons.values()))

    def _discard(self) -> None:
        """Delete what a run without a map has written, but nothing of an earlier one."""
        if self._journal.finished:
            return
        self._front_end.close()
        for name in ("map", "colmap"):
            shutil.rmtree(self._out / name, ignore_errors=True)

    def _make_consistent(self) -> None:
        """Adjust all poses together and give late frames their place."""
        placed = self._placement.main
        self._tell(Progress("bundle adjustment", 0, len(placed)))
        with self._watch.measure("bundle adjustment"):
            loops = self._loops.confirmed if self._loops else ()
            poses = {index: frame.cam_from_world for index, frame in placed.items()}
            model = self._front_end.refine(poses, loops)
        if not model.cam_from_model:
            if not self._settings.network:
                self._suspicions += (UNADJUSTED,)
            return
        with self._watch.measure("correction"):
            self._write_growing()
            frames, points = correct(open_map(self._out), model, self._names)
        placed.clear()
        placed.update({frame.index: frame for frame in frames})
        self._points = points

    def _settle_world(self) -> None:
        """Give the map its final frame and unit."""
        placed = self._placement.main
        change = final_from_grown(placed, self._depths, self._earlier)
        placed.update({index: moved(frame, change) for index, frame in placed.items()})
        self._points = moved_points(self._points, change)
        self._tell(PosesCorrected(self._places()[0], self._points))

    def _require_sanity(self) -> None:
        """Raise InsaneMapError where what came out can be no map; what is merely doubtful is reported."""
        placed = self._placement.main
        self._suspicions += examine(placed, self._points, depth_seen(placed, self._depths))

    def _place_passed(self) -> None:
        """Give the frames that were passed over their poses, from another look at the source."""
        if not self._passed:
            return
        with self._watch.measure("store"):
            self._write_growing()
        with self._watch.measure("frames between"):
            localiser = FrameLocaliser(open_map(self._out))
            for item in self._source.candidates():
                if not isinstance(item, Candidate):
                    continue
                frame, passed = item.frame, self._passed.get(item.frame.index)
                if passed is not None and passed.name == frame.name:
                    self._between[frame.index] = localiser.place(frame)
                    self._tell(Progress("frames between", len(self._between), len(self._passed)))

    def _export(self, *, complete: bool) -> None:
        with self._watch.measure("store"):
            between = tuple(frame for frame in self._between.values() if isinstance(frame, PlacedFrame))
            keep_finished(self._out, self._earlier)
            self._store.write_places(*self._places(), complete=complete, between=between)
        if complete:
            forget_finished(self._out)
        with self._watch.measure("export"):
            self._unwritten = write_outputs(open_map(self._out), self._settings.cloud, self._tell)

    def _write_report(self, *, interrupted: bool) -> RunReport:
        report = self._report(interrupted=interrupted)
        try:
            write(report, self._out / "report.json")
        except OutputError as error:
            self._tell(Notice(str(error)))
            report = replace(report, unwritten=(*report.unwritten, str(error)))
        return report

    def _report(self, *, interrupted: bool) -> RunReport:
        placed, skipped, _ = self._places()
        sentences = self._helpers.attempt("doubts", lambda: warnings(list(self._doubts.values()))) or []
        found = dict(zip(self._doubts, sentences, strict=False))
        return RunReport(
            source=self._name,
            settings=self._settings,
            versions=main_versions(),
            frames_read=len(self._names),
            frames_placed=len(placed),
            skipped=skipped,
            chunks=tuple(replace(chunk, warnings=tuple(found.get(chunk.index, ()))) for chunk in self._chunks),
            stages=self._watch.stages,
            seconds=self._watch.seconds,
            peak_memory_bytes=peak_memory(),
            suspicions=self._suspicions,
            notices=tuple(self._notices),
            interrupted=interrupted,
            loops=self._loops.ledger if self._loops else (),
            passed_over=len(self._passed),
            passed_over_placed=sum(isinstance(frame, PlacedFrame) for frame in self._between.values()),
            stream=self._source.status,
            unwritten=self._unwritten,
        )


def _span(chunk: Chunk) -> str:
    return f"Frames {chunk.frames[0].name} to {chunk.frames[-1].name}"
