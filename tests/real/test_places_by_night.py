"""Places of a real walk, recognised by night: every fifth of ``gardens-point``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.core.bundled import XFEAT
from recon.settings import PlaceSettings
from retrieval.collection import list_images, read_image
from retrieval.describer import PlaceDescriber
from retrieval.vlad import learn_vlad
from retrieval.xfeat_vlad import open_xfeat_vlad


def recognised(describer: PlaceDescriber, folder: Path) -> int:
    """How many of 40 places by night are most similar to themselves by day."""
    night, day = (
        describer.describe([read_image(path) for path in list_images(folder / name)[::5]])
        for name in ("night_right", "day_right")
    )
    return int(((night @ day.T).argmax(axis=1) == np.arange(len(night))).sum())


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_pretrained_features_recognise_more_places_than_classical_ones(real_data: Path) -> None:
    folder = real_data / "gardens-point" / "images"
    classical = learn_vlad([read_image(path) for path in list_images(folder / "day_right")[::5]])
    assert classical is not None
    pretrained = recognised(open_xfeat_vlad(PlaceSettings()), folder)
    # Two places of 40 more or less are rounding: other processors multiply in another order.
    assert pretrained >= 30
    assert recognised(classical, folder) <= 22
