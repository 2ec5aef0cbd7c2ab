"""Image names that are safe everywhere: COLMAP's text files, JSON, terminals, other systems."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from recon.core.errors import MapError

LONGEST = 200  # bytes, of the 255 that file systems allow: a numeric prefix and suffixes are added later


def printable(text: str) -> str:
    """``text`` with ``_`` for white space, and escapes like ``%FC`` for unprintable bytes and characters.

    COLMAP reads a name in its text files up to the first space.
    """
    return "".join(map(_printable_character, text))


def image_stem(stem: str) -> str:
    """The name, without suffix, of an image in a run's folder: its last LONGEST bytes, made printable."""
    return printable(stem).encode()[-LONGEST:].decode(errors="ignore")


def refuse_to_leave(name: str, path: Path) -> None:
    """Raise MapError if the image name, read from ``path``, would leave the images folder."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if (
        not posix.name
        or "\0" in name
        or posix.is_absolute()
        or windows.anchor
        or ".." in (*posix.parts, *windows.parts)
    ):
        raise MapError(f"{path} names an image {name!r}, which is not inside the run's folder. It is not used.")


def _printable_character(character: str) -> str:
    if character.isspace():
        return "_"
    if character.isprintable() and character != "\\":  # a path separator on other systems
        return character
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))
