"""An image of a query and its matches, which shows at a glance what was recognised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageDraw

from recon.core.files import write_atomically
from recon.core.types import Image

CELL = (320, 240)
CAPTION = 18  # px below each picture
COLUMNS = 4


def write_contact_sheet(path: Path, pictures: Sequence[tuple[Image, str]]) -> None:
    """Write a JPEG of RGB pictures with captions, row by row. Raises OutputError if it cannot be written."""
    width, height = CELL[0], CELL[1] + CAPTION
    columns = min(COLUMNS, max(1, len(pictures)))
    sheet = Pillow.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, caption) in enumerate(pictures):
        left, top = number % columns * width, number // columns * height
        picture = Pillow.fromarray(pixels)
        picture.thumbnail(CELL)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + (CELL[1] - picture.height) // 2))
        draw.text((left + 4, top + CELL[1] + 2), caption, fill="black")
    write_atomically(path, lambda file: sheet.save(file, "JPEG", quality=90))
