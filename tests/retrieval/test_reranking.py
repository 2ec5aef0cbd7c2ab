"""The order of matches by shared points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.core.types import Image
from recon.sfm.xfeat_matching import XFeatMatcher
from retrieval.collection import Match, read_image
from retrieval.lab.place_vocabulary import by_night
from retrieval.reranking import CONFIRMED, Reranker
from tests.support import SAMPLE

PATHS = [SAMPLE / "images" / f"{number:06d}.jpg" for number in (7, 8, 30)]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return [read_image(path) for path in PATHS]


def test_matches_are_ordered_by_shared_points(xfeat_matcher: XFeatMatcher, images: list[Image], tmp_path: Path) -> None:
    night = by_night(images[0], np.random.default_rng(0))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    similar = [Match(path, 0.5) for path in (PATHS[2], PATHS[1], tmp_path / "broken.jpg", PATHS[0])]
    same, next_to_it, *others = Reranker(xfeat_matcher).reranked(night, similar)
    assert (same.path, next_to_it.path) == (PATHS[0], PATHS[1])
    assert counted(same) > counted(next_to_it) >= CONFIRMED > counted(others[0])
    assert (others[1].path.name, others[1].points) == ("broken.jpg", None)


def test_of_equal_points_the_more_similar_image_comes_first(xfeat_matcher: XFeatMatcher, images: list[Image]) -> None:
    twice = [Match(PATHS[1], 0.5), Match(PATHS[1], 0.6), Match(PATHS[2], 0.9)]
    ordered = Reranker(xfeat_matcher).reranked(images[0], twice)
    assert [match.similarity for match in ordered] == [0.6, 0.5, 0.9]


def counted(match: Match) -> int:
    assert match.points is not None
    return match.points
