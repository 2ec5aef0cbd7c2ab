"""That a map is in metres, and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass

Origin = tuple[float, float, float]  # latitude, longitude [deg] and height [m] in WGS 84


@dataclass(frozen=True)
class Metric:
    """The unit of a map is the metre.

    observations: how many known lengths and positions agree on that. error: RMS of what they still differ by [m]; None
    for a single length, which nothing checks. origin: of the world if its axes point east, north and up, else None.
    """

    observations: int
    error: float | None
    origin: Origin | None = None

    def __str__(self) -> str:
        known = f"error {self.error:.3g} m" if self.error is not None else "not checked"
        plural = "s" if self.observations > 1 else ""
        where = ""
        if self.origin:
            axes = "axes east, north and up from latitude {:.7f}, longitude {:.7f}, height {:.1f} m"
            where = "; " + axes.format(*self.origin)
        return f"metres ({known}, by {self.observations} known length{plural} or position{plural}{where})"
