"""What a run says about its own map: a verdict, and every warning with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from recon.core.quantities import counted
from recon.store.report import NOTABLE_LOSS, RunReport

State = Literal["good", "partial", "doubtful"]

COMPARE = (
    "Compare the path and the cloud below with the real place. If they are wrong, take more images of the stretch, "
    "walk sideways instead of turning on the spot, mask what moves (--masks), or give the calibration (--intrinsics)."
)
OVERLAP = (
    "Take images that share at least half of their view with images that have a place, and extend the map: "
    "recon run IMAGES --out DIR --resume"
)
LOOK_CLOSER = "Look at this stretch in recon view. More images of it, from more directions, make it firmer."


@dataclass(frozen=True)
class Finding:
    """A warning and its remedy. text: a sentence. remedy: what to do; empty if the text says it."""

    text: str
    remedy: str = ""


def verdict(report: RunReport, *, complete: bool = True) -> tuple[State, str]:
    """The state of the map, and the same as a headline. complete: whether the map says that it is finished."""
    placed, read = report.frames_placed, report.frames_read
    if report.suspicions:
        return "doubtful", "This map may be wrong as a whole"
    if placed < (1 - NOTABLE_LOSS) * read:
        return "partial", f"Only {placed} of {read} frames were placed"
    parts = sum(bool(chunk.warnings) for chunk in report.chunks)
    if parts:
        return "doubtful", f"{parts} of {len(report.chunks)} parts of this map {'is' if parts == 1 else 'are'} doubtful"
    if report.interrupted or not complete:
        return "partial", f"Unfinished: the map has {counted(placed, 'frame')} so far"
    return "good", f"All {read} frames were placed" if placed == read else f"{placed} of {read} frames were placed"


def findings(report: RunReport) -> Iterator[Finding]:
    """All warnings, the most important first."""
    for suspicion in report.suspicions:
        yield Finding(_sentence(suspicion), COMPARE)
    for lost in report.losses:
        names = f"the first {lost[0].name}, the last {lost[-1].name}"
        have = "has" if len(lost) == 1 else "have"
        yield Finding(f"{counted(len(lost), 'frame')} {have} no place, {names}: {lost[0].reason}.", OVERLAP)
    for chunk in report.chunks:
        for warning in chunk.warnings:
            if warning not in report.suspicions:
                yield Finding(f"Frames {chunk.first} to {chunk.last}: {warning}.", LOOK_CLOSER)
    yield from map(Finding, report.unwritten)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
