"""Small pictures of some frames of a map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from recon.core.types import FrameGeometry, Image
from recon.store.map import ReconstructedMap

FRAMES_SHOWN = 8
THUMBNAIL = 320  # px
NO_DEPTH = 40  # grey level


@dataclass(frozen=True, eq=False)
class Shot:
    """Small pictures of one frame. depth: near is bright, pixels without depth are grey. sure: share with depth."""

    name: str
    colour: Image
    depth: Image
    sure: float


def shots(reconstruction: ReconstructedMap) -> list[Shot]:
    """FRAMES_SHOWN frames with depth, evenly spread over the source."""
    frames = reconstruction.frames
    rows = np.linspace(0, len(frames) - 1, min(FRAMES_SHOWN, len(frames))).round().astype(int)
    wanted = {frames[row].index for row in rows}
    return [_shot(frame.name, found) for frame, found in reconstruction.geometry(wanted)]


def _shot(name: str, found: FrameGeometry) -> Shot:
    known = (found.depth > 0) & (found.confidence > 0)
    inverse = np.where(known, 1 / np.where(known, found.depth, 1), 0)
    low, high = np.percentile(inverse[known], (2, 98)) if known.any() else (0.0, 1.0)
    levels = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1) * 255
    depth = np.array(cv2.applyColorMap(levels.astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1], dtype=np.uint8)
    depth[~known] = NO_DEPTH
    return Shot(name, _small(found.colour), _small(depth), float(known.mean()))


def _small(image: Image) -> Image:
    factor = THUMBNAIL / max(image.shape[:2])
    if factor >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), dtype=np.uint8)
