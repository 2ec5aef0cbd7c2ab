"""A picture of a photo beside the frame of the map that it matches best, with lines between features that agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from recon.core.files import write_atomically
from recon.core.types import Frame
from retrieval.localiser import Location

HEIGHT = 480  # px of both pictures
CAPTION = 20  # px above them
MOST_LINES = 60
ACCEPTED, REJECTED = "lime", "red"


def write_match_picture(path: Path, photo: Frame, frame: Frame, location: Location, caption: str) -> None:
    """Write a JPEG of a photo and of the map's frame with the most features that agree with its pose.

    The lines are red if the pose was not accepted. Raises OutputError if the file cannot be written.
    """
    left, right = _scaled(photo), _scaled(frame)
    canvas = Pillow.new("RGB", (left.width + right.width, CAPTION + HEIGHT), "white")
    canvas.paste(left, (0, CAPTION))
    canvas.paste(right, (left.width, CAPTION))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 4), caption, fill="black")
    chosen = np.linspace(0, len(location.pixels) - 1, min(MOST_LINES, len(location.pixels))).astype(np.int64)
    starts = location.pixels[chosen] * HEIGHT / photo.original_size[1] + (0, CAPTION)
    ends = location.frame_pixels[chosen] * HEIGHT / frame.original_size[1] + (left.width, CAPTION)
    for line in np.column_stack([starts, ends]).tolist():
        draw.line(line, fill=ACCEPTED if location.world_from_cam else REJECTED)
    write_atomically(path, lambda file: canvas.save(file, "JPEG", quality=90))


def _scaled(frame: Frame) -> Pillow.Image:
    width = max(1, round(frame.original_size[0] * HEIGHT / frame.original_size[1]))
    return Pillow.fromarray(frame.image).resize((width, HEIGHT))
