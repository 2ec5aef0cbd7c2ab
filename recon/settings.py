"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from recon.errors import SettingsError
from recon.sources.base import SourceOptions
from recon.types import Camera, CameraModel


@dataclass(frozen=True)
class RunSettings:
    """What a run does. chunk, overlap: frames per chunk, and how many of them repeat the chunk before.

    intrinsics: a calibrated lens that all frames share; without it the lens is estimated as a ``camera_model``.
    Raises SettingsError for values that cannot work.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    chunk: int = 60
    overlap: int = 12
    camera_model: CameraModel = "SIMPLE_RADIAL"
    intrinsics: Camera | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.chunk:
            raise SettingsError(
                f"--overlap must be at least 1 and smaller than --chunk, got {self.overlap} and {self.chunk}."
            )
