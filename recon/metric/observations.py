"""What is known about a map in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recon.core.errors import SettingsError
from recon.core.similarity import Array
from recon.store.map import ReconstructedMap


@dataclass(frozen=True, eq=False)
class Length:
    """A known length between two points. points: (2, 3) in the world of the map. varies: relative difference of two
    right lengths of its kind.
    """

    name: str
    points: Array
    metres: float
    varies: float = 0.05

    @property
    def in_map(self) -> float:
        """The length in map units."""
        return float(np.linalg.norm(self.points[1] - self.points[0]))


@dataclass(frozen=True, eq=False)
class Position:
    """A known camera centre. point: (3,) in the world of the map. metres: (3,) in the world that it is to get."""

    name: str
    point: Array
    metres: Array


def given_length(text: str, reconstruction: ReconstructedMap) -> Length:
    """The length that ``"A B METRES"`` states; A and B are points ``X,Y,Z`` of the map or names of frames.

    Raises SettingsError, with the text, for anything else.
    """
    words = text.split()
    try:
        first, second, metres = words
        length = float(metres)
    except ValueError as error:
        raise SettingsError(
            f'--length takes "A B METRES", three words, the last one a number such as 2.35, got "{text}".'
        ) from error
    found = Length(f"{first} to {second}", np.array([_place(word, reconstruction) for word in (first, second)]), length)
    if not (np.isfinite(length) and length > 0 and found.in_map > 0):
        raise SettingsError(f'--length needs two different points and a positive number of metres, got "{text}".')
    return found


def _place(word: str, reconstruction: ReconstructedMap) -> Array:
    """A point (3,) from its coordinates, or the centre of the frame of that name."""
    frame = next((frame for frame in reconstruction.posed if frame.name == word), None)
    if frame is not None:
        return frame.world_from_cam.translation
    if word.count(",") == 2:
        try:
            point = np.array([float(number) for number in word.split(",")])
        except ValueError as error:
            raise SettingsError(f"--length: {word} is not a point X,Y,Z.") from error
        if not np.isfinite(point).all():
            raise SettingsError(f"--length: {word} is not a point X,Y,Z.")
        return point
    raise SettingsError(
        f"--length: {word} is neither a point X,Y,Z nor a frame with a pose, such as "
        f"{reconstruction.posed[0].name if reconstruction.posed else 'none'}."
    )
