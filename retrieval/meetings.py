"""Where maps meet: frames of two maps that look alike, verified by geometry and by appearance.

Two rooms with the same furniture agree in geometry. So the frame of one map, moved to the pose of the other's by its
depth, must also look like it, as for ``recon locate``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from recon.core.errors import MapError
from recon.core.events import Listener, Progress
from recon.core.similarity import Sim3
from recon.core.types import Camera, Frame, FrameGeometry, PlacedFrame
from recon.mapping.appearance import View
from recon.mapping.joining import Bridge
from recon.mapping.world import typical_depth
from recon.store.map import ReconstructedMap, frames_in, read_submap
from recon.store.merged import Member
from retrieval.appearance import agreement
from retrieval.candidates import CandidateSettings, Hit, find_hits, strongest
from retrieval.describer import Descriptors, PlaceDescriber
from retrieval.index import PlaceIndex
from retrieval.landmarks import image_of
from retrieval.localiser import LocateSettings
from retrieval.recogniser import around
from retrieval.verification import Verification, Verifier
from retrieval.vlad import IMAGES_TO_LEARN_FROM, VladDescriber, learn_vlad

SUBMAPS_IN_MEMORY = 4
CRITERIA = LocateSettings()  # of appearance
Places = tuple[Sequence[int], Descriptors]  # frames and what describes them
ALL = -1.0  # least similarity: geometry decides
# Without a gap: the frames are of different maps. With more patience, as there are fewer candidates than in a run.
MEETING = CandidateSettings(gap=1, neighbours=5, window=4, patience=16)
SAME = 1 - 1e-5  # similarity of an image to itself
MOST_SAME = 12  # pairs of one image in both maps beyond those of different windows


@dataclass(frozen=True, eq=False)
class Meeting:
    """Two frames of different maps that look alike, by their numbers in the merged map.

    members: rows of their maps. bridge: None if the pair is not confirmed, with the ``reason``.
    """

    members: tuple[int, int]
    hit: Hit
    found: Verification
    bridge: Bridge | None
    reason: str


def find_meetings(members: Sequence[Member], tell: Listener) -> list[Meeting]:
    """The most similar pairs of frames of every two maps, each with its verification. tell: gets the progress.

    Raises MapError if a map has no depth, shows too little, or lacks an image.
    """
    views = [MapViews(member) for member in members]
    tell(Progress("describing the images", 0, 0))
    describer = describer_of(members)
    places = [described(describer, member) for member in members]
    meetings = []
    pairs_of_maps = list(combinations(range(len(members)), 2))
    for done, (first, second) in enumerate(pairs_of_maps):
        tell(Progress("comparing the maps", done, len(pairs_of_maps)))
        both = views[first], views[second]
        meetings += meetings_of((first, second), both, (places[first], places[second]), describer.name)
    return meetings


def meetings_of(
    members: tuple[int, int], views: tuple[MapViews, MapViews], places: tuple[Places, Places], describer: str
) -> list[Meeting]:
    """The most similar pairs of frames of two maps, each with its verification. members: their rows. places: their
    frames, by their numbers in the merged map, where the second map follows the first, and descriptors of
    ``describer``.
    """
    first, second = views
    index = PlaceIndex(describer, places[0][1].shape[1])
    index.add(*places[0])
    hits = _to_verify(find_hits(index, *places[1], ALL, MEETING))
    pairs = ((first.around(hit.earlier), second.around(hit.frame)) for hit in hits)
    meetings = []
    for hit, found in zip(hits, Verifier().in_turn(pairs, MEETING.patience), strict=False):
        reason = found.reason or _objection(found, first.frame(hit.earlier), second.frame(hit.frame))
        bridge = None if reason else _bridge(hit, found, second)
        meetings.append(Meeting(members, hit, found, bridge, reason))
    return meetings


def _to_verify(hits: Sequence[Hit]) -> list[Hit]:
    """The strongest hits. Those that are one image in both maps do not stand for each other: parts of a video may share
    so few frames that all lie within one window, and that they look alike is no coincidence.
    """
    same = sorted((hit for hit in hits if hit.similarity >= SAME), key=lambda hit: hit.frame)[:MOST_SAME]
    chosen = [hit for hit in strongest(hits, MEETING) if hit not in same]
    return [*same, *chosen][: MEETING.per_submap]


class MapViews:
    """The frames of a map with their depth in its world, by their numbers in the merged map, read when needed."""

    def __init__(self, member: Member) -> None:
        reconstruction = member.reconstruction
        self._first = member.first
        self._placed = {frame.index: frame for frame in reconstruction.frames}
        self._file = {
            index: path for path in reconstruction.submap_files for index in frames_in(path) if index in self._placed
        }
        if not self._file:
            raise MapError(f"The map in {reconstruction.folder} has no depth, so it cannot be merged.")
        self._read = lru_cache(SUBMAPS_IN_MEMORY)(self._read_file)

    def around(self, index: int) -> list[FrameGeometry]:
        """A frame and its neighbours in its submap; empty if it has no depth."""
        path = self._file.get(index - self._first)
        return around(index, self._read(path)) if path else []

    def frame(self, index: int) -> FrameGeometry:
        """A frame that has depth."""
        return self._read(self._file[index - self._first])[index]

    def _read_file(self, path: Path) -> Mapping[int, FrameGeometry]:
        return {
            self._first + found.index: self._in_world(found, self._placed[found.index])
            for found in read_submap(path, self._placed)
        }

    def _in_world(self, found: FrameGeometry, placed: PlacedFrame) -> FrameGeometry:
        depth = found.depth * np.float32(placed.world_from_cam.scale)
        return replace(found, index=self._first + found.index, cam_from_chunk=placed.cam_from_world, depth=depth)


def _bridge(hit: Hit, found: Verification, second: MapViews) -> Bridge:
    assert found.first_from_second is not None
    geometry = second.frame(hit.frame)
    pose = Sim3.from_matrix(geometry.cam_from_chunk).inverse()
    seen = Sim3(typical_depth(geometry), pose.rotation, pose.translation)
    return Bridge((hit.earlier, hit.frame), found.first_from_second, seen)


def _objection(found: Verification, first: FrameGeometry, second: FrameGeometry) -> str:
    """Why two frames do not show the same place although their geometry agrees; empty if they do."""
    assert found.first_from_second is not None
    second_from_world, first_from_world = (Sim3.from_matrix(one.cam_from_chunk) for one in (second, first))
    second_from_first = second_from_world @ found.first_from_second.inverse() @ first_from_world.inverse()
    (fx, _, cx), (_, fy, cy), _ = second.intrinsics
    camera = Camera("PINHOLE", second.colour.shape[1], second.colour.shape[0], (fx, fy, cx, cy))
    alike, overlap = agreement(second.colour, camera, second_from_first, View.of(first))
    if overlap < CRITERIA.min_overlap:
        return f"they show only {overlap:.0%} of each other"
    return f"they look different: {alike:.0%} of the detail is alike" if alike < CRITERIA.min_agreement else ""


def _images(reconstruction: ReconstructedMap, step: int = 1) -> Iterator[Frame]:
    return (image_of(reconstruction, placed) for placed in reconstruction.frames[::step])


def describer_of(members: Sequence[Member]) -> VladDescriber:
    """Learnt from frames spread over all maps, so that their descriptors can be compared. Raises MapError if all are
    blank.
    """
    count = sum(len(member.reconstruction.frames) for member in members)
    step = max(1, count // IMAGES_TO_LEARN_FROM)
    frames = [frame for member in members for frame in _images(member.reconstruction, step)]
    describer = learn_vlad([frame.image for frame in frames], masks=[frame.mask for frame in frames])
    if describer is None:
        raise MapError("The images of the maps are blank, so nothing shows where the maps meet.")
    return describer


def described(describer: PlaceDescriber, member: Member) -> tuple[list[int], Descriptors]:
    """The frames of a map, by their numbers in the merged map, and their descriptors (n, dim)."""
    frames = _images(member.reconstruction)
    rows, indices = list[Descriptors](), list[int]()
    while batch := list(islice(frames, 16)):
        rows.append(describer.describe([frame.image for frame in batch], [frame.mask for frame in batch]))
        indices += [member.first + frame.index for frame in batch]
    return indices, np.concatenate(rows)
