"""The images of a collection that show the place of a photograph, as ``recon places query`` finds them.

In light like that of the collection, the classical descriptor finds the exact image, and it knows when: other places,
or other light, are less similar. Everywhere else, the images that xfeat-vlad finds most alike are ordered by the
points that they share with the photograph, which takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recon.core.errors import MapError
from recon.core.types import Image
from retrieval.collection import BUILD, CLASSICAL, Collection, Match, open_collection
from retrieval.reranking import RERANKED, Reranker

SURE = 0.31  # similarity by the classical descriptor, which 9 of 3,623 images of other places reach


@dataclass(frozen=True)
class Answer:
    """matches: the best first. describer: the name of the one that found them."""

    matches: list[Match]
    describer: str


class PlaceSearch:
    """Searches a collection. classical: the same images by the classical descriptor. open_reranker: called once it is
    needed; None to leave the order as it is."""

    def __init__(
        self,
        collection: Collection,
        classical: Collection | None = None,
        open_reranker: Callable[[], Reranker] | None = None,
    ) -> None:
        self.collection, self._classical, self._open_reranker = collection, classical, open_reranker

    def query(self, image: Image, count: int) -> Answer:
        """The ``count`` images most likely to show the place of an RGB image."""
        if self._classical:
            matches = self._classical.query(image, count)
            if matches and matches[0].similarity >= SURE:
                return Answer(matches, self._classical.describer.name)
        matches = self.collection.query(image, max(count, RERANKED))
        if self._reranker:
            matches = self._reranker.reranked(image, matches)
        return Answer(matches[:count], self.collection.describer.name)

    @cached_property
    def _reranker(self) -> Reranker | None:
        return self._open_reranker and self._open_reranker()


def open_search(folder: Path, device: str) -> tuple[PlaceSearch, str]:
    """A search in what ``collection.build`` wrote, and a notice for the user, empty if all is well.

    device: of networks. Raises what ``open_collection`` raises.
    """
    collection, notice = open_collection(folder, device)
    if collection.listing.descriptor != "xfeat-vlad":
        return PlaceSearch(collection), notice
    classical = None
    if (folder / CLASSICAL).is_dir():
        try:
            classical, another = open_collection(folder / CLASSICAL, device)
        except MapError:
            another = f"{folder / CLASSICAL} is damaged, so that only xfeat-vlad is used. {BUILD}"
        notice = notice or another
    return PlaceSearch(collection, classical, lambda: open_reranker(device)), notice


def open_reranker(device: str) -> Reranker:
    """Orders images by XFeat and LighterGlue. Raises what ``open_xfeat_matcher`` raises."""
    from recon.sfm.xfeat_matching import open_xfeat_matcher  # noqa: PLC0415  torch takes seconds to import

    return Reranker(open_xfeat_matcher(device))
