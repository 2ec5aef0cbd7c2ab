"""Gives a finished map metres, and writes its outputs again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.core.errors import MapError, SettingsError
from recon.core.events import Listener, Notice
from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.exports.outputs import write_outputs
from recon.metric.fit import MetricFit, fit_metric
from recon.metric.ground import camera_heights
from recon.metric.observations import given_length
from recon.metric.positions import positions_from_file, positions_from_gps
from recon.metric.tags import find_tags
from recon.metric.track import positions_from_track
from recon.settings import CloudSettings
from recon.store.lock import sole_writer
from recon.store.map import move_map, open_map

SMALLEST_UNIT, LARGEST_UNIT = 1e-6, 1e6  # metres in a map unit
FARTHEST = 20_000.0  # metres, at which single precision still resolves a millimetre or two


@dataclass(frozen=True)
class Known:
    """What is known in metres. lengths: see ``given_length``. positions: a file, see ``positions_from_file``. gps: use
    the GPS tags of the images. tag_size: of AprilTags and ArUco markers [m]. camera_height: above the ground [m].
    track: a file, see ``read_track``. track_offset: time of the track less that of the frames [s]; None to estimate it.
    """

    lengths: tuple[str, ...] = ()
    positions: Path | None = None
    gps: bool = False
    tag_size: float | None = None
    camera_height: float | None = None
    track: Path | None = None
    track_offset: float | None = None

    def __post_init__(self) -> None:
        given = {"--positions": self.positions, "--gps": self.gps, "--track": self.track}
        where = [name for name, value in given.items() if value]
        if len(where) > 1:
            raise SettingsError(f"{' and '.join(where)} both say where the cameras were. Use only one of them.")
        if self.track_offset is not None and not self.track:
            raise SettingsError("--track-offset is the time of a track: add --track.")


def scale_map(folder: Path, known: Known, tell: Listener = lambda event: None) -> MetricFit:
    """Move the map in ``folder`` into the world of what is known; lengths alone change nothing but its unit.

    A kill leaves either the old or the new map. Raises MapError if there is no finished map, SettingsError if what is
    known does not determine the scale, and OutputError if ``folder`` is in use or cannot be written.
    """
    open_map(folder)  # before the lock, which would create the folder
    with sole_writer(folder, "scale"):
        reconstruction = open_map(folder)
        if not reconstruction.frames:
            raise MapError(f"The map in {folder} has no frames, so it cannot be scaled.")
        reconstruction.require_finished()
        lengths = [given_length(text, reconstruction) for text in dict.fromkeys(known.lengths)]
        lengths += find_tags(reconstruction, known.tag_size) if known.tag_size is not None else []
        lengths += camera_heights(reconstruction, known.camera_height) if known.camera_height is not None else []
        positions, origin = positions_from_gps(reconstruction) if known.gps else ([], None)
        positions += positions_from_file(known.positions, reconstruction) if known.positions else []
        if known.track:
            track = positions_from_track(known.track, reconstruction, known.track_offset)
            positions, origin = track.positions, track.origin
            tell(Notice(str(track)))
        found = fit_metric(lengths, positions)
        _require_sane(found.metric_from_world)
        for _ in reconstruction.geometry():  # the outputs need all of it: nothing is moved if some is damaged
            pass
        kept = reconstruction.metric.origin if reconstruction.metric and not positions else None
        move_map(folder, found.metric_from_world, Metric(found.used, found.error, origin or kept))
    return found


def _require_sane(metric_from_world: Sim3) -> None:
    """Raise SettingsError for a world whose points single precision, in which clouds are stored, could not hold."""
    if not SMALLEST_UNIT < metric_from_world.scale < LARGEST_UNIT:
        raise SettingsError(
            f"One map unit would be {metric_from_world.scale:.3g} m, which cannot be right. Check what you gave."
        )
    away = float(np.linalg.norm(metric_from_world.translation))
    if away > FARTHEST:
        raise SettingsError(
            f"The map would lie {away / 1000:,.0f} km from the origin, too far for the single precision of clouds. "
            "Subtract the same rounded coordinates from all positions, and keep a note of them."
        )


def write_scaled_outputs(folder: Path) -> tuple[str, ...]:
    """Write the outputs of every run again, with the default cloud; returns a sentence for each that failed.

    Raises OutputError if ``folder`` is in use.
    """
    with sole_writer(folder, "export"):
        return write_outputs(folder, CloudSettings(), lambda _: None)
