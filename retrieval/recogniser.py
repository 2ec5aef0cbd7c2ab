"""The place recogniser of the pipeline: descriptors, the index, candidates, and their verification by geometry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recon.core.places import LoopCandidate, LoopEdge, ReadSubmap
from recon.core.stopwatch import stage
from recon.core.types import Frame, FrameGeometry, Image, Mask, Submap
from recon.core.workers import Kept, Workers
from recon.settings import PlaceSettings
from retrieval.candidates import Background, CandidateSettings, Hit, find_hits, strongest, supported
from retrieval.describer import Descriptors, PlaceDescriber, PlaceLearner, open_describer
from retrieval.index import PlaceIndex
from retrieval.vlad import VladLearner

if TYPE_CHECKING:
    from retrieval.verification import Verification, VerificationSettings

VERIFIER = "retrieval.verification:Verifier"
ENOUGH_PAIRS = 300  # of frames far apart, to measure how similar different places are
SAMPLE = 256  # frames whose descriptors stand for the sequence
NEIGHBOURS = (-2, 0, 2)  # frames around those of a candidate that are also matched


class LoopFinder:
    """Implements ``recon.core.places.PlaceRecogniser``.

    describer: None for the classical one; one that learns does so from the first submap. Memory holds one descriptor
    per frame, the first one if a frame appears again, and the images of the first submap until a second one comes;
    geometry is read again only for verification, which the ``workers`` do.
    """

    def __init__(
        self,
        describer: PlaceDescriber | PlaceLearner | None = None,
        candidates: CandidateSettings | None = None,
        verification: VerificationSettings | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._describer: PlaceDescriber | PlaceLearner = describer or VladLearner()
        self._candidates = candidates or CandidateSettings()
        self._verification, self._workers = verification, workers or Workers()
        self._verifier: Kept | None = None  # made for the first candidate: most runs have none
        self._index: PlaceIndex | None = None
        self._sample = _Sample()
        self._submap_of: dict[int, int] = {}
        self._waiting: list[tuple[int, Sequence[Frame]]] = []  # submaps to describe, with their frames

    @property
    def name(self) -> str:
        return self._describer.name

    @stage("place recognition")
    def look(self, submap: Submap, frames: Sequence[Frame], read_submap: ReadSubmap) -> Sequence[LoopCandidate]:
        self._waiting.append((submap.index, frames))
        if self._index is None and len(self._waiting) == 1:
            return ()  # there is none that it could resemble, and most runs have only one
        described = [self._describe(*waiting) for waiting in self._waiting]
        self._waiting.clear()
        hits = self._hits(*described[-1])
        return self._verified(hits, _Surroundings(hits, submap, self._submap_of, read_submap))

    def _describe(self, number: int, frames: Sequence[Frame]) -> tuple[list[int], Descriptors]:
        """Add frames of a submap to the index; returns those that were not there yet, and their descriptors."""
        frames = [frame for frame in frames if frame.index not in self._submap_of]
        images, masks = [frame.image for frame in frames], [frame.mask for frame in frames]
        describer = self._learnt(images, masks)
        if describer is None or not frames:
            return [], np.zeros((0, 0), np.float32)  # blank images: nothing to recognise yet
        descriptors = describer.describe(images, masks)
        self._index = self._index or PlaceIndex(describer.name, describer.dim)
        indices = [frame.index for frame in frames]
        self._submap_of.update(dict.fromkeys(indices, number))
        self._index.add(indices, descriptors)
        self._sample.add(indices, descriptors)
        return indices, descriptors

    def _learnt(self, images: Sequence[Image], masks: Sequence[Mask]) -> PlaceDescriber | None:
        if isinstance(self._describer, PlaceLearner):
            learned = self._describer.learn(images, masks)
            if learned is None:
                return None
            self._describer = learned
        return self._describer

    def _hits(self, indices: list[int], descriptors: Descriptors) -> list[Hit]:
        """Earlier frames, in other submaps, that the described frames may show again."""
        background = self._sample.background(self._candidates.gap)
        if background is None or self._index is None:
            return []
        threshold = background.threshold(self._candidates.deviations)
        hits = find_hits(self._index, indices, descriptors, threshold, self._candidates)
        apart = [hit for hit in hits if self._submap_of[hit.frame] != self._submap_of[hit.earlier]]
        return strongest(supported(apart, self._candidates), self._candidates)

    def _verified(self, hits: Sequence[Hit], surroundings: _Surroundings) -> list[LoopCandidate]:
        """The candidates, each with its edge or the reason for its rejection, until too many in a row are rejected or
        enough are confirmed."""
        found: list[LoopCandidate] = []
        confirmed: Counter[int] = Counter()  # by earlier submap
        rejected = 0  # in a row
        for hit in hits:
            earlier = self._submap_of[hit.earlier]
            if rejected == self._candidates.patience or confirmed.total() == self._candidates.enough:
                break
            if confirmed[earlier] == self._candidates.per_pair:
                continue
            self._verifier = self._verifier or self._workers.keep("loops", VERIFIER, self._verification)
            found.append(self._candidate(hit, self._verifier.call("verify", *surroundings.of(hit))))
            confirmed[earlier] += found[-1].edge is not None
            rejected = 0 if found[-1].edge else rejected + 1
        return found

    def _candidate(self, hit: Hit, found: Verification) -> LoopCandidate:
        edge = None
        if found.first_from_second is not None:
            first, second = self._submap_of[hit.earlier], self._submap_of[hit.frame]
            edge = LoopEdge(first, second, found.first_from_second, found.inliers, found.residual)
        return LoopCandidate(hit.frame, hit.earlier, hit.similarity, edge, found.reason)


def open_recogniser(settings: PlaceSettings, workers: Workers | None = None) -> LoopFinder:
    """A recogniser for one run with the place descriptor that the settings name. workers: verify its candidates.

    Raises ReconError if the descriptor is not registered or its weights cannot be read.
    """
    return LoopFinder(open_describer(settings), workers=workers)


def around(index: int, frames: Mapping[int, FrameGeometry]) -> list[FrameGeometry]:
    """A frame and those two before and two after it in its submap; empty if the submap does not have it."""
    if index not in frames:
        return []
    order = sorted(frames)
    place = order.index(index)
    return [frames[order[place + step]] for step in NEIGHBOURS if 0 <= place + step < len(order)]


class _Surroundings:
    """The frames around both ends of the candidates of a submap. A submap is read once, and only these frames stay."""

    def __init__(
        self, hits: Sequence[Hit], submap: Submap, submap_of: Mapping[int, int], read_submap: ReadSubmap
    ) -> None:
        self._submap = {frame.index: frame for frame in submap.geometry.frames}
        self._earlier: dict[int, set[int]] = {}  # frames of the candidates, by submap
        for hit in hits:
            self._earlier.setdefault(submap_of[hit.earlier], set()).add(hit.earlier)
        self._submap_of, self._read = submap_of, read_submap
        self._around: dict[int, list[FrameGeometry]] = {}

    def of(self, hit: Hit) -> tuple[list[FrameGeometry], list[FrameGeometry]]:
        """The earlier end first."""
        if hit.earlier not in self._around:
            number = self._submap_of[hit.earlier]
            frames = self._read(number)
            self._around |= {index: around(index, frames) for index in self._earlier[number]}
        return self._around[hit.earlier], around(hit.frame, self._submap)


class _Sample:
    """Descriptors of up to SAMPLE frames spread evenly over the sequence so far."""

    def __init__(self) -> None:
        self._every = 1
        self._kept: dict[int, np.ndarray] = {}

    def add(self, indices: Sequence[int], descriptors: Descriptors) -> None:
        self._kept.update({i: row for i, row in zip(indices, descriptors, strict=True) if i % self._every == 0})
        while len(self._kept) > SAMPLE:
            self._every *= 2
            self._kept = {index: row for index, row in self._kept.items() if index % self._every == 0}

    def background(self, gap: int) -> Background | None:
        """Of pairs at least ``gap`` frames apart; None while there are too few."""
        if not self._kept:
            return None
        indices, rows = np.array(list(self._kept)), np.array(list(self._kept.values()))
        similarities = (rows @ rows.T)[indices[None] - indices[:, None] >= gap]
        return Background.learn(similarities) if len(similarities) >= ENOUGH_PAIRS else None
