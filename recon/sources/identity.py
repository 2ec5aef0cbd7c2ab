"""The identity of a picture or video: its content, regardless of name and time."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGEST_BYTES = 16
MASK_FOLLOWS = "+"  # in ``Frame.content``, between the hash of the picture and that of its mask


def content_hash(path: Path) -> str:
    """Hash of a whole file, in hexadecimal; takes a fraction of the time of decoding. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
