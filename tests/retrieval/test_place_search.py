"""Which descriptor answers a query, and the recall of the answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from recon.core.errors import SourceError
from recon.core.types import Image
from recon.settings import PlaceSettings
from recon.sfm.xfeat_matching import XFeatMatcher
from retrieval.benchmark import check_layout, evaluate_folder
from retrieval.collection import Collection, Listing, build, read_image
from retrieval.describer import Descriptors, Masks
from retrieval.index import PlaceIndex
from retrieval.place_search import SURE, PlaceSearch, open_search
from retrieval.reranking import Reranker
from tests.support import SAMPLE

PATHS = [SAMPLE / "images" / f"{number:06d}.jpg" for number in (30, 8, 7)]  # 8 looks like 7
EVERYTHING = 3


class Turned:
    """Finds every query ``similarity`` to the image in ``row``, and nine tenths of that to the others."""

    dim = EVERYTHING

    def __init__(self, name: str, row: int, similarity: float) -> None:
        self.name, self.row, self.similarity = name, row, similarity

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        rows = np.full((len(images), EVERYTHING), 0.9 * self.similarity, dtype=np.float32)
        rows[:, self.row] = self.similarity
        return rows


def collection(describer: Turned, folder: Path, names: Sequence[str]) -> Collection:
    index = PlaceIndex(describer.name, EVERYTHING)
    index.add(range(EVERYTHING), np.eye(EVERYTHING, dtype=np.float32))
    return Collection(Listing(str(folder), tuple(names), describer.name, EVERYTHING, ""), describer, index)


@pytest.fixture
def night() -> Turned:
    return Turned("night", row=0, similarity=0.9)


def sampled(describer: Turned) -> Collection:
    return collection(describer, SAMPLE / "images", [path.name for path in PATHS])


def test_a_sure_classical_descriptor_answers_alone(night: Turned) -> None:
    def opened() -> Reranker:
        raise AssertionError("nothing is left to order")

    classical = sampled(Turned("classical", row=1, similarity=SURE + 0.01))
    answer = PlaceSearch(sampled(night), classical, opened).query(read_image(PATHS[2]), 2)
    assert (answer.describer, answer.matches[0].path, len(answer.matches)) == ("classical", PATHS[1], 2)
    assert answer.matches[0].similarity == pytest.approx(SURE + 0.01)


def test_otherwise_shared_points_order_what_the_other_descriptor_finds(
    night: Turned, xfeat_matcher: XFeatMatcher
) -> None:
    classical = sampled(Turned("classical", row=1, similarity=SURE - 0.01))
    search = PlaceSearch(sampled(night), classical, lambda: Reranker(xfeat_matcher))
    answer = search.query(read_image(PATHS[2]), 2)
    assert (answer.describer, [match.path for match in answer.matches]) == ("night", [PATHS[2], PATHS[1]])
    assert cast(int, answer.matches[0].points) > cast(int, answer.matches[1].points)
    unordered = PlaceSearch(sampled(night), classical).query(read_image(PATHS[2]), 1)
    assert [(match.path, match.points) for match in unordered.matches] == [(PATHS[0], None)]


def test_recall_of_the_answers(night: Turned, xfeat_matcher: XFeatMatcher, tmp_path: Path) -> None:
    for kind, paths in (("database", PATHS), ("queries", PATHS[2:])):
        (tmp_path / kind).mkdir()
        for path in paths:
            shutil.copy(path, tmp_path / kind / f"@{100 * int(path.stem):06d}@0@.jpg")
    (tmp_path / "queries" / "@000900@0@.jpg").write_bytes(b"no image")
    names = [f"@{100 * int(path.stem):06d}@0@.jpg" for path in PATHS]
    database = collection(night, tmp_path / "database", names)
    similar = evaluate_folder(tmp_path, PlaceSearch(database))
    assert (similar.recall, similar.queries, similar.left_out, similar.database) == ({1: 0, 5: 1, 10: 1}, 1, 0, 3)
    ordered = evaluate_folder(tmp_path, PlaceSearch(database, None, lambda: Reranker(xfeat_matcher)))
    assert ordered.recall[1] == 1
    shutil.copy(PATHS[0], tmp_path / "database" / "nowhere.jpg")
    with pytest.raises(SourceError, match=r"nowhere\.jpg does not state where it was taken"):
        check_layout(tmp_path)  # before a database is described in vain


def test_a_damaged_classical_index_is_left_out_with_a_notice(xfeat_matcher: XFeatMatcher, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in PATHS:
        shutil.copy(path, images)
    build(images, tmp_path / "index", PlaceSettings("xfeat-vlad"))
    (tmp_path / "index" / "classical" / "images.json").unlink()
    search, notice = open_search(tmp_path / "index", "cpu")
    assert "only xfeat-vlad is used" in notice
    assert search.query(read_image(PATHS[0]), 1).describer.startswith("XFeat-VLAD")
