"""Why frames have no pose, and the advice to give if there is no map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from recon.core.quantities import counted


class Hindrance(StrEnum):
    """Why frames cannot be placed; the values are stored in the journal."""

    FEATURELESS = "featureless"
    APART = "apart"
    TURNED = "turned"
    STILL = "still"
    TURNTABLE = "turntable"
    MIRRORED = "mirrored"
    RIG = "rig"
    UNCONNECTED = "unconnected"
    OTHER = "other"

    @property
    def invents(self) -> bool:
        """Whether a mapper would invent geometry from such frames."""
        return self in (Hindrance.TURNED, Hindrance.STILL, Hindrance.TURNTABLE)

    @property
    def unplaced(self) -> Unplaced:
        """The reason as stored for a frame."""
        return Unplaced(_REASONS[self], self)


@dataclass(frozen=True)
class Unplaced:
    """Why a frame has no pose: the end of a sentence, and its kind."""

    reason: str
    kind: Hindrance = Hindrance.OTHER

    @classmethod
    def from_text(cls, reason: str) -> Unplaced:
        """Read the reason alone, as journals of early builds store it."""
        return cls(reason, next((kind for kind, text in _REASONS.items() if text == reason), Hindrance.OTHER))


_REASONS = {
    Hindrance.FEATURELESS: "hardly any detail to recognise",
    Hindrance.APART: "nothing in common with the frames around it",
    Hindrance.TURNED: "the camera only turned on the spot",
    Hindrance.STILL: "the camera stood still",
    Hindrance.TURNTABLE: "the camera stood still while something before it moved",
    Hindrance.MIRRORED: "the image is mirrored left to right, unlike the others",
    Hindrance.RIG: "the cameras of the rig see nothing in common",
    Hindrance.UNCONNECTED: "too few features in common with the frames around it",
    Hindrance.OTHER: "no place was found for it",
}
_ADVICE = {
    Hindrance.FEATURELESS: "they show too little detail to recognise. Record with more light, in focus, and with a "
    "textured surface in every image.",
    Hindrance.APART: "they have nothing in common. Record with more overlap, so that every image shows most of what "
    "the one before shows.",
    Hindrance.TURNED: "the camera only turned on the spot: rotations alone explain what the frames have in common, and "
    "without movement there is no depth. Record again while walking sideways, not only turning.",
    Hindrance.STILL: "the camera stood still, and all frames show the same view. Record from different places.",
    Hindrance.TURNTABLE: "the camera and the background stood still while something in front of it moved. For an "
    "object on a turntable, mask the background with --masks, or cover it with a plain cloth; otherwise move the "
    "camera.",
    Hindrance.RIG: "no two cameras of the rig see the same at the same time. At least two must overlap: their distance "
    "gives the scale. Check that images of the same name were taken at the same time, and that --rig names the right "
    "folders; or reconstruct the images of one camera.",
}
_UNKNOWN = (
    "they share too few features, or hardly any from different directions. Record with sideways motion, more overlap "
    "and more light."
)


def too_few(source: str, count: int, unit: str = "image") -> str:
    """The message for a source with fewer than two images, or panoramas, or shots of a rig."""
    given = counted(count, f"readable {unit}")
    return f"{source} gives {given}; at least two from different places are needed, and three are better."


def refusal(source: str, count: int, hindrances: Collection[Hindrance]) -> str:
    """The message for ``count`` frames, two or more, none of which has a pose. hindrances: one per frame."""
    if count == 2:
        return (
            f"The two images of {source} are not enough: a map needs three or more that overlap, from different places."
        )
    most = Counter(hindrances).most_common(1)
    why = _ADVICE.get(most[0][0], _UNKNOWN) if most else _UNKNOWN
    return f"None of the {count} frames of {source} could be placed: {why}"
