"""Real-world file names: from other encodings, other systems, and other programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.cases.case import Case, Input, picture, sample_truth, write

FRAMES = 8


def renamed(folder: Path, name: Callable[[int], bytes]) -> Input:
    """The first pictures of the sample under names given as bytes."""
    photos = write(folder / "photos", [picture(index) for index in range(FRAMES)])
    for number, path in enumerate(sorted(photos.iterdir())):
        path.rename(Path(os.fsdecode(os.fsencode(photos) + b"/" + name(number))))
    return Input(photos, sample_truth(range(FRAMES)))


def foreign(number: int) -> bytes:
    """Names from an old archive or disk: Latin-1, Korean, Japanese, Russian."""
    text, encoding = (("für", "latin-1"), ("사진", "euc-kr"), ("写真", "shift-jis"), ("фото", "cp1251"))[number % 4]
    return b"%03d_" % number + text.encode(encoding) + b".jpg"


def odd(number: int) -> bytes:
    """Names with white space, quotes, brackets, emoji, a leading dash, and the greatest length that a file system
    allows.
    """
    names = ("a b [1] (2)", "new\nline", "tab\t", 'it\'s "it"', "-rf", "😀", "50% #1; $x", "x" * 245)
    return f"{number:03d}{names[number]}.jpg".encode() if number != 4 else b"-04-rf.jpg"


def foreign_folder(folder: Path) -> Input:
    """A folder whose own name is not UTF-8."""
    made = renamed(folder, lambda number: b"%03d.jpg" % number)
    return Input(made.source.rename(made.source.with_name(os.fsdecode(b"f\xfcr"))), made.truth)


CASES = (
    Case("nonutf8", partial(renamed, name=foreign), "8 of 8, names replaced", placed=FRAMES, ate=0.01),
    Case("nonutf8-folder", foreign_folder, "8 of 8", placed=FRAMES, ate=0.01),
    Case("odd-names", partial(renamed, name=odd), "8 of 8, names replaced", placed=FRAMES),
)
