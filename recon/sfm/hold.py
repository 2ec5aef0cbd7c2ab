"""Frames that hang by too few points: a mapper may place them, but nothing confirms where."""

from __future__ import annotations

import numpy as np

from recon.core.types import SparseModel

FEWEST_HOLDING = 20  # points; at least 86 in right maps, at most 8 in frames placed wrongly across a gap
NOTHING = np.zeros(0, dtype=np.int64)
SHARE_HOLDING = 0.2  # of what the model's frames usually see, where that is little


def without_loose(model: SparseModel) -> SparseModel:
    """The model without the frames that fewer than FEWEST_HOLDING points hold.

    A point holds a frame if at least two other frames see it: they can triangulate it without that frame. The loosest
    frame goes first, since others may hang on it.
    """
    while (loosest := _loosest(model)) is not None:
        model = model.restricted([index for index in model.cam_from_model if index != loosest], fewest=2)
    return model


def _loosest(model: SparseModel) -> int | None:
    """The frame that the fewest points hold, if they are too few; two frames alone need no others."""
    if len(model.cam_from_model) < 3:
        return None
    points, rows = model.points, model.points.rows_by_frame()
    sightings = np.bincount(points.point_ids, minlength=len(points.positions))
    seen = {index: sightings[points.point_ids[rows.get(index, NOTHING)]] for index in model.cam_from_model}
    fewest = min(FEWEST_HOLDING, SHARE_HOLDING * float(np.median([len(counts) for counts in seen.values()])))
    holding = {index: int((counts > 2).sum()) for index, counts in seen.items()}
    return min((index for index, count in holding.items() if count < fewest), key=holding.__getitem__, default=None)
