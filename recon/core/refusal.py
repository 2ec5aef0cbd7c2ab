"""Why frames give no map, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

FEATURELESS = "hardly any detail to recognise"
APART = "nothing in common with the frames around it"
TURNED = "the camera only turned on the spot"
STILL = "the camera stood still"
TURNTABLE = "the camera stood still while something before it moved"
UNCONNECTED = "too few features in common with the frames around it"
INVENTED = (TURNED, STILL, TURNTABLE)  # what a mapper makes of such frames has nothing to do with the scene

_SENTENCES = {
    FEATURELESS: "they show too little detail to recognise. Record with more light, in focus, and with a surface that "
    "has texture in every picture.",
    APART: "they have nothing in common with one another. Record with more overlap, so that every picture shows most "
    "of what the one before shows.",
    TURNED: "the camera only turned on the spot: rotations alone explain what the frames have in common, and without a "
    "change of place there is no depth. Record again while walking sideways, not only turning.",
    STILL: "the camera stood still, and all frames show the same view. Record from different places.",
    TURNTABLE: "the camera stood still before a background that does not move, while something in front of it did. For "
    "an object on a turntable, leave the background out with --masks, or cover it with a plain cloth; otherwise move "
    "the camera.",
}
_UNKNOWN = (
    "they share too few features, or hardly any from different directions. Record with sideways motion, more overlap "
    "and more light."
)


def refusal(source: str, count: int, reasons: Collection[str]) -> str:
    """The sentence for ``count`` frames, two or more, none of which has a place; reasons: one for each of them."""
    if count == 2:
        return (
            f"The two images of {source} do not suffice: a map needs three or more that overlap, from different places."
        )
    most = Counter(reasons).most_common(1)
    why = _SENTENCES.get(most[0][0], _UNKNOWN) if most else _UNKNOWN
    return f"None of the {count} frames of {source} could be placed: {why}"
