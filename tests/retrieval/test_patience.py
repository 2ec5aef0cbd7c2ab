"""The place recogniser as the pipeline uses it, with prescribed descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from recon.core.places import LoopCandidate, LoopEdge
from recon.core.similarity import Sim3
from recon.core.types import Camera, ChunkGeometry, Frame, FrameGeometry, Image, SparsePoints, Submap
from retrieval import recogniser, verification
from retrieval.candidates import CandidateSettings, Hit
from retrieval.describer import Descriptors, Masks, normalised
from retrieval.recogniser import LoopFinder
from retrieval.verification import Verification

SUBMAP = 40  # frames
CAMERA = Camera("PINHOLE", 8, 6, (8.0, 8.0, 4.0, 3.0))


class Places:
    """Describes a picture by the number that it shows; neighbouring numbers are similar."""

    name, dim = "numbers", 64

    def __init__(self) -> None:
        steps = np.random.default_rng(0).normal(size=(260, self.dim))
        self._of = normalised(np.array([steps[number : number + 6].sum(axis=0) for number in range(250)]))

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        return self._of[[int(image[0, 0, 0]) for image in images]]


def frame(index: int, place: int) -> Frame:
    image = np.full((6, 8, 3), place, np.uint8)
    return Frame(index, float(index), image, f"{index}.jpg", (8, 6), "lens", 0.0, np.ones((6, 8), bool))


def geometry(index: int) -> FrameGeometry:
    depth = np.zeros((6, 8), np.float32)
    return FrameGeometry(index, np.eye(4), CAMERA, CAMERA.matrix(), depth, depth, np.zeros((6, 8, 3), np.uint8))


def walk(finder: LoopFinder, places: Sequence[int]) -> list[LoopCandidate]:
    """Add a walk past ``places``, submap by submap."""
    geometries: dict[int, Mapping[int, FrameGeometry]] = {}
    found: list[LoopCandidate] = []
    for number, first in enumerate(range(0, len(places), SUBMAP)):
        indices = range(first, min(first + SUBMAP, len(places)))
        geometries[number] = {index: geometry(index) for index in indices}
        chunk = ChunkGeometry(tuple(geometries[number].values()), SparsePoints.empty())
        frames = [frame(index, places[index]) for index in indices]
        found += finder.look(Submap(number, chunk, Sim3.identity(), 0.0), frames, lambda number: geometries[number])
    return found


THERE_AND_AGAIN = [*range(160), *range(20, 60)]


def test_candidates_are_dropped_after_repeated_rejection() -> None:
    patience = 3
    found = walk(LoopFinder(Places(), CandidateSettings(patience=patience)), THERE_AND_AGAIN)
    returned = [candidate for candidate in found if candidate.frame >= 160]
    assert len(returned) == patience
    assert all(candidate.edge is None and candidate.reason for candidate in returned)


def test_a_long_return_is_found_along_its_whole_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def confirm(hit: Hit) -> LoopCandidate:
        same = abs(hit.frame - 140 - hit.earlier) <= 5
        edge = LoopEdge(0, 4, Sim3.identity(), 50, 0.003) if same else None
        return LoopCandidate(hit.frame, hit.earlier, hit.similarity, edge, "" if same else "another place")

    monkeypatch.setattr(recogniser.LoopFinder, "_verified", lambda _, hits, *__: [confirm(hit) for hit in hits])
    found = [one for one in walk(LoopFinder(Places()), THERE_AND_AGAIN) if one.edge is not None]
    for index in range(160, 200):
        assert any(abs(one.frame - index) <= 10 and abs(one.earlier - index + 140) <= 10 for one in found)
    assert len(found) < 20  # without repeating every frame


@pytest.mark.parametrize(("verdicts", "looked_at"), [("ynnn", 4), ("nnynnny", 6), ("nn", 2), ("nnny", 3)])
def test_only_consecutive_rejections_count(verdicts: str, looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed = {"y": Verification(Sim3.identity(), 50, 50, 0.003, 1.0, ""), "n": Verification(None, 9, 0, 0, 0, "few")}
    monkeypatch.setattr(verification, "_verify", lambda first, *_: confirmed[first])
    found = verification.Verifier().in_turn([(verdict, verdict) for verdict in verdicts], 3)
    assert found == [confirmed[verdict] for verdict in verdicts[:looked_at]]
