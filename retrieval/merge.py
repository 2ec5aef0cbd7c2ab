"""Maps of one place as one map: where they meet, how they lie to each other, and a joint adjustment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recon.core.colmap_log import quiet
from recon.core.errors import InsaneMapError, MapError, ReconError, SettingsError
from recon.core.metric import Metric
from recon.core.places import LoopRecord
from recon.core.similarity import Sim3
from recon.core.stopwatch import Stopwatch, peak_memory
from recon.core.types import PlacedFrame, SkippedFrame, SparsePoints
from recon.exports.outputs import write_outputs
from recon.folder import require_usable
from recon.mapping.correction import correct
from recon.mapping.joining import Bridge, join
from recon.mapping.sanity import examine
from recon.mapping.world import depth_seen, final_from_grown, moved, moved_points, typical_depth
from recon.settings import CloudSettings, RunSettings
from recon.sfm.joint import adjust_jointly
from recon.store import report
from recon.store.lock import sole_writer
from recon.store.map import MapStore, ReconstructedMap, open_map
from recon.store.merged import Member, joined_points, numbered, write_members
from recon.store.report import RunReport, main_versions
from retrieval.landmarks import image_of
from retrieval.meetings import Meeting, find_meetings

LEAST_KEPT = 0.9  # of the frames; a joint adjustment that loses more is not used
SAME_METRE = 0.05  # relative difference of the metre of two maps
NOT_ADJUSTED = "The maps are joined as they are: no joint adjustment of all poses was possible"
Tell = Callable[[str], None]
Places = tuple[tuple[PlacedFrame, ...], tuple[PlacedFrame, ...], SparsePoints]  # frames, those between, points


@dataclass(frozen=True, eq=False)
class Merged:
    """What was merged. folders: all maps given. joined: rows of those that are one map now; empty if none meet.

    meetings: every pair of frames compared, with the frames' numbers when all maps follow each other. unwritten: a
    sentence for each output that failed. adjusted: whether all poses were adjusted jointly.
    """

    folders: tuple[Path, ...]
    joined: tuple[int, ...]
    meetings: tuple[Meeting, ...]
    adjusted: bool = False
    unwritten: tuple[str, ...] = ()

    @property
    def apart(self) -> tuple[Path, ...]:
        """The maps that do not meet the others."""
        return tuple(folder for row, folder in enumerate(self.folders) if row not in self.joined)


@quiet()
def merge(folders: Sequence[Path], out: Path, tell: Tell = lambda sentence: None, *, adjust: bool = True) -> Merged:
    """Merge the largest group of maps that meet into the new folder ``out``, in the world of its first map in metres,
    else of its first map. tell: gets notes for the user.

    Nothing is written if no two maps meet. The new map is complete once its map.json exists, which is written last.
    Raises SettingsError for fewer than two maps, MapError for one that is damaged, unfinished or without depth, or if
    two maps in metres contradict each other, and OutputError if ``out`` is not empty or cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise SettingsError("A merge needs two or more different maps.")
    require_usable(out, overwrite=False)
    maps = [_finished(folder) for folder in folders]
    watch = Stopwatch()
    with watch.running():
        meetings = find_meetings(numbered([(one, Sim3.identity()) for one in maps]))
        poses = place_maps(maps, meetings)
        if len(poses) < 2:
            return Merged(tuple(folders), (), tuple(meetings))
        _require_one_metre(maps, poses)
        with sole_writer(out, "merge"):
            adjusted, unwritten = _write(out, maps, poses, meetings, tell, watch, adjust=adjust)
    return Merged(tuple(folders), tuple(sorted(poses)), tuple(meetings), adjusted, unwritten)


def _finished(folder: Path) -> ReconstructedMap:
    found = open_map(folder)
    if not found.complete:
        raise MapError(f"The map in {folder} is not finished. Finish its run with --resume, then merge it.")
    return found


def place_maps(maps: Sequence[ReconstructedMap], meetings: Sequence[Meeting]) -> dict[int, Sim3]:
    """Where each map of the largest group that meets lies, by its row: ``world_from_map``, the world being that of the
    group's first map in metres, else of its first.
    """
    groups = [_grown({row: Sim3.identity()}, len(maps), meetings) for row in range(len(maps))]
    largest = max(groups, key=len, default={})
    base = min(largest, key=lambda row: (maps[row].metric is None, row))
    return groups[base]


def _grown(poses: dict[int, Sim3], count: int, meetings: Sequence[Meeting]) -> dict[int, Sim3]:
    """A group of maps with poses, extended by one map after the other: next the one with the most agreeing bridges."""
    while True:
        found = {row: join(_bridges_to(row, poses, meetings)) for row in range(count) if row not in poses}
        joins = {row: joined for row, joined in found.items() if joined}
        if not joins:
            return poses
        best = max(joins, key=lambda row: len(joins[row][1]))
        poses = poses | {best: joins[best][0]}


def _bridges_to(row: int, poses: Mapping[int, Sim3], meetings: Sequence[Meeting]) -> list[Bridge]:
    """The bridges from placed maps to another one, from the world of the group."""
    found = []
    for meeting in meetings:
        first, second = meeting.members
        if meeting.bridge and second == row and first in poses:
            found.append(_seen_from(meeting.bridge, poses[first]))
        elif meeting.bridge and first == row and second in poses:
            found.append(_seen_from(meeting.bridge.turned(), poses[second]))
    return found


def _seen_from(bridge: Bridge, world_from_first: Sim3) -> Bridge:
    return replace(bridge, first_from_second=world_from_first @ bridge.first_from_second)


def _require_one_metre(maps: Sequence[ReconstructedMap], poses: Mapping[int, Sim3]) -> None:
    for row, pose in poses.items():
        if maps[row].metric and abs(np.log(pose.scale)) > SAME_METRE and _base(poses, maps).metric:
            raise MapError(
                f"The maps contradict each other in metres: a metre of {maps[row].folder} is {pose.scale:.3g} m of "
                f"{_base(poses, maps).folder}. Scale one of them again."
            )


def _base(poses: Mapping[int, Sim3], maps: Sequence[ReconstructedMap]) -> ReconstructedMap:
    return maps[next(iter(poses))]


def _write(
    out: Path,
    maps: Sequence[ReconstructedMap],
    poses: Mapping[int, Sim3],
    meetings: Sequence[Meeting],
    tell: Tell,
    watch: Stopwatch,
    *,
    adjust: bool,
) -> tuple[bool, tuple[str, ...]]:
    """Write the merged map with its outputs; returns whether it was adjusted, and what could not be written."""
    rows = sorted(poses)
    members = numbered([(maps[row], poses[row]) for row in rows])
    ledger = _ledger(rows, members, maps, meetings)
    metric, base = _base(poses, maps).metric, members[rows.index(next(iter(poses)))]
    write_members(out, members)
    places = _joined(members)
    skipped = tuple(one for member in members for one in member.skipped)
    _store(out, places, skipped, metric)
    suspicions = _doubts(members)
    adjusted = _adjusted(out, members, base, places, ledger) if adjust else None
    if adjusted:
        lost = {frame.index for frame in places[0]} - {frame.index for frame in adjusted[0]}
        skipped += tuple(
            SkippedFrame(frame.index, frame.name, "the joint adjustment of the merged map lost it", "unplaced")
            for frame in places[0]
            if frame.index in lost
        )
        places = adjusted
        _store(out, places, skipped, metric)
    elif adjust:
        tell(f"{NOT_ADJUSTED}.")
        suspicions += (NOT_ADJUSTED[0].lower() + NOT_ADJUSTED[1:],)
    unwritten = write_outputs(out, CloudSettings(), lambda _: None)
    written = _report(members, places, skipped, ledger, suspicions, watch)
    report.write(replace(written, unwritten=unwritten), out / "report.json")
    return adjusted is not None, unwritten


def _joined(members: Sequence[Member]) -> Places:
    frames = tuple(frame for member in members for frame in member.frames)
    between = tuple(frame for member in members for frame in member.between)
    return frames, between, joined_points(members)


def _store(out: Path, places: Places, skipped: tuple[SkippedFrame, ...], metric: Metric | None) -> None:
    frames, between, points = places
    MapStore(out).write_places(frames, skipped, points, complete=True, between=between, metric=metric)


def _adjusted(
    out: Path, members: Sequence[Member], base: Member, places: Places, ledger: Sequence[LoopRecord]
) -> Places | None:
    """The merged map after a joint adjustment, which keeps the frames of the base where they are; None if that fails or
    loses frames. Frames between move with the nearest frame of their map.
    """
    reconstruction = open_map(out)
    before = {frame.index: frame for frame in reconstruction.frames}
    parts = [[frame.index for frame in member.frames] for member in members]
    loops = [(line.earlier, line.frame) for line in ledger if line.verdict == "accepted"]
    images = (image_of(reconstruction, frame) for frame in reconstruction.frames)
    model = adjust_jointly(out / "map" / "features.db", images, before, parts, loops)
    if len(model.cam_from_model) < LEAST_KEPT * len(before):
        return None
    frames, points = correct(reconstruction, model, {row: (one.name, one.timestamp) for row, one in before.items()})
    depths = {frame.index: typical_depth(geometry) for frame, geometry in reconstruction.geometry()}
    after = {frame.index: frame for frame in frames}
    kept = {frame.index: frame.world_from_cam for frame in base.frames}
    change = final_from_grown(after, depths, kept)
    after = {index: moved(frame, change) for index, frame in after.items()}
    points = moved_points(points, change)
    try:
        examine(after, points, depth_seen(after, depths))
    except InsaneMapError:
        return None
    shared = [[index for index in part if index in after] for part in parts]
    between = [
        _along(frame, before, after, own)
        for member, own in zip(members, shared, strict=True)
        for frame in member.between
        if own
    ]
    return tuple(after.values()), tuple(between), points


def _along(
    frame: PlacedFrame, before: Mapping[int, PlacedFrame], after: Mapping[int, PlacedFrame], frames: Sequence[int]
) -> PlacedFrame:
    """A frame without depth, moved like the nearest of some frames."""
    nearest = min(frames, key=lambda index: abs(index - frame.index))
    change = after[nearest].world_from_cam @ before[nearest].world_from_cam.inverse()
    return replace(frame, camera=after[nearest].camera, world_from_cam=change @ frame.world_from_cam)


def _ledger(
    rows: Sequence[int], members: Sequence[Member], maps: Sequence[ReconstructedMap], meetings: Iterable[Meeting]
) -> tuple[LoopRecord, ...]:
    """The loops between the maps, with the numbers that frames have in the merged map."""
    firsts = [one.first for one in numbered([(one, Sim3.identity()) for one in maps])]
    shift = {row: member.first - firsts[row] for row, member in zip(rows, members, strict=True)}
    poses = {row: member.merged_from_world for row, member in zip(rows, members, strict=True)}
    lines = []
    for meeting in meetings:
        first, second = meeting.members
        if first in shift and second in shift:
            agrees = meeting.bridge is not None and meeting.bridge.agrees_with(poses[first].inverse() @ poses[second])
            reason = "" if agrees else meeting.found.reason or "it contradicts the other loops between the maps"
            lines.append(
                LoopRecord(
                    frame=meeting.hit.frame + shift[second],
                    earlier=meeting.hit.earlier + shift[first],
                    first=rows.index(first) if meeting.bridge else -1,
                    second=rows.index(second) if meeting.bridge else -1,
                    similarity=meeting.hit.similarity,
                    inliers=meeting.found.inliers,
                    residual=meeting.found.residual,
                    before=0.0,
                    after=0.0,
                    verdict="accepted" if agrees else "rejected",
                    reason=reason,
                    kind="bridge",
                )
            )
    return tuple(lines)


def _doubts(members: Sequence[Member]) -> tuple[str, ...]:
    """Why to doubt the members, according to their reports."""
    return tuple(
        f"{member.reconstruction.folder}: {doubt}"
        for member, found in zip(members, _reports(members), strict=True)
        if found
        for doubt in (*found.suspicions, *(warning for chunk in found.chunks for warning in chunk.warnings))
    )


def _reports(members: Sequence[Member]) -> list[RunReport | None]:
    found = list[RunReport | None]()
    for member in members:
        try:
            found.append(report.read(member.reconstruction.folder / "report.json"))
        except ReconError:  # a map without a report
            found.append(None)
    return found


def _report(
    members: Sequence[Member],
    places: Places,
    skipped: tuple[SkippedFrame, ...],
    ledger: tuple[LoopRecord, ...],
    suspicions: tuple[str, ...],
    watch: Stopwatch,
) -> RunReport:
    """What happened, in the form of a run's report; the settings are those of the first map."""
    frames, between, _ = places
    settings = next((found.settings for found in _reports(members) if found), RunSettings())
    return RunReport(
        source=" + ".join(os.fspath(member.reconstruction.folder.resolve()) for member in members),
        settings=settings,
        versions=main_versions(),
        frames_read=len(frames) + len(skipped),
        frames_placed=len(frames),
        skipped=skipped,
        chunks=(),
        stages=watch.stages,
        seconds=watch.seconds,
        peak_memory_bytes=peak_memory(),
        notices=(),
        interrupted=False,
        loops=ledger,
        passed_over=len(between),
        passed_over_placed=len(between),
        suspicions=suspicions,
        processor_seconds=watch.processor_seconds,
    )
