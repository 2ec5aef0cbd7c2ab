"""Drawings of the report as SVG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.stopwatch import StageTime
from viewer.shapes import colours_along

WIDTH, MARGIN = 640, 24
MOST_SEGMENTS = 1500
GAP = 20.0  # times the median step
STILL = 1e-9  # of the longest step: numerical noise
BAR = 22  # px from one bar to the next


def path_drawing(places: Array, doubtful: Collection[int], loops: Sequence[tuple[int, int]], title: str) -> str:
    """The path seen along an axis. places: (n, 2) in order of time, y up. doubtful: rows to mark. loops: pairs of rows.

    title: read out by screen readers.
    """
    low, high = places.min(axis=0), places.max(axis=0)
    scale = (WIDTH - 2 * MARGIN) / max(*(high - low), 1e-9)
    apart = is_gap(places)
    drawn = (places - low) * scale
    height = float(drawn[:, 1].max()) + 2 * MARGIN
    drawn = np.column_stack([drawn[:, 0] + MARGIN, height - MARGIN - drawn[:, 1]])
    rows = np.unique(np.linspace(0, len(drawn) - 1, min(len(drawn), MOST_SEGMENTS)).round().astype(int))
    colours = colours_along(len(rows))
    parts = [_line(drawn[first], drawn[second], "loop") for first, second in loops]
    marked = set(doubtful)
    for row, (start, end) in enumerate(pairwise(rows.tolist())):
        if not marked.isdisjoint(range(start, end + 1)):
            parts.append(_line(drawn[start], drawn[end], "doubt"))
        colour = "#{:02x}{:02x}{:02x}".format(*colours[row])
        kind = "gap" if apart[start:end].any() else "path"
        parts.append(_line(drawn[start], drawn[end], kind, f' stroke="{colour}"'))
    parts.append(_mark(drawn[0], "start"))
    parts.append(_mark(drawn[-1], "end"))
    return _svg(height, title, parts)


def is_gap(places: Array) -> NDArray[np.bool_]:
    """Which steps (n - 1,) between places (n, d) are no part of a path: where another source or another map begins."""
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    moved = steps[steps > STILL * steps.max(initial=0)]  # the cameras of a rig share a place
    return np.asarray(steps > GAP * np.median(moved) if len(moved) else np.zeros(len(steps), dtype=np.bool_))


def bars_per_frame(values: Array, doubtful: Collection[int], title: str) -> str:
    """A bar for each frame, or for the least of several neighbours where there are many. values: (n,)."""
    height, columns = 140, min(len(values), WIDTH - 2 * MARGIN)
    groups = np.array_split(np.arange(len(values)), columns)
    least, step = [float(values[group].min()) for group in groups], (WIDTH - 2 * MARGIN) / columns
    highest, marked = max(float(values.max()), 1.0), set(doubtful)
    parts = [f'<text x="{MARGIN}" y="14">{highest:,.0f}</text>']
    for column, (value, group) in enumerate(zip(least, groups, strict=True)):
        tall = (height - 2 * MARGIN) * value / highest
        kind = "bar" if marked.isdisjoint(group.tolist()) else "bar weak"
        place = f'x="{MARGIN + column * step:.1f}" y="{height - MARGIN - tall:.1f}"'
        parts.append(f'<rect class="{kind}" {place} width="{max(step - 0.5, 0.5):.1f}" height="{tall:.1f}"/>')
    parts.append(f'<text x="{MARGIN}" y="{height - 6}">first frame</text>')
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{height - 6}" text-anchor="end">last frame</text>')
    return _svg(height, title, parts)


def stage_bars(stages: Sequence[StageTime], title: str) -> str:
    """Processor seconds of every stage that takes a hundredth of all or more, the longest first."""
    whole = sum(stage.processor_seconds for stage in stages) or 1.0
    shown = sorted((s for s in stages if s.processor_seconds >= 0.01 * whole), key=lambda s: -s.processor_seconds)
    longest = max((stage.processor_seconds for stage in shown), default=1.0)
    parts = []
    for row, stage in enumerate(shown):
        y, long = row * BAR, 360 * stage.processor_seconds / longest
        parts.append(f'<text x="190" y="{y + 16}" text-anchor="end">{escape(stage.name)}</text>')
        parts.append(f'<rect class="bar" x="200" y="{y + 4}" width="{long:.1f}" height="{BAR - 7}"/>')
        parts.append(f'<text x="{206 + long:.1f}" y="{y + 16}">{stage.processor_seconds:,.1f} s</text>')
    return _svg(max(len(shown), 1) * BAR + 4, title, parts)


def _line(start: Array, end: Array, kind: str, more: str = "") -> str:
    return f'<path class="{kind}" d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"{more}/>'


def _mark(place: Array, word: str) -> str:
    x, y = place
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    if word == "end":
        shape = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    aside, anchor = (-9, "end") if x > WIDTH / 2 else (9, "start")
    text = f'<text x="{x + aside:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{word}</text>'
    return f'<g class="mark">{shape}{text}</g>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    named = f'role="img" aria-label="{escape(title)}"'
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" {named}>{"".join(parts)}</svg>'
