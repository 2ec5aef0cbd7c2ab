"""Maps of one place as one map: where they meet, how they lie to each other, and a joint adjustment."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from recon.core.colmap_log import quiet
from recon.core.errors import MapError, SettingsError
from recon.core.events import Listener, Notice, Progress
from recon.core.metric import Metric
from recon.core.places import LoopRecord
from recon.core.similarity import Sim3
from recon.core.stopwatch import Stopwatch
from recon.core.types import PlacedFrame, SkippedFrame, SparsePoints
from recon.exports.outputs import write_outputs
from recon.folder import discard_map, require_empty
from recon.mapping.correction import correct, depth_doubt
from recon.mapping.joining import Bridge, join, scale_step
from recon.mapping.joints import weakest_joint
from recon.mapping.loops import FEWEST_BRIDGES
from recon.mapping.renewal import renew_depth
from recon.mapping.sanity import doubt_scale
from recon.mapping.world import depth_seen, final_from_grown, moved, moved_points, typical_depth
from recon.settings import CloudSettings, DenseDepth
from recon.sfm.joint import adjust_jointly
from recon.store import report
from recon.store.lock import sole_writer
from recon.store.map import MapStore, ReconstructedMap, open_map
from recon.store.merged import Member, joined_points, numbered, report_of_members, settings_of, write_members
from retrieval.landmarks import image_of
from retrieval.meetings import Meeting, find_meetings

LEAST_KEPT = 0.9  # of the frames; a joint adjustment that loses more is not used
MOST_MOVED = 0.2  # median over the frames, in depths seen; one that moves them further is not used
SAME_METRE = 0.05  # relative difference of the metre of two maps
LENS_CHANGED = 0.03  # of a focal length; depth that followed from the old one is computed again
NOT_ADJUSTED = "The maps are joined as they are: a joint adjustment of all poses was not possible."
Places = tuple[tuple[PlacedFrame, ...], tuple[PlacedFrame, ...], SparsePoints]  # frames, those between, points


@dataclass(frozen=True, eq=False)
class Merged:
    """What was merged. folders: all maps given. joined: rows of those that are one map now; empty if none meet.

    meetings: every pair of frames compared, with the frames' numbers when all maps follow each other. unwritten: a
    sentence for each output that failed. adjusted: whether all poses were adjusted jointly. contradictions: a sentence
    for every two maps that are not joined although enough pairs are verified.
    """

    folders: tuple[Path, ...]
    joined: tuple[int, ...]
    meetings: tuple[Meeting, ...]
    adjusted: bool = False
    unwritten: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()

    @property
    def apart(self) -> tuple[Path, ...]:
        """The maps that do not meet the others."""
        return tuple(folder for row, folder in enumerate(self.folders) if row not in self.joined)


@quiet()
def merge(folders: Sequence[Path], out: Path, tell: Listener = lambda event: None, *, adjust: bool = True) -> Merged:
    """Merge the largest group of maps that meet into the new folder ``out``, in the world of its first map in metres,
    else of its first map. tell: gets notes and progress.

    Nothing is written if no two maps meet, or if the merge is interrupted before the map is complete. One that is
    killed leaves a map that says that it is not finished. Raises SettingsError for fewer than two maps, MapError for
    one that is damaged, unfinished or without depth, or if two maps in metres contradict each other, and OutputError if
    ``out`` is not empty or cannot be written.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise SettingsError("A merge needs two or more different maps.")
    require_empty(out)
    maps = [_finished(folder) for folder in folders]
    watch = Stopwatch()
    with sole_writer(out, "merge"), watch.running():
        meetings = find_meetings(numbered([(one, Sim3.identity()) for one in maps]), tell)
        poses = place_maps(maps, meetings)
        if len(poses) < 2:
            return Merged(tuple(folders), (), tuple(meetings), contradictions=contradictions(maps, (), meetings))
        adjusted, unwritten = _write(out, _Group.of(maps, poses, meetings), tell, watch, adjust=adjust)
    apart = contradictions(maps, poses, meetings)
    return Merged(tuple(folders), tuple(sorted(poses)), tuple(meetings), adjusted, unwritten, apart)


@quiet()
def write_placed(
    out: Path,
    maps: Sequence[ReconstructedMap],
    poses: Sequence[Sim3],
    meetings: Sequence[Meeting],
    tell: Listener,
    *,
    adjust: bool,
) -> tuple[bool, tuple[str, ...]]:
    """Write maps whose places are known, ``world_from_map`` in the world of the first, as one map in ``out``.

    meetings: by rows of ``maps``, with the frames' numbers when all follow each other. Returns whether all poses were
    adjusted jointly, and a sentence for each output that failed. Raises what ``merge`` raises.
    """
    require_empty(out)
    watch = Stopwatch()
    with sole_writer(out, "merge"), watch.running():
        return _write(out, _Group.of(maps, dict(enumerate(poses)), meetings), tell, watch, adjust=adjust)


def _finished(folder: Path) -> ReconstructedMap:
    found = open_map(folder)
    found.require_finished()
    return found


def place_maps(maps: Sequence[ReconstructedMap], meetings: Sequence[Meeting]) -> dict[int, Sim3]:
    """Where each map of the largest group that meets lies, by its row: ``world_from_map``, the world being that of the
    group's first map in metres, else of its first.
    """
    groups = [_grown({row: Sim3.identity()}, len(maps), meetings) for row in range(len(maps))]
    largest = max(groups, key=len, default={})
    base = min(largest, key=lambda row: (maps[row].metric is None, row))
    return groups[base]


def contradictions(
    maps: Sequence[ReconstructedMap], joined: Collection[int], meetings: Sequence[Meeting]
) -> tuple[str, ...]:
    """Why maps are not joined although enough pairs of their frames are verified. joined: rows of those that are."""
    found = []
    for first, second in combinations(range(len(maps)), 2):
        bridges = [one.bridge for one in meetings if one.bridge and one.members == (first, second)]
        if len(bridges) >= FEWEST_BRIDGES and not {first, second} <= set(joined):
            both = f"{maps[first].folder} and {maps[second].folder}"
            found.append(f"{both} contradict each other: {_contradiction(maps, first, second, bridges)}")
    return tuple(found)


def _contradiction(maps: Sequence[ReconstructedMap], first: int, second: int, bridges: Sequence[Bridge]) -> str:
    step = scale_step(bridges)
    if step is None:
        return "too few of the verified pairs agree on how they lie to each other."
    firsts = [member.first for member in numbered([(one, Sim3.identity()) for one in maps])]
    before, after = (
        " and ".join(_name(maps[row], number - firsts[row]) for row, number in zip((first, second), pair, strict=True))
        for pair in step.frames
    )
    return (
        f"their pairs up to {before} agree on a scale of {step.before:.2f}, those from {after} on one of "
        f"{step.after:.2f}. The scale of one of the maps jumps there: cut it there with recon split --at, and merge "
        "the parts."
    )


def _name(reconstruction: ReconstructedMap, index: int) -> str:
    return next(frame.name for frame in reconstruction.frames if frame.index == index)


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


@dataclass(frozen=True, eq=False)
class _Group:
    """Maps that meet. base: the member whose world they share. ledger: the loops between them, with their evidence."""

    members: tuple[Member, ...]
    base: Member
    ledger: tuple[tuple[LoopRecord, Bridge | None], ...]

    @classmethod
    def of(cls, maps: Sequence[ReconstructedMap], poses: Mapping[int, Sim3], meetings: Sequence[Meeting]) -> _Group:
        """The group of the maps with poses, by row, the first of which is the base.

        Raises MapError if two maps in metres contradict each other.
        """
        rows = sorted(poses)
        members = numbered([(maps[row], poses[row]) for row in rows])
        group = cls(members, members[rows.index(next(iter(poses)))], _ledger(rows, members, maps, meetings))
        group._require_one_metre()
        return group

    @property
    def metric(self) -> Metric | None:
        return self.base.reconstruction.metric

    @property
    def depth(self) -> DenseDepth:
        """The depth stage of the first map whose report names one."""
        return settings_of(self.members).depth

    @property
    def skipped(self) -> tuple[SkippedFrame, ...]:
        return tuple(one for member in self.members for one in member.skipped)

    @property
    def places(self) -> Places:
        frames = tuple(frame for member in self.members for frame in member.frames)
        between = tuple(frame for member in self.members for frame in member.between)
        return frames, between, joined_points(self.members)

    @property
    def loops(self) -> list[tuple[int, int]]:
        return [(line.earlier, line.frame) for line, _ in self.ledger if line.verdict == "accepted"]

    def judged(self, frames: Sequence[PlacedFrame]) -> tuple[LoopRecord, ...]:
        """The loops with what remains of each when the maps' frames have their final poses."""
        before = {frame.index: frame for member in self.members for frame in member.frames}
        after = {frame.index: frame for frame in frames}
        return tuple(
            replace(line, after=bridge.residual(self._found(line, before, after)))
            if bridge and line.earlier in after and line.frame in after
            else line
            for line, bridge in self.ledger
        )

    def _found(self, line: LoopRecord, before: Mapping[int, PlacedFrame], after: Mapping[int, PlacedFrame]) -> Sim3:
        """Where the map of a loop's second frame lies to that of its first, in their own worlds, by these frames."""
        first, second = (
            member.merged_from_world.inverse() @ before[index].world_from_cam @ after[index].world_from_cam.inverse()
            for member, index in ((self.members[line.first], line.earlier), (self.members[line.second], line.frame))
        )
        return first @ second.inverse()

    def _require_one_metre(self) -> None:
        for member in self.members:
            scale, reconstruction = member.merged_from_world.scale, member.reconstruction
            if reconstruction.metric and self.metric and abs(np.log(scale)) > SAME_METRE:
                raise MapError(
                    f"The maps contradict each other in metres: a metre of {reconstruction.folder} is {scale:.3g} m of "
                    f"{self.base.reconstruction.folder}. Scale one of them again."
                )


def _write(out: Path, group: _Group, tell: Listener, watch: Stopwatch, *, adjust: bool) -> tuple[bool, tuple[str, ...]]:
    """Write the merged map with its outputs; returns whether it was adjusted, and what could not be written."""
    try:
        tell(Progress("copying the maps", 0, 0))
        write_members(out, group.members)
        _store(out, group, group.places, group.skipped, complete=False)
        places, skipped, doubts = group.places, group.skipped, tuple[str, ...]()
        tell(Progress("bundle adjustment", 0, 0))
        adjusted = _adjusted(out, group) if adjust else None
        if adjusted:
            places, stale = adjusted
            skipped += tuple(_lost(group.places, places))
            _store(out, group, places, skipped, complete=False)
            doubts = _doubt_joint(places) + _renew(out, stale, group.depth, tell)
        _store(out, group, places, skipped, complete=True)
    except BaseException:  # Ctrl-C as well
        discard_map(out)
        raise
    notices = (NOT_ADJUSTED,) if adjust and not adjusted else ()
    for sentence in notices:
        tell(Notice(sentence))
    unwritten = write_outputs(out, CloudSettings(), tell)
    frames, between, _ = places
    written = report_of_members(
        group.members, frames, between, skipped=skipped, loops=group.judged(frames), watch=watch
    )
    written = replace(written, unwritten=unwritten, notices=notices, suspicions=written.suspicions + doubts)
    report.write(written, out / "report.json")
    return adjusted is not None, unwritten


def _store(out: Path, group: _Group, places: Places, skipped: tuple[SkippedFrame, ...], *, complete: bool) -> None:
    frames, between, points = places
    MapStore(out).write_places(frames, skipped, points, complete=complete, between=between, metric=group.metric)


def _lost(before: Places, after: Places) -> Iterator[SkippedFrame]:
    kept = {frame.index for frame in (*after[0], *after[1])}
    for frame in (*before[0], *before[1]):
        if frame.index not in kept:
            yield SkippedFrame(frame.index, frame.name, "the joint adjustment of the merged map lost it", "unplaced")


def _adjusted(out: Path, group: _Group) -> tuple[Places, frozenset[int]] | None:
    """The merged map after a joint adjustment, which keeps the frames of the base where they are, and the frames whose
    depth has to be computed again.

    None if that fails, loses frames, or moves them far. Frames between move with the nearest frame of their map.
    """
    reconstruction = open_map(out)
    before = {frame.index: frame for frame in reconstruction.frames}
    parts = [[frame.index for frame in member.frames] for member in group.members]
    images = (image_of(reconstruction, frame) for frame in reconstruction.frames)
    model = adjust_jointly(out / "map" / "features.db", images, before, parts, group.loops)
    if len(model.cam_from_model) < LEAST_KEPT * len(before):
        return None
    names = {row: (one.name, one.timestamp) for row, one in before.items()}
    frames, points, stale = correct(reconstruction, model, names)
    depths = {frame.index: typical_depth(geometry) for frame, geometry in reconstruction.geometry()}
    kept = {frame.index: frame.world_from_cam for frame in group.base.frames}
    change = final_from_grown({frame.index: frame for frame in frames}, depths, kept)
    after = {frame.index: moved(frame, change) for frame in frames}
    seen = depth_seen(after, depths)
    steps = [_distance(after[index], before[index]) / depth for index, depth in seen.items()]
    if not steps or np.median(steps) > MOST_MOVED:
        return None
    stale |= {index for index in after if _lens_change(before[index], after[index]) > LENS_CHANGED}
    between = tuple(
        _along(frame, before, after, own)
        for member, part in zip(group.members, parts, strict=True)
        for frame in member.between
        if (own := [index for index in part if index in after])
    )
    return (tuple(after.values()), between, moved_points(points, change)), stale


def _renew(out: Path, stale: frozenset[int], kind: DenseDepth, tell: Listener) -> tuple[str, ...]:
    """Compute the depth of frames again that the adjustment contradicts; returns a doubt if that is not possible."""
    unread = renew_depth(out, stale, kind, tell).unread if stale else ()
    return (depth_doubt(len(unread), unread[0]),) if unread else ()


def _distance(first: PlacedFrame, second: PlacedFrame) -> float:
    return float(np.linalg.norm(first.world_from_cam.translation - second.world_from_cam.translation))


def _lens_change(before: PlacedFrame, after: PlacedFrame) -> float:
    """Relative change of a frame's focal length."""
    return float(abs(np.log(after.camera.matrix()[0, 0] / before.camera.matrix()[0, 0])))


def _doubt_joint(places: Places) -> tuple[str, ...]:
    """A sentence if too few points hold two parts of the merged map together, and one if few carry its scale."""
    frames, _, points = places
    jumps = tuple(doubt_scale(frames, points))
    weakest = weakest_joint(frames, points)
    if not weakest:
        return jumps
    part, joining = weakest
    return (f"only {joining} points join {len(part)} frames, {part[0].name} to {part[-1].name}, to the others", *jumps)


def _along(
    frame: PlacedFrame, before: Mapping[int, PlacedFrame], after: Mapping[int, PlacedFrame], frames: Sequence[int]
) -> PlacedFrame:
    """A frame without depth, moved like the nearest of some frames."""
    nearest = min(frames, key=lambda index: abs(index - frame.index))
    change = after[nearest].world_from_cam @ before[nearest].world_from_cam.inverse()
    return replace(frame, camera=after[nearest].camera, world_from_cam=change @ frame.world_from_cam)


def _ledger(
    rows: Sequence[int], members: Sequence[Member], maps: Sequence[ReconstructedMap], meetings: Iterable[Meeting]
) -> tuple[tuple[LoopRecord, Bridge | None], ...]:
    """The loops between the maps, with the numbers that frames have in the merged map, and the evidence of each."""
    firsts = [one.first for one in numbered([(one, Sim3.identity()) for one in maps])]
    shift = {row: member.first - firsts[row] for row, member in zip(rows, members, strict=True)}
    poses = {row: member.merged_from_world for row, member in zip(rows, members, strict=True)}
    lines = []
    for meeting in meetings:
        first, second = meeting.members
        if first in shift and second in shift:
            bridge, first_from_second = meeting.bridge, poses[first].inverse() @ poses[second]
            agrees = bridge is not None and bridge.agrees_with(first_from_second)
            residual = bridge.residual(first_from_second) if bridge else 0.0
            reason = "" if agrees else meeting.reason or "it contradicts the other loops between the maps"
            line = LoopRecord(
                frame=meeting.hit.frame + shift[second],
                earlier=meeting.hit.earlier + shift[first],
                first=rows.index(first) if bridge else -1,
                second=rows.index(second) if bridge else -1,
                similarity=meeting.hit.similarity,
                inliers=meeting.found.inliers,
                residual=meeting.found.residual,
                before=residual,
                after=residual,
                verdict="accepted" if agrees else "rejected",
                reason=reason,
                kind="bridge",
            )
            lines.append((line, bridge))
    return tuple(lines)
