"""Where photos were taken, as JSON; docs/formats.md describes the fields."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recon.core.files import write_atomically
from retrieval.localiser import Location

VERSION = 1


def write_locations(path: Path, folder: Path, found: Iterable[tuple[str, Location]]) -> None:
    """Write the locations of named photos in the map in ``folder``. Raises OutputError."""
    photos = [{"photo": name} | content_of(location) for name, location in found]
    text = json.dumps({"version": VERSION, "map": str(folder.resolve()), "photos": photos}, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def content_of(location: Location) -> dict[str, Any]:
    """A location as JSON."""
    pose = location.world_from_cam
    return {
        "located": pose is not None,
        "reason": location.reason,
        "world_from_cam": pose.matrix().tolist() if pose else None,
        "position_deviation": location.position_deviation if pose else None,
        "rotation_deviation_deg": math.degrees(location.rotation_deviation) if pose else None,
        "camera": asdict(location.camera) if pose and location.camera else None,
        "inliers": location.inliers,
        "matched": location.matched,
        "agreement": location.agreement,
        "frame": location.frame.name if location.frame else None,
    }
