"""Which parts of a map to doubt, by depth shared between frames, jumps of scale, confidence of the depth, and blur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from recon.core.projection import begins_shot, points_in_chunk
from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry, Image
from recon.mapping.overlap import depth_at

STEP = 4  # px between sampled points of a depth map
ENOUGH_POINTS = 20
ENOUGH_CARRIED = 0.01  # share of an image whose depth the next one also sees; below it, scale is uncertain
LARGE_JUMP = 0.1  # of log scale: five times the effect of depth noise
FAR_BELOW = 0.5  # share of the run's usual value
FOLDED = (
    "places that look alike may be folded together. Look at the map there; then mask what repeats with --masks, or "
    "record more images between the places, in the order of the walk"
)


@dataclass(frozen=True)
class Doubts:
    """Evidence against a submap.

    carried: the smallest share of a frame's pixels that also have depth in the next frame; if it is tiny, nothing
    determines how far the camera moved. carried_frame: that next frame. scale_jump: the largest factor, as |log|, by
    which depth differs between consecutive frames. jump_frame: the second of these. confidence: mean over all pixels, 0
    where there is no depth. sharpness: median over the frames of the standard deviation of the image's Laplacian, in
    grey levels.
    """

    carried: float
    carried_frame: int
    scale_jump: float
    jump_frame: int
    confidence: float
    sharpness: float


def find_doubts(frames: Sequence[FrameGeometry], views: int = 1) -> Doubts:
    """Doubts about the frames that a submap adds, in order, after the last one that it shares; at least one.

    views: frames of a shot. Of these, only the first is compared with others: the other cameras of a rig look elsewhere
    and carry no scale.
    """
    begins = begins_shot([frame.index for frame in frames], views)
    sure = (frame.sure() for frame, is_first in zip(frames, begins, strict=True) if is_first)
    links = [(*link(before, after), after.index) for before, after in pairwise(sure)]
    carried = min(((share, index) for share, _, index in links), default=(1.0, frames[0].index))
    jump = max(((abs(ratio), index) for _, ratio, index in links), default=(0.0, frames[0].index))
    return Doubts(
        carried=carried[0],
        carried_frame=carried[1],
        scale_jump=jump[0],
        jump_frame=jump[1],
        confidence=float(np.mean([frame.confidence.mean() for frame in frames])),
        sharpness=float(np.median([sharpness(frame.colour) for frame in frames])),
    )


def unjudged(frames: Sequence[FrameGeometry]) -> Doubts:
    """Doubts about frames that could not be judged: nothing is known to carry scale to them."""
    first = frames[0].index
    return Doubts(0.0, first, 0.0, first, 0.0, 0.0)


def link(before: FrameGeometry, after: FrameGeometry) -> tuple[float, float]:
    """Share of the first frame's pixels with depth in both frames, and the log of the second's depth over the first's.

    The latter is the median; 0 if there are too few such pixels.
    """
    rows, columns = np.nonzero(before.depth[::STEP, ::STEP] > 0)
    points = Sim3.from_matrix(after.cam_from_chunk).apply(points_in_chunk(before, rows * STEP, columns * STEP))
    expected, seen = depth_at(points, after)
    ratio = float(np.median(np.log(seen / expected))) if len(seen) >= ENOUGH_POINTS else 0.0
    return len(seen) / before.depth[::STEP, ::STEP].size, ratio


def sharpness(image: Image) -> float:
    """Standard deviation of the Laplacian of an RGB image's grey levels (Pech-Pacheco et al. 2000)."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).std())


def warnings(submaps: Sequence[Doubts]) -> list[list[str]]:
    """Sentences for the user about every submap, compared with the rest of the run."""
    if not submaps:
        return []
    usual_confidence = float(np.median([doubts.confidence for doubts in submaps]))
    usual_sharpness = float(np.median([doubts.sharpness for doubts in submaps]))
    return [_warnings(doubts, usual_confidence, usual_sharpness) for doubts in submaps]


def scale_jumps(doubts: Doubts) -> list[str]:
    """A sentence if the scale certainly jumps within a submap."""
    if doubts.scale_jump <= LARGE_JUMP:
        return []
    return [f"the scale jumps by {np.expm1(doubts.scale_jump):.0%} before frame {doubts.jump_frame}"]


def _warnings(doubts: Doubts, usual_confidence: float, usual_sharpness: float) -> list[str]:
    found = []
    if doubts.carried < ENOUGH_CARRIED:
        found.append(
            f"the scale may jump before frame {doubts.carried_frame}: it shares depth in only {doubts.carried:.1%} of "
            "the image with the frame before"
        )
    found += scale_jumps(doubts)
    if doubts.confidence < FAR_BELOW * usual_confidence:
        found.append(f"low confidence: {doubts.confidence:.2f}, where {usual_confidence:.2f} is usual in this run")
    if doubts.sharpness < FAR_BELOW * usual_sharpness:
        found.append(f"blurred: sharpness {doubts.sharpness:.1f}, where {usual_sharpness:.1f} is usual in this run")
    return found
