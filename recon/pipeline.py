"""The chunk-recursive pipeline: source -> chunks -> geometry -> placed submaps -> one consistent map -> exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recon.core.announcer import Announcer
from recon.core.colmap_log import quiet
from recon.core.errors import InsaneMapError, ReconError, ReconstructionError, SettingsError, SourceError
from recon.core.events import Finished, FrameRead, FrameSkipped, Listener, Notice, Progress, StreamStatus
from recon.core.failures import explained
from recon.core.places import PlaceRecogniser
from recon.core.refusal import too_few
from recon.core.stopwatch import Stopwatch, peak_memory, stage
from recon.core.types import Chunk, ChunkGeometry, Frame, PassedFrame, SkippedFrame
from recon.core.workers import Workers
from recon.folder import discard_map, finish_moving, full_disk_explained, open_journal, refuse_own_outputs, replacing
from recon.frontend import GeometryFrontEnd, Resumable, Workplace
from recon.mapping.chunks import chunks
from recon.mapping.correction import correct, depth_doubt
from recon.mapping.frames import RunFrames, passed_over
from recon.mapping.growing import GrowingMap
from recon.separate import prepare_front_end
from recon.settings import RunSettings
from recon.sources import Source, open_source
from recon.sources.base import Candidate, picture_name
from recon.sources.live import LiveSource
from recon.sources.overlay import OverlayFinder
from recon.store.growing import GrowingStore
from recon.store.journal import AS_IT_WAS, Journal, Part, cannot_resume, require_run
from recon.store.lock import sole_writer
from recon.store.map import incoming_folder, open_map
from recon.store.replay import ReplayedChunks
from recon.store.report import ChunkReport, RunReport, main_versions, write_or_tell
from recon.store.resumed import ResumedSource
from recon.store.tracked import NAME as TRACKED
from recon.store.tracked import TrackedPoses, forget_tracked, read_tracked
from recon.tracking.afterwards import UNCERTAIN, place_tracked
from recon.tracking.live import LiveTracking

ENOUGH = 2  # frames with a place
RENEW_DEPTH = "recon.mapping.renewal:renew_depth"
FIND_FOLDS = "recon.mapping.folds:examine"
WRITE_OUTPUTS = "recon.exports.outputs:write_outputs"


def reconstruct(
    source: str | Path,
    out: str | Path,
    settings: RunSettings | None = None,
    listeners: Sequence[Listener] = (),
    recogniser: PlaceRecogniser | None = None,
    *,
    workers: Workers | None = None,
) -> RunReport:
    """Reconstruct images or a video into the folder ``out`` and return what happened.

    recogniser: finds loops, which correct the map while it grows; None to close no loops. workers: processes for work
    that would block this one; without them, everything runs in this process. The caller closes them.

    Ctrl-C stops at the next opportunity, exports what is finished and sets ``RunReport.interrupted``; if nothing is
    finished, KeyboardInterrupt is raised. An output that cannot be written is listed in ``RunReport.unwritten``; the
    others are written. Raises ReconError: SourceError, OutputError (``out`` exists, is in use by another run, cannot be
    written, holds no run to resume), MapError (that run is damaged), ReconstructionError (no geometry), WeightsError
    (the network's weights), UnexpectedError (anything else).
    """
    source, out, settings = str(source), Path(out), settings or RunSettings()
    opened = open_source(source, settings.source, incoming_folder(out, resume=settings.resume))
    return reconstruct_source(
        source, opened, out, settings, listeners=listeners, recogniser=recogniser, workers=workers
    )


def reconstruct_source(
    name: str,
    source: Source,
    out: Path,
    settings: RunSettings,
    *,
    listeners: Sequence[Listener] = (),
    recogniser: PlaceRecogniser | None = None,
    workers: Workers | None = None,
) -> RunReport:
    """Reconstruct an opened source, which may be live; see ``reconstruct``. name: of the source, for the report."""
    refuse_own_outputs(name, out)
    if settings.places and recogniser is None:
        raise SettingsError(
            "The settings name a place descriptor, but there is no recogniser. Give "
            "recogniser=retrieval.recogniser.open_recogniser(settings.places), or leave places out."
        )
    workers = workers or Workers()
    workers.background = source.status is not None  # a live source must not wait for them
    settings = fitting(settings, source)
    prepared = prepare_front_end(settings, workers)
    if settings.resume:
        finish_moving(out)
        require_run(out)
        if not prepared.resumable:
            raise SettingsError(cannot_resume(out, settings))
    with quiet(), sole_writer(out, "run"), replacing(out, overwrite=settings.overwrite):
        journal = open_journal(name, source, out, settings)
        settings = settings.with_keyframes(journal.parts[-1].settings.source.keyframes)
        source.keyframes = journal.keyframes
        with explained(out, partial(journal.ledger.has, "map"), resumable=prepared.resumable), full_disk_explained(out):
            tell = workers.listener = Announcer(out, listeners)
            tracking = _tracked(source, journal.parts[-1], out, tell, settings, separate=workers.separate)
            if settings.resume:
                forget_tracked(out, journal.parts[-1].first)
                source = ResumedSource(source, out, journal)
            front_end = prepared.start(Workplace(out / "map", tell, sorted(journal.frames)))
            task = Task(name, source, out, settings, workers, tracking)
            return Run(task, tell, journal, front_end, recogniser).execute()


def fitting(settings: RunSettings, source: Source) -> RunSettings:
    """The settings for a source; those for a rig know its lens. Raises SettingsError, see ``RunSettings.of_rig``."""
    if source.status is not None:  # live, and no rig
        return settings
    description = source.description
    if description.lens is None or description.views == 1:
        return settings
    return settings.of_rig(description)


def _tracked(
    source: Source, part: Part, out: Path, tell: Announcer, settings: RunSettings, *, separate: bool
) -> LiveTracking | None:
    """The tracker of a live source, the newest part of the map; None for other sources, or if it is switched off.

    separate: whether there may be other processes, without which nothing dense can be computed during the capture.
    """
    if not isinstance(source, LiveSource) or not settings.tracking:
        return None
    source.watcher = tracking = LiveTracking(
        out, tell, settings.intrinsics, part.first, part.start, dense=settings.watched and separate
    )
    tell.add(tracking)
    return tracking


@dataclass(frozen=True, eq=False)
class Task:
    """The input of a run. name: of the source, for the report. out: run folder. workers: its other processes. tracking:
    of a live source."""

    name: str
    source: Source
    out: Path
    settings: RunSettings
    workers: Workers
    tracking: LiveTracking | None = None


class Run:
    """One reconstruction, from the source to the exports."""

    def __init__(
        self,
        task: Task,
        tell: Announcer,
        journal: Journal,
        front_end: GeometryFrontEnd,
        recogniser: PlaceRecogniser | None,
    ) -> None:
        self._task, self._tell, self._journal, self._front_end = task, tell, journal, front_end
        self._store = GrowingStore(task.out, journal, resumable=isinstance(front_end, Resumable))
        self._watch = Stopwatch()
        self._frames = RunFrames()
        self._map = GrowingMap(self._store, tell, recogniser, task.workers)
        self._chunks: list[ChunkReport] = []
        self._newest = 0.0  # timestamp of the last frame read
        self._chunk_end = 0.0  # watch time at the end of the last chunk

    def execute(self) -> RunReport:
        """Run from source to exports; see ``reconstruct``."""
        try:
            with self._watch.running():
                complete = self._build()
                unwritten = self._export(complete=complete)
            interrupted = not complete or unwritten is None
            report = self._report(interrupted=interrupted, unwritten=unwritten or ())
            report = write_or_tell(report, self._task.out / "report.json", self._tell)
        finally:
            self._front_end.close()
        self._tell(Finished(self._task.out, report.frames_placed, report.frames_read))
        return report

    def _build(self) -> bool:
        """Build the map; False if interrupted by Ctrl-C. Raises KeyboardInterrupt if there is nothing to keep."""
        try:
            self._grow()
            self._require_a_map()
            if self._task.settings.refine != "none":
                self._make_consistent()
            self._map.settle(self._store.earlier)
            self._examine()
            self._place_passed()
        except KeyboardInterrupt:
            self._require_something_to_keep()
            self._front_end.close()
            self._map.settle(self._store.earlier)
            return False
        except ReconError as error:
            if len(self._map.frames) < ENOUGH or isinstance(error, InsaneMapError):
                self._discard()
            raise
        return True

    def _grow(self) -> None:
        """Read all chunks and add them to the map."""
        finished = [(len(old.frames), old.overlap) for old in self._journal.finished]
        if finished:
            self._tell(Notice(self._journal.resumption(self._task.name)))
        front_end = ReplayedChunks(self._front_end, self._journal)
        read = chunks(self._read(), self._task.settings.chunk, self._task.settings.overlap, finished)
        for chunk, geometry in front_end.reconstruct_all(self._without_overlays(read), self._is_next_ready):
            self._add(chunk, geometry, front_end.memory())
        if self._journal.is_recalling:
            raise SourceError(
                f"{self._task.name} has fewer frames than the run in {self._task.out} has of it already. {AS_IT_WAS}"
            )

    def _read(self) -> Iterator[Frame]:
        """The source's frames; unreadable ones are reported and skipped."""
        items = iter(self._task.source)
        while True:
            with stage("read"):
                item = next(items, None)
            if item is None:
                return
            if isinstance(item, Notice):
                self._tell(item)
                continue
            self._frames.take(item)
            if isinstance(item, SkippedFrame):
                self._tell(FrameSkipped(item))
            elif isinstance(item, Frame):
                self._newest = item.timestamp
                self._tell(FrameRead(item))
                self._tell_status()
                yield item

    def _tell_status(self) -> StreamStatus | None:
        """Return the status of a live source and send it to the listeners."""
        status = self._task.source.status
        if status:
            self._tell(status)
        return status

    def _without_overlays(self, read: Iterator[Chunk]) -> Iterator[Chunk]:
        overlay = OverlayFinder(self._tell)
        for chunk in read:
            find = partial(overlay.leave_out, chunk)
            with stage("overlays"):
                found = self._tell.helpers.attempt("the search for overlays", find) or chunk
            yield found

    def _is_next_ready(self) -> bool:
        """Whether the source can deliver the next chunk without waiting for a camera."""
        status = self._task.source.status
        return not status or status.waiting >= self._task.settings.chunk - self._task.settings.overlap

    def _add(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """Place a chunk and store it on disk. memory: the front end's memory after the chunk."""
        self._frames.explain(chunk, geometry)
        submap = self._map.add(chunk, geometry)
        with self._store.transaction():
            if submap:
                self._write_places()
            self._journal.write(chunk, geometry, memory)
        status = self._tell_status()
        residual, seconds = submap.residual if submap else 0.0, self._watch.seconds - self._chunk_end
        # Frames of the next chunk may have been read already.
        lag = status.lag + self._newest - chunk.frames[-1].timestamp if status else 0.0
        self._chunks.append(ChunkReport.of(chunk, geometry, residual=residual, seconds=seconds, lag=lag))
        self._chunk_end = self._watch.seconds
        done = self._frames.count_up_to(chunk.frames[-1].index)
        self._tell(Progress("frames", done, self._task.source.description.frames))

    def _write_places(self) -> None:
        """Store the poses of all frames in the unfinished map on disk."""
        placed = self._map.frames
        skipped = self._frames.skipped({frame.index for frame in placed})
        with stage("store"):
            self._store.write_places(placed, skipped, self._map.points)

    def _require_a_map(self) -> None:
        """Raise ReconstructionError if fewer than two frames have a pose."""
        if len(self._map.frames) >= ENOUGH:
            return
        name, names = self._task.name, {index: called for index, (called, _) in self._frames.names.items()}
        if len(names) < ENOUGH:
            status = self._task.source.status
            passed = status.passed_over if status else len(self._frames.passed)
            if passed:
                raise ReconstructionError(
                    f"The picture hardly changes in the {len(names) + passed} frames of {name}. A map needs at least "
                    "two different views: move the camera more, or use --keyframes all for very small motion."
                )
            raise ReconstructionError(too_few(name, len(names)))
        description = self._task.source.description
        if description.views > 1 and len(names) == description.views:
            raise ReconstructionError(too_few(name, 1, description.unit))
        raise ReconstructionError(self._front_end.explain_nothing(name, names, self._frames.reasons))

    def _require_something_to_keep(self) -> None:
        """Report what Ctrl-C leaves; raises KeyboardInterrupt if there is nothing to keep."""
        if self._journal.is_recalling:
            self._tell(Notice("Interrupted before the map was restored; it is unchanged."))
            raise KeyboardInterrupt
        if len(self._map.frames) < ENOUGH:
            self._discard()
            self._tell(Notice("Interrupted before any frames had a place: nothing is kept."))
            raise KeyboardInterrupt
        self._tell(Notice("Interrupted. Writing the finished part."))

    def _discard(self) -> None:
        """Delete the files of a run without a map, but keep those of an earlier run."""
        if not self._journal.finished:
            self._front_end.close()
            discard_map(self._task.out)

    def _make_consistent(self) -> None:
        """Adjust all poses jointly and place frames that no chunk could place."""
        placed = self._map.frames
        self._tell(Progress("bundle adjustment", 0, len(placed)))
        with stage("bundle adjustment"):
            poses = {frame.index: frame.cam_from_world for frame in placed}
            model = self._front_end.refine(poses, self._map.confirmed_loops)
        if not model.cam_from_model:
            self._tell.suspect(*filter(None, [self._front_end.unadjusted]))
            return
        with stage("correction"):
            self._write_places()
            corrected = correct(open_map(self._task.out), model, self._frames.names)
            self._map.adjust(corrected.frames, corrected.points)
        self._renew_depth(corrected.stale)

    def _renew_depth(self, frames: frozenset[int]) -> None:
        """Compute the depth of frames again."""
        if not frames:
            return
        self._write_places()
        workers, depth, views = self._task.workers, self._task.settings.depth, self._task.source.description.views
        renew = partial(workers.call, "geometry", RENEW_DEPTH, self._task.out, frames, depth, workers.tell, views)
        with stage("depth again"):
            renewed = self._tell.helpers.attempt("new depth", renew)
        if renewed:
            self._map.renew(renewed)
        unread = renewed.unread if renewed else ()
        if unread or not renewed:
            self._tell.suspect(depth_doubt(len(unread) or len(frames), *unread[:1]))

    def _examine(self) -> None:
        """Say why to doubt the map. Raises InsaneMapError if it is certainly wrong."""
        self._tell.suspect(*self._map.examine())
        self._write_places()
        find = partial(self._task.workers.call, "geometry", FIND_FOLDS, self._task.out)
        with stage("folds"):
            self._tell.suspect(*(self._tell.helpers.attempt("the search for folds", find) or ()))

    def _place_passed(self) -> None:
        """Estimate poses for the frames that were passed over; reads the source again."""
        said = self._tell.helpers.attempt("what the tracker said", self._said_at_capture) or ()
        passed = self._frames.passed
        if not passed:
            return
        with stage("frames between"):
            localiser = self._task.workers.keep("geometry", "recon.mapping.between:open_localiser", self._task.out)
            for item in self._task.source.candidates():
                if isinstance(item, Candidate) and passed_over(item.frame, passed):
                    found = self._frames.settle(localiser.call("place", item.frame))
                    self._tell(Progress("frames between", found, len(passed)))
            place = partial(place_tracked, self._frames.left, said, self._map.frames, self._map.points)
            for frame in self._tell.helpers.attempt("what the tracker said", place) or ():
                self._frames.settle(frame)

    def _said_at_capture(self) -> tuple[TrackedPoses, ...]:
        """What the tracker said of the frames of live sources; those that were not mapped count as passed over."""
        out, journal = self._task.out, self._journal
        if not (out / TRACKED).exists():
            return ()
        said, known = read_tracked(out), self._frames.known
        for index, timestamp in said.timestamps.items():
            if index not in known:
                part = journal.part_of(index)
                name = part.name(index, picture_name(index - part.first))
                self._frames.take(PassedFrame(index, timestamp, name))
                self._frames.settle(SkippedFrame(index, name, UNCERTAIN, "passed"))
        return tuple(said.pieces.values())

    def _export(self, *, complete: bool) -> tuple[str, ...] | None:
        """Write the outputs; returns a sentence for each that failed, or None after Ctrl-C."""
        placed, frames = self._map.frames, self._frames
        skipped = frames.skipped({frame.index for frame in placed})
        workers, cloud = self._task.workers, self._task.settings.cloud
        try:
            with stage("store"):
                self._store.finish(placed, skipped, self._map.points, between=frames.between, complete=complete)
            with stage("export"):
                unwritten = workers.call("geometry", WRITE_OUTPUTS, self._task.out, cloud, workers.tell)
                return tuple(unwritten)
        except KeyboardInterrupt:
            workers.end("geometry")
            self._tell(Notice("Interrupted while writing: recon export makes the files that are missing."))
            return None

    def _report(self, *, interrupted: bool, unwritten: tuple[str, ...]) -> RunReport:
        placed, warnings = {frame.index for frame in self._map.frames}, self._map.warnings()
        return RunReport(
            source=self._task.name,
            settings=self._task.settings,
            versions=main_versions(),
            frames_read=len(self._frames.names),
            frames_placed=len(placed),
            skipped=self._frames.skipped(placed),
            chunks=tuple(replace(chunk, warnings=warnings.get(chunk.index, ())) for chunk in self._chunks),
            stages=self._watch.stages,
            seconds=self._watch.seconds,
            processor_seconds=self._watch.processor_seconds,
            peak_memory_bytes=peak_memory() + self._task.workers.peak_memory,
            suspicions=self._tell.suspicions,
            notices=self._tell.notices,
            interrupted=interrupted,
            loops=self._map.ledger,
            passed_over=len(self._frames.passed),
            passed_over_placed=len(self._frames.between),
            stream=self._task.source.status,
            tracking=self._task.tracking.report() if self._task.tracking else None,
            unwritten=unwritten,
        )
