"""Maps, or parts of them, as one new map: frames with new numbers and names, and their files in a new folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.core.box import Box
from recon.core.errors import OutputError, ReconError
from recon.core.files import make_folder
from recon.core.places import LoopRecord
from recon.core.projection import back_project
from recon.core.similarity import Sim3
from recon.core.stopwatch import Stopwatch, peak_memory
from recon.core.types import Mask, PlacedFrame, SkippedFrame, SparsePoints
from recon.settings import RunSettings
from recon.sources.originals import link_original
from recon.store import report
from recon.store.archive import load_arrays
from recon.store.frame_arrays import KINDS, packed_depth, unpack
from recon.store.map import MapStore, ReconstructedMap, frames_in, images_folder
from recon.store.masks import mask_path
from recon.store.report import RunReport, main_versions
from recon.store.versions import SUBMAP_VERSION


@dataclass(frozen=True, eq=False)
class Member:
    """A map that becomes part of another. first: index of its first frame there. start: added to its timestamps.

    merged_from_world: where it lies. box: of its world; depth outside is left out.
    """

    reconstruction: ReconstructedMap
    first: int
    start: float
    merged_from_world: Sim3
    box: Box | None = None

    @property
    def frames(self) -> tuple[PlacedFrame, ...]:
        """The frames with depth as frames of the merged map."""
        return tuple(map(self._moved, self.reconstruction.frames))

    @property
    def between(self) -> tuple[PlacedFrame, ...]:
        """The frames with a pose only as frames of the merged map."""
        return tuple(map(self._moved, self.reconstruction.between))

    @property
    def skipped(self) -> tuple[SkippedFrame, ...]:
        """The frames without a pose as frames of the merged map."""
        return tuple(
            replace(one, index=self.first + one.index, name=self._name(one)) for one in self.reconstruction.skipped
        )

    @property
    def points(self) -> SparsePoints:
        """The sparse points in the merged map."""
        points = self.reconstruction.points
        return replace(
            points,
            positions=self.merged_from_world.apply(points.positions),
            frame_indices=points.frame_indices + self.first,
        )

    def _moved(self, frame: PlacedFrame) -> PlacedFrame:
        pose = self.merged_from_world @ frame.world_from_cam
        index = self.first + frame.index
        return PlacedFrame(index, self.start + frame.timestamp, self._name(frame), frame.camera, pose)

    def _name(self, frame: PlacedFrame | SkippedFrame) -> str:
        """As in later parts of a map that a run extends, so that names stay unique and in order."""
        return f"{self.first + frame.index:06d}_{frame.name}" if self.first else frame.name


def numbered(maps: Sequence[tuple[ReconstructedMap, Sim3]]) -> tuple[Member, ...]:
    """Maps as members of one, given with the similarity that places each: their frames follow each other, in order."""
    members: list[Member] = []
    first, start = 0, 0.0
    for reconstruction, merged_from_world in maps:
        members.append(Member(reconstruction, first, start, merged_from_world))
        indices = [frame.index for frame in reconstruction.posed] + [one.index for one in reconstruction.skipped]
        first += max(indices, default=-1) + 1
        start += max((frame.timestamp for frame in reconstruction.posed), default=-1.0) + 1
    return tuple(members)


def joined_points(members: Sequence[Member]) -> SparsePoints:
    """The sparse points of all members."""
    parts = [member.points for member in members]
    offsets = np.cumsum([0, *(len(part.positions) for part in parts)])
    return SparsePoints(
        positions=np.concatenate([part.positions for part in parts]),
        colours=np.concatenate([part.colours for part in parts]),
        point_ids=np.concatenate([part.point_ids + offset for part, offset in zip(parts, offsets, strict=False)]),
        frame_indices=np.concatenate([part.frame_indices for part in parts]),
        pixels=np.concatenate([part.pixels for part in parts]),
    )


def write_members(out: Path, members: Sequence[Member]) -> None:
    """Write images, masks and depth of all members into ``out``: all of a map but its poses and points.

    Raises OutputError, and MapError if a file of a member is missing or damaged.
    """
    names = [frame.name for member in members for frame in member.frames]
    if len(set(names)) < len(names):
        raise OutputError("Two images of the maps would get the same name. Rename the images of one, and map it again.")
    store = MapStore(out)
    make_folder(images_folder(out))
    number = 0
    for member in members:
        for old, new in zip(member.reconstruction.frames, member.frames, strict=True):
            link_original(member.reconstruction.images / old.name, images_folder(out) / new.name)
            mask = mask_path(member.reconstruction.folder, old.index)
            if mask.is_file():
                make_folder(mask_path(out, 0).parent)
                shutil.copyfile(mask, mask_path(out, new.index))
        placed = {frame.index: frame for frame in member.reconstruction.frames}
        for path in member.reconstruction.submap_files:
            if not placed.keys().isdisjoint(frames_in(path)):
                store.write_arrays(number, _copied_submap(path, member, placed))
                number += 1


def _copied_submap(path: Path, member: Member, placed: Mapping[int, PlacedFrame]) -> dict[str, np.ndarray]:
    """The placed frames of a submap with the numbers of the new map, without depth that only resumed runs need.

    If frames are left out, propagated depth counts as computed: it may repeat theirs.
    """
    stored = load_arrays(path)
    rows = [row for row, index in enumerate(stored["frame_indices"].tolist()) if index in placed]
    indices = stored["frame_indices"][rows]
    kinds = KINDS if len(rows) == len(stored["frame_indices"]) else KINDS[:-1]
    arrays: dict[str, Any] = {
        "version": np.int64(SUBMAP_VERSION),
        "frame_indices": indices + member.first,
        "cam_from_chunk": stored["cam_from_chunk"][rows],
        "intrinsics": stored["intrinsics"][rows],
        "world_from_chunk": (member.merged_from_world @ Sim3.from_matrix(stored["world_from_chunk"])).matrix(),
    }
    for index in indices.tolist():
        own = {kind: stored[f"{kind}_{index}"] for kind in kinds if f"{kind}_{index}" in stored}
        if member.box:
            depth = unpack(stored, index).depth
            inside = depth_in_box(placed[index], depth, member.box)
            own["depth"] = packed_depth((depth * inside).astype(np.float16))
            own["confidence"] = own["confidence"] * inside
        arrays |= {f"{kind}_{member.first + index}": array for kind, array in own.items()}
    return arrays


def depth_in_box(placed: PlacedFrame, depth: NDArray[np.floating], box: Box) -> Mask:
    """Which pixels of a frame's depth (h, w) are points in a box."""
    inside = np.zeros(depth.shape, dtype=np.bool_)
    rows, columns = np.nonzero(depth > 0)
    pixels = np.column_stack([columns + 0.5, rows + 0.5])
    intrinsics = placed.camera.matrix_at(depth.shape[1], depth.shape[0])
    points = back_project(pixels, depth[rows, columns].astype(np.float64), intrinsics)
    inside[rows, columns] = box.contains(placed.world_from_cam.apply(points))
    return inside


def report_of_members(
    members: Sequence[Member],
    frames: Sequence[PlacedFrame],
    between: Sequence[PlacedFrame],
    *,
    skipped: tuple[SkippedFrame, ...],
    loops: tuple[LoopRecord, ...],
    watch: Stopwatch,
) -> RunReport:
    """What happened, in the form of a run's report. Settings are those of the first map, chunks and doubts of all."""
    reports = [(member, found) for member in members if (found := report_of(member))]
    chunks = [
        replace(chunk, first=member.first + chunk.first, last=member.first + chunk.last)
        for member, found in reports
        for chunk in found.chunks
    ]
    return RunReport(
        source=" + ".join(os.fspath(member.reconstruction.folder.resolve()) for member in members),
        settings=settings_of(members),
        versions=main_versions(),
        frames_read=len(frames) + len(skipped),
        frames_placed=len(frames),
        skipped=skipped,
        chunks=tuple(replace(chunk, index=number) for number, chunk in enumerate(chunks)),
        stages=watch.stages,
        seconds=watch.seconds,
        peak_memory_bytes=peak_memory(),
        notices=(),
        interrupted=False,
        loops=loops,
        passed_over=len(between),
        passed_over_placed=len(between),
        suspicions=tuple(
            f"{doubt} ({member.reconstruction.folder})" for member, found in reports for doubt in found.suspicions
        ),
        processor_seconds=watch.processor_seconds,
    )


def settings_of(members: Iterable[Member]) -> RunSettings:
    """The settings of the first map whose report can be read."""
    return next((found.settings for member in members if (found := report_of(member))), RunSettings())


def report_of(member: Member) -> RunReport | None:
    """The report of the run that made a map; None if there is none that can be read."""
    try:
        return report.read(member.reconstruction.folder / "report.json")
    except ReconError:  # a map need not have one
        return None
