"""What tells one picture or video from another: its content, whatever its name and time are."""

from __future__ import annotations

import hashlib
from pathlib import Path

DIGEST_BYTES = 16


def content_hash(path: Path) -> str:
    """Hash of a whole file, in hexadecimal; a picture takes a fraction of what its decoding does. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
