"""The interface between images and the index: a describer turns an image into one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recon.core.bundled import XFEAT
from recon.core.registry import Registry, loaded
from recon.core.types import Image, Mask
from recon.settings import PlaceSettings

if TYPE_CHECKING:
    from retrieval.vlad import Vocabulary

Descriptors = NDArray[np.float32]  # (images, dim), rows of length 1: their inner product is the similarity in -1..1
Masks = Sequence[Mask] | None  # (height, width) of each image, True where it may be used; None for everywhere


class PlaceDescriber(Protocol):
    """Describes the place that an image shows. Two images are compared by the inner product of their descriptors."""

    @property
    def name(self) -> str:
        """The method and a digest of what it has learned: describers with other names have vectors that cannot be
        compared.
        """
        ...

    @property
    def dim(self) -> int: ...

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        """Descriptors (images, dim) of unit length of RGB images (height, width, 3), as far as ``masks`` let them.

        ImAge looks at whole images.
        """
        ...


@runtime_checkable
class PlaceLearner(Protocol):
    """Learns a describer from the first images that it sees."""

    name: str

    def learn(self, images: Sequence[Image], masks: Masks = None) -> PlaceDescriber | None:
        """The describer; None if the images show too little, so that others are needed."""
        ...


@runtime_checkable
class WordDescriber(PlaceDescriber, Protocol):
    """A describer whose words a collection of images replaces by its own, and stores for its queries."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def with_vocabulary(self, vocabulary: Vocabulary) -> PlaceDescriber: ...

    def with_words_of(self, images: Iterable[Image]) -> PlaceDescriber:
        """The describer with words learned from images; itself if they show too little."""
        ...


PLACE_DESCRIPTORS: Registry[str | Callable[[PlaceSettings], PlaceDescriber | PlaceLearner]] = Registry(
    "place descriptor",
    {
        "vlad": "retrieval.vlad:open_vlad",
        "xfeat-vlad": "retrieval.xfeat_vlad:open_xfeat_vlad",
        "ImAge": "retrieval.aggregation:open_image",
    },
)


def open_describer(settings: PlaceSettings) -> PlaceDescriber | PlaceLearner:
    """The describer that the settings name, with its weights loaded. Raises ReconError if there is none."""
    name = settings.descriptor or ("ImAge" if settings.weights else "vlad")
    return loaded(PLACE_DESCRIPTORS.known(name))(settings)


def for_photographs(settings: PlaceSettings) -> PlaceSettings:
    """The settings, with a descriptor for photographs of different times of day if they name none: ImAge where there
    are weights, else xfeat-vlad where the package with its weights is installed, else vlad.
    """
    automatic = "ImAge" if settings.weights else "xfeat-vlad" if XFEAT.path() else "vlad"
    return replace(settings, descriptor=settings.descriptor or automatic)


def what_is_missing(settings: PlaceSettings) -> str:
    """A sentence if ``for_photographs`` would choose better with a package that is not installed, else empty."""
    if settings.descriptor or for_photographs(settings).descriptor != "vlad":
        return ""
    return f"Places are recognised in similar light only, since the weight file of XFeat is missing. {XFEAT.remedy}"


def normalised(vectors: NDArray[np.floating]) -> Descriptors:
    """Rows scaled to length 1; rows of zeros stay zeros, similar to nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
