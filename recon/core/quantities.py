"""Durations, sizes and numbers of things as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(amount: float) -> str:
    """Bytes as MB or GB."""
    return f"{amount / 1e6:.0f} MB" if amount < 1e9 else f"{amount / 1e9:.1f} GB"


def counted(number: int, what: str) -> str:
    """A number of things: "1 frame", "3 frames"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
