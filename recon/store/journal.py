"""The record that makes a run resumable, in the ledger of the map.

    parts   the sources of the map, with their settings
    chunks  the frames of each finished chunk, their poses in it, and the front end's memory after it

Placement, loops and doubts are not recorded: a resumed run replays the finished chunks through the same steps.
docs/formats.md describes every field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.errors import MapError, OutputError, SettingsError, SourceError
from recon.core.lens_names import MODELS
from recon.core.names import refuse_to_leave
from recon.core.refusal import Unplaced
from recon.core.similarity import Array
from recon.core.types import (
    Camera,
    Chunk,
    ChunkGeometry,
    Frame,
    FrameGeometry,
    Mount,
    PassedFrame,
    SkippedFrame,
    SparsePoints,
)
from recon.frontend import Resumable, front_end_class, front_end_name
from recon.settings import RunSettings
from recon.sources.base import KeyframeChoice, Source
from recon.sources.identity import MASK_FOLLOWS, content_hash
from recon.store.frame_arrays import FrameArrays
from recon.store.ledger import Ledger
from recon.store.legacy import REBUILD
from recon.store.map import Matrix, open_map, read_arrays, submap_path
from recon.store.masks import write_masks
from recon.store.missing import why_no_run

AS_IT_WAS = "Restore the source, choose another --out, or rebuild the map with --overwrite."
# Fields of NetworkSettings on which its stream depends, by option.
NETWORK_OPTIONS = {
    "arithmetic": "arithmetic",
    "precision": "precision",
    "pixels": "pixels",
    "memory-frames": "memory_frames",
    "memory-mib": "memory_mebibytes",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """The part of a map from one source. first: index of its first frame. start: timestamp of that frame [s]."""

    source: str
    settings: RunSettings
    first: int = 0
    start: float = 0.0

    def name(self, index: int, name: str) -> str:
        """What a frame of the source, ``index`` in the map, is called there: no two parts share a name."""
        return f"{index:06d}_{name}" if self.first else name


@dataclass(frozen=True)
class FrameRecord:
    """A ``Frame`` without its pixels, which are in the run's image folder. content: a hash that identifies them."""

    index: int
    timestamp: float
    name: str
    original_size: tuple[int, int]
    lens: str
    focal: float
    content: str
    mount: Mount | None = None


@dataclass(frozen=True)
class PosedRecord:
    """A ``FrameGeometry`` without its arrays, which are in the submap."""

    index: int
    cam_from_chunk: Matrix
    camera: Camera
    intrinsics: Matrix


@dataclass(frozen=True, eq=False)
class ChunkRecord:
    """A finished chunk as the ledger holds it. unplaced, revised: as in ``ChunkGeometry``; early builds wrote the
    reasons as text alone. memory: the front end's memory after the chunk.
    """

    overlap: int
    frames: tuple[FrameRecord, ...]
    placed: tuple[PosedRecord, ...]
    unplaced: dict[int, Unplaced | str]
    revised: dict[int, Matrix]
    memory: Row
    number: int = 0


class Journal:
    """The journal of the run in a folder. It keeps the names and poses of finished chunks in memory.

    ledger: for transactions that other parts of the map share.
    """

    def __init__(
        self,
        folder: Path,
        parts: tuple[Part, ...],
        chunks: tuple[ChunkRecord, ...] = (),
        others: tuple[SkippedFrame | PassedFrame, ...] = (),
    ) -> None:
        self.folder, self.ledger = folder, Ledger(folder)
        self.parts = parts
        self.finished, self.others = chunks, others  # before this run began
        self._parts_written = parts
        self._recalled = 0

    @classmethod
    def begin(cls, folder: Path, source: str, settings: RunSettings) -> Journal:
        """The journal of a new run in ``folder``, which exists. Raises OutputError."""
        journal = cls(folder, (Part(source, settings),))
        journal._write_parts()
        return journal

    @classmethod
    def resume(cls, folder: Path, source: str, settings: RunSettings, opened: Source | None) -> Journal:
        """The journal of the run in ``folder``, to be resumed with the rest of its last source or with another one.

        opened: the source if it gives the same frames every time; otherwise None, and the source counts as a new one. A
        moved source with the same content counts as the same. Writes nothing. Raises OutputError if there is no run,
        MapError if it is damaged, SettingsError if the settings differ from the run's or the run cannot be resumed, and
        SourceError if the source no longer gives the frames that the run has from it.
        """
        parts, chunks = read_parts(folder), _read_chunks(folder)
        known = frames_of(chunks)
        parts = tuple(part for part in parts if part.first <= max(known, default=-1))  # only those that added frames
        change = _first_change(opened, parts[-1], known) if opened and parts else None
        same = opened is not None and bool(parts) and (source == parts[-1].source or change is None)
        live = opened is None or opened.status is not None
        settings = (
            settings.with_keyframes(parts[-1].settings.source.keyframes)
            if same and settings.source.keyframes == "auto"
            else settings.decided(opened.description.frames if opened else 0, live=live)
        )
        if parts:
            _refuse_other_shots(folder, known, source, opened)
            _refuse_other_settings(folder, parts[-1].settings, settings, same=same)
        if same and change:
            raise SourceError(f"{source} has changed since the run in {folder}: {change}. {AS_IT_WAS}")
        if opened and not same and source in {part.source for part in parts}:
            raise SettingsError(
                f"The map in {folder} already has frames of {source}, followed by those of {parts[-1].source}. Put new "
                "images into a separate folder."
            )
        others = _read_others(folder, known)
        now = replace(parts[-1], source=source) if same else _part_behind(source, settings, chunks, others)
        journal = cls(folder, (*(parts[:-1] if same else parts), now), chunks, others)
        journal._parts_written = parts
        return journal

    @property
    def is_recalling(self) -> bool:
        """Whether chunks of an earlier run remain to be replayed."""
        return self._recalled < len(self.finished)

    @property
    def frames(self) -> dict[int, FrameRecord]:
        """The frames of all chunks that an earlier run finished, by index."""
        return frames_of(self.finished)

    @property
    def keyframes(self) -> KeyframeChoice:
        """How to choose the frames of the present source: as decided, and as far as an earlier run got, as it did."""
        part = self.parts[-1]
        earlier = frozenset(index - part.first for index in self.frames if index >= part.first)
        return KeyframeChoice(part.settings.source.keyframes == "select", earlier)

    @property
    def frames_behind(self) -> int:
        """How many frames of the present source the run has behind it, with those that it passed over."""
        part, options = self.parts[-1], self.parts[-1].settings.source
        own = [frame for frame in self.frames.values() if frame.index >= part.first]
        if options.keyframes == "all" or not own:
            return len(own)
        if options.fps:
            return round((own[-1].timestamp - part.start) * options.fps) + 1
        return (own[-1].index - part.first) // options.every + 1

    def resumption(self, source: str) -> str:
        """The sentence about the frames that are restored and those that follow from ``source``."""
        first = self.parts[-1].first
        follow = f"the frames of {source} follow from number {first}" if first else "the rest follows"
        restored = "1 frame is" if len(self.frames) == 1 else f"{len(self.frames)} frames are"
        return f"Resuming the run in {self.folder}: {restored} restored; {follow}."

    def part_of(self, index: int) -> Part:
        """The part to which a frame belongs."""
        return next(part for part in reversed(self.parts) if part.first <= index)

    def write(self, chunk: Chunk, geometry: ChunkGeometry, memory: Mapping[str, Any]) -> None:
        """Record a chunk whose submap is stored, unless an earlier run has done so. Raises OutputError."""
        if self.is_recalling:
            self._recalled += 1
            return
        row = {
            "number": chunk.index,
            "overlap": chunk.overlap,
            "frames": [asdict(record(frame)) for frame in chunk.frames],
            "placed": [_pose_to_json(frame) for frame in geometry.frames],
            "unplaced": {index: asdict(reason) for index, reason in geometry.unplaced.items()},
            "revised": {index: pose.tolist() for index, pose in geometry.revised.items()},
            "memory": memory,
        }
        write_masks(self.folder, chunk.frames)
        with self.ledger.writing():
            if self._parts_written != self.parts:
                self._write_parts()
            self.ledger.add("chunks", row)

    def recall(self, chunk: Chunk, before: Mapping[int, FrameGeometry]) -> ChunkGeometry:
        """The geometry of a finished chunk. before: the frames of the previous chunk, some of which it may share.

        Depth has the precision of the stored map, and there are no sparse points. Raises SourceError if the chunk's
        frames differ from the record, MapError if its depth is missing.
        """
        finished = self.finished[chunk.index]
        self._require_same(chunk, finished)
        path = submap_path(self.folder, chunk.index)
        arrays = read_arrays(path) if finished.placed else {}
        frames = tuple(_recalled(row, arrays.get(row.index), before, path) for row in finished.placed)
        unplaced = {
            index: Unplaced.from_text(reason) if isinstance(reason, str) else reason  # of an early build
            for index, reason in finished.unplaced.items()
        }
        revised = {index: np.array(pose) for index, pose in finished.revised.items()}
        return ChunkGeometry(frames, SparsePoints.empty(), unplaced, revised)

    def _require_same(self, chunk: Chunk, finished: ChunkRecord) -> None:
        """Raise SourceError for frames that have changed although their files looked the same, and for other masks."""
        now = {frame.index: frame for frame in chunk.frames}
        for was in finished.frames:
            part, frame = self.part_of(was.index), now.get(was.index)
            if frame is None or not _same_frame(was, frame):
                what, changed = part.source, was.name
            elif not _same_mask(was, frame):
                what, changed = "A mask", f"that of {was.name}"
            else:
                continue
            raise SourceError(f"{what} has changed since the run in {self.folder}: {changed} is different. {AS_IT_WAS}")

    def _write_parts(self) -> None:
        self.ledger.replace("parts", map(asdict, self.parts))
        self._parts_written = self.parts


def record(frame: Frame) -> FrameRecord:
    """A frame as the journal records it."""
    return FrameRecord(
        frame.index,
        frame.timestamp,
        frame.name,
        frame.original_size,
        frame.lens,
        frame.focal,
        frame.content,
        frame.mount,
    )


def frames_of(chunks: Sequence[ChunkRecord]) -> dict[int, FrameRecord]:
    """All frames of chunks, by index."""
    return {frame.index: frame for chunk in chunks for frame in chunk.frames}


def _part_behind(
    source: str, settings: RunSettings, chunks: Sequence[ChunkRecord], others: Sequence[SkippedFrame | PassedFrame]
) -> Part:
    """A part whose frames follow all frames of a map, including skipped ones; it starts a second after the last one."""
    known = frames_of(chunks).values()
    times = [frame.timestamp for frame in known] + [item.timestamp for item in others if isinstance(item, PassedFrame)]
    indices = [frame.index for frame in known] + [item.index for item in others]
    return Part(source, settings, max(indices, default=-1) + 1, max(times, default=-1.0) + 1)


def _first_change(source: Source, part: Part, known: Mapping[int, FrameRecord]) -> str | None:
    """The first frame of a part that a source does not reproduce; None if it reproduces all."""
    hashes: dict[Path, str] = {}
    for index, frame in known.items():
        if index < part.first:
            continue
        path = source.file_of(index - part.first)
        if path is None:
            return f"it has fewer frames, and {frame.name} is gone"
        if path not in hashes:
            hashes[path] = _hash_or_nothing(path)
        if hashes[path] != _picture(frame.content):
            return f"{path} is not the file of frame {index} of the map ({frame.name})"
    return None


def _hash_or_nothing(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError:  # it could be read before
        return ""


def _picture(content: str) -> str:
    """The hash of the file alone, without that of its mask."""
    return content.partition(MASK_FOLLOWS)[0]


def _same_frame(was: FrameRecord, now: Frame) -> bool:
    before, after = ((one.index, one.name, one.original_size, _picture(one.content), one.mount) for one in (was, now))
    return before == after


def _same_mask(was: FrameRecord, now: Frame) -> bool:
    """Whether a frame has the mask with which it was mapped; a mask added since changes nothing about it."""
    return MASK_FOLLOWS not in was.content or was.content == now.content


def _refuse_other_shots(folder: Path, known: Mapping[int, FrameRecord], name: str, opened: Source | None) -> None:
    """Raise SettingsError unless as many frames are taken together in the source as in the map."""
    mounts = {frame.mount for frame in known.values()}
    was = max((mount.count if mount else 1 for mount in mounts), default=1)
    now = opened.description.views if opened else 1
    if was != now:
        before, after = ("single images" if views == 1 else f"shots of {views} views" for views in (was, now))
        raise SettingsError(
            f"The map in {folder} is made of {before}, and {name} gives {after}, as panoramas and rigs do. One map "
            "cannot hold both. Reconstruct them into another --out."
        )


def _refuse_other_settings(folder: Path, was: RunSettings, now: RunSettings, *, same: bool) -> None:
    if front_end_name(was) != front_end_name(now) and not issubclass(front_end_class(was), Resumable):
        raise SettingsError(cannot_resume(folder, was))
    made_by, now_by = ({"front end": front_end_name(one), "matcher": one.matcher} for one in (was, now))
    for kind, name in made_by.items():
        if now_by[kind] != name:
            raise SettingsError(
                f"The run in {folder} was made by the {kind} {name}, not {now_by[kind]}. Use the same one to resume it."
            )
    before, after = (_comparable(settings, same=same) for settings in (was, now))
    for name, value in before.items():
        if after[name] != value:
            raise SettingsError(
                f"The run in {folder} was made {_given(name, value)}, not {_given(name, after[name])}. Use the same "
                "options to resume it."
            )


def _comparable(settings: RunSettings, *, same: bool) -> Row:
    """Settings that must not change, by option: for the same source all that affect the map, for another one few."""
    cameras = settings.source.cameras
    # A calibration also sets the model, which the user then need not know; a rig sets both.
    given = (None, None) if settings.source.rig else (settings.intrinsics, settings.camera_model)
    lens = {"intrinsics": given[0], "camera_model": given[1], "cameras": cameras}
    network = {name: getattr(settings.network, attribute, None) for name, attribute in NETWORK_OPTIONS.items()}
    masks, rig = settings.source.masks and "given", settings.source.rig and "given"  # compared frame by frame
    own = {name: getattr(settings, name) for name in ("chunk", "overlap", "depth", "quality", "features")}
    own |= asdict(settings.source) | {"masks": masks, "rig": rig}
    return {f"--{name.replace('_', '-')}": value for name, value in (lens | network | (own if same else {})).items()}


def _given(option: str, value: object) -> str:
    """An option as the user gives it."""
    if value is None:
        return f"without {option}"
    if isinstance(value, Camera):
        value = ",".join(f"{number:g}" for number in _numbers(value))
    names = {str(model): name for name, model in MODELS.items()}
    return f"with {option} {names.get(str(value), value)}"


def _numbers(camera: Camera) -> tuple[float, ...]:
    """fx, fy, cx, cy and the distortion, as ``--intrinsics`` takes them."""
    (fx, _, cx), (_, fy, cy), _ = camera.matrix()
    return fx, fy, cx, cy, *camera.params[4 if camera.model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE") else 3 :]


def read_journal(folder: Path) -> Journal:
    """The journal of the run in ``folder``, for reading. Raises OutputError if there is none, MapError if damaged."""
    return Journal(folder, read_parts(folder), _read_chunks(folder))


def cannot_resume(folder: Path, was: RunSettings) -> str:
    """The sentence for a run by a front end that is not ``Resumable``."""
    return f"{folder} was made by the front end {front_end_name(was)} and cannot be resumed. {REBUILD}"


def require_run(folder: Path) -> None:
    """Raise OutputError if no run that can be resumed made what is in ``folder``."""
    if not Ledger(folder).has("parts"):
        raise OutputError(why_no_run(folder))


def read_parts(folder: Path) -> tuple[Part, ...]:
    """The sources of the run in ``folder``. Raises OutputError if there is no run, MapError if damaged."""
    require_run(folder)
    parts = Ledger(folder).read("parts", Part, REBUILD)
    # Early builds recorded "auto", and it selected.
    return tuple(replace(part, settings=part.settings.decided(0, live=True)) for part in parts)


def _read_chunks(folder: Path) -> tuple[ChunkRecord, ...]:
    ledger = Ledger(folder)
    chunks, path = ledger.read("chunks", ChunkRecord, REBUILD), ledger.source("chunks")
    for number, chunk in enumerate(chunks):
        if chunk.number != number:
            raise MapError(f"{path} lacks chunk {number}, although later chunks are finished. {REBUILD}")
        _require_in_range(chunk, path)
        for frame in chunk.frames:
            refuse_to_leave(frame.name, path)
    return tuple(chunks)


def _require_in_range(chunk: ChunkRecord, path: Path) -> None:
    indices = [frame.index for frame in chunk.frames]
    sound = (
        0 <= chunk.overlap <= len(indices)
        and indices == sorted(set(indices))
        and min(indices, default=0) >= 0
        and {row.index for row in chunk.placed} | chunk.unplaced.keys() <= set(indices)
    )
    if not sound:
        raise MapError(f"{path} is damaged: the frames of chunk {chunk.number} are numbered wrongly. {REBUILD}")


def _read_others(folder: Path, known: Mapping[int, FrameRecord]) -> tuple[SkippedFrame | PassedFrame, ...]:
    """Frames of a map outside its finished chunks: unreadable ones, and those that were passed over."""
    if not Ledger(folder).has("map"):
        return ()
    earlier = open_map(folder)
    between = [PassedFrame(frame.index, frame.timestamp, frame.name) for frame in earlier.between]
    skipped = [
        PassedFrame(frame.index, 0.0, frame.name) if frame.kind == "passed" else frame
        for frame in earlier.skipped
        if frame.index not in known
    ]
    return (*between, *skipped)


def _pose_to_json(frame: FrameGeometry) -> Row:
    return {
        "index": frame.index,
        "cam_from_chunk": frame.cam_from_chunk.tolist(),
        "camera": vars(frame.camera),
        "intrinsics": frame.intrinsics.tolist(),
    }


def _recalled(
    row: PosedRecord,
    found: tuple[FrameArrays, Array | None] | None,
    before: Mapping[int, FrameGeometry],
    path: Path,
) -> FrameGeometry:
    """A frame's geometry: that of the previous chunk unless the submap stores another. Its depth may be newer than the
    record, and so are the intrinsics stored with it."""
    if found is None:
        if row.index not in before:
            raise MapError(f"{path} lacks the depth of frame {row.index}. {REBUILD}")
        return before[row.index]
    stored, intrinsics = found
    return FrameGeometry(
        index=row.index,
        cam_from_chunk=np.array(row.cam_from_chunk),
        camera=row.camera,
        intrinsics=np.array(row.intrinsics) if intrinsics is None else intrinsics,
        depth=stored.depth,
        confidence=stored.confidence,
        colour=stored.colour,
        propagated=stored.propagated,
    )
