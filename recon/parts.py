"""Parts of a finished map as maps of their own: a box of the world, fewer frames, pieces, stretches of time.

A part keeps the world and the unit of its map, and the numbers and names of its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recon.core.box import Box
from recon.core.errors import MapError, SettingsError
from recon.core.events import Listener, Progress
from recon.core.similarity import Sim3
from recon.core.stopwatch import Stopwatch
from recon.core.types import FrameGeometry, PlacedFrame, SparsePoints
from recon.exports.outputs import write_outputs
from recon.folder import discard_map, require_empty
from recon.mapping.joints import pieces
from recon.settings import CloudSettings
from recon.store import report
from recon.store.lock import sole_writer
from recon.store.map import MapStore, ReconstructedMap, open_map
from recon.store.merged import Member, depth_in_box, report_of, report_of_members, write_members

LEAST_SEEN = 0.05  # share of a frame's depth that lies in a box; frames with less are left out
SEEN_TWICE = 2  # frames that see a point of a part


@dataclass(frozen=True, eq=False)
class Part:
    """A part that was written. frames: how many of the map's have depth. unwritten: a sentence for each output that
    failed.
    """

    folder: Path
    frames: int
    unwritten: tuple[str, ...]


def crop(folder: Path, out: Path, box: Box | None, keep_every: int = 1, tell: Listener = lambda event: None) -> Part:
    """Write what lies in a box, from every n-th frame, into the new folder ``out``.

    Frames that see almost nothing of the box are left out; of the others, those that are not kept keep their poses.
    Raises SettingsError if nothing would be left out, MapError if nothing is left, or if the map is damaged or
    unfinished, and OutputError if ``out`` is not empty or cannot be written.
    """
    if keep_every < 1:
        raise SettingsError(f"--keep-every must be at least 1, got {keep_every}.")
    if keep_every == 1 and box is None:
        raise SettingsError("A crop needs --box, or --keep-every with a number of 2 or more.")
    require_empty(out)
    whole = _finished(folder)
    tell(Progress("cropping", 0, 0))
    geometries = whole.geometry()
    seen = [frame for frame, found in geometries if box is None or _share(frame, found, box) >= LEAST_SEEN]
    if not seen:
        raise MapError(
            f"No frame of {folder} has {LEAST_SEEN:.0%} of its depth in the box. Choose another one; the cameras lie "
            f'in "{_around(whole.frames)}".'
        )
    kept = seen[::keep_every]
    others = [frame for row, frame in enumerate(seen) if row % keep_every]
    part = _restricted(whole, kept, others, box)
    with sole_writer(out, "crop"):
        return _write(out, Member(part, 0, 0.0, Sim3.identity(), box), tell)


def split(folder: Path, out: Path, at: Sequence[float], tell: Listener = lambda event: None) -> list[Part]:
    """Write each part of a map into its own folder, ``out/part_1`` and so on. at: timestamps at which to cut; without
    any, parts that share too few points are separated.

    Raises SettingsError if there is only one part, or if one has no frame, MapError for a map that is damaged or
    unfinished, and OutputError if ``out`` is not empty or cannot be written.
    """
    require_empty(out)
    whole = _finished(folder)
    groups = _stretches(whole, at) if at else pieces(whole.frames, whole.points)
    if len(groups) < 2:
        raise SettingsError(f"The map in {folder} is in one piece. Say where to cut it, with --at TIME.")
    with sole_writer(out, "split"):
        return [
            _write(out / f"part_{number}", Member(_restricted(whole, group, (), None), 0, 0.0, Sim3.identity()), tell)
            for number, group in enumerate(groups, start=1)
        ]


def _finished(folder: Path) -> ReconstructedMap:
    found = open_map(folder)
    found.require_finished()
    return found


def _around(frames: Sequence[PlacedFrame]) -> str:
    """The box of the camera centres, as ``Box.of`` reads it."""
    centres = np.array([frame.world_from_cam.translation for frame in frames])
    return " ".join(
        ",".join(f"{value:.4g}" for value in corner) for corner in (centres.min(axis=0), centres.max(axis=0))
    )


def _share(placed: PlacedFrame, geometry: FrameGeometry, box: Box) -> float:
    """Share of a frame's depth that lies in a box."""
    depth = geometry.depth > 0
    inside = depth_in_box(placed, geometry.depth, box)
    return float(inside.sum() / max(int(depth.sum()), 1))


def _stretches(whole: ReconstructedMap, at: Sequence[float]) -> list[list[PlacedFrame]]:
    cuts = np.searchsorted(np.sort(at), [frame.timestamp for frame in whole.frames], side="right")
    groups = [
        [frame for frame, cut in zip(whole.frames, cuts, strict=True) if cut == number] for number in range(len(at) + 1)
    ]
    if not all(groups):
        bounds = ["the beginning", *(f"{time:g}" for time in sorted(at)), "the end"]
        empty = [bool(group) for group in groups].index(False)
        first, last = whole.frames[0].timestamp, whole.frames[-1].timestamp
        raise SettingsError(
            f"There is no frame between {bounds[empty]} and {bounds[empty + 1]}: cut at other times; those of the "
            f"frames go from {first:g} to {last:g}."
        )
    return groups


def _restricted(
    whole: ReconstructedMap, kept: Sequence[PlacedFrame], posed: Sequence[PlacedFrame], box: Box | None
) -> ReconstructedMap:
    """The part of a map with some of its frames. posed: frames that lose their depth, but not their pose. Frames
    between go with the nearest frame of the map.
    """
    frames = {frame.index for frame in (*kept, *posed)}
    order = np.array([frame.index for frame in whole.frames])

    def belongs(index: int) -> bool:
        return int(order[np.abs(order - index).argmin()]) in frames

    between = [frame for frame in whole.between if belongs(frame.index)]
    points = _points_in(whole.points, box).seen_by([frame.index for frame in kept], SEEN_TWICE)
    return replace(
        whole,
        frames=tuple(sorted(kept, key=lambda frame: frame.index)),
        between=tuple(sorted((*between, *posed), key=lambda frame: frame.index)),
        skipped=tuple(one for one in whole.skipped if belongs(one.index)),
        points=points,
    )


def _points_in(points: SparsePoints, box: Box | None) -> SparsePoints:
    if box is None:
        return points
    rows = box.contains(points.positions)[points.point_ids]
    observations = {name: getattr(points, name)[rows] for name in ("point_ids", "frame_indices", "pixels")}
    return replace(points, **observations)


def _write(out: Path, member: Member, tell: Listener) -> Part:
    part, watch = member.reconstruction, Stopwatch()
    try:
        write_members(out, [member])
        places = part.frames, part.skipped, part.points
        MapStore(out).write_places(*places, complete=True, between=part.between, metric=part.metric)
    except BaseException:  # Ctrl-C as well
        discard_map(out)
        raise
    unwritten = write_outputs(out, CloudSettings(), tell)
    indices, known = {frame.index for frame in part.frames}, report_of(member)
    written = report_of_members(
        [member],
        part.frames,
        part.between,
        skipped=part.skipped,
        loops=tuple(loop for loop in known.loops if {loop.frame, loop.earlier} <= indices) if known else (),
        watch=watch,
    )
    chunks = [chunk for chunk in written.chunks if any(chunk.first <= index <= chunk.last for index in indices)]
    report.write(replace(written, chunks=tuple(chunks), unwritten=unwritten), out / "report.json")
    return Part(out, len(part.frames), unwritten)
