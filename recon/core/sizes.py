"""Sizes of images."""

from __future__ import annotations


def scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) shrunk to at most ``longest`` pixels on the longer side."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
