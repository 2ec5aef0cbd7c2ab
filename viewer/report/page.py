"""Puts the report together: texts, drawings and data in one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from string import Template
from typing import Any

import cv2
import numpy as np

from recon.core.places import LoopRecord
from recon.core.quantities import duration, size
from recon.core.types import Image, PlacedFrame
from recon.exports.ply import CloudPoints
from recon.settings import RunSettings
from recon.store.map import ReconstructedMap
from recon.store.report import RunReport
from viewer.cloud import Drawing, as_base64
from viewer.level import Level, centres
from viewer.report.figures import bars_per_frame, is_gap, path_drawing, stage_bars
from viewer.report.findings import Finding, findings, verdict
from viewer.report.shots import Shot, shots
from viewer.shapes import read_cloud

LOOPS_LISTED = 12
MOST_POINTS = 250_000  # of the cloud, 9 bytes each
CLOUD_SAYS = "Drag or use the arrow keys to turn, the wheel or + and - to zoom, Shift and drag to move."
NO_CLOUD = "There is no cloud.ply to show."
NONE_AGAIN = "No place of an earlier chunk was recognised again."


def compose(report: RunReport, reconstruction: ReconstructedMap) -> str:
    """The page about a run and its map."""
    level, cloud = Level.of(reconstruction.posed), read_cloud(reconstruction.folder / "cloud.ply", MOST_POINTS)
    flat = centres(reconstruction.posed) @ level.level_from_world.T
    doubtful, loops = _doubtful_rows(report, reconstruction.posed), _loop_rows(report, reconstruction.posed)
    state, headline = verdict(report, complete=reconstruction.complete)
    parts = {
        "title": escape(f"{headline}: {report.source}"),
        "source": escape(report.source),
        "state": state,
        "headline": escape(headline),
        "findings": _listed(findings(report)),
        "figures": _figures(report, reconstruction),
        "cloud_says": CLOUD_SAYS if cloud else NO_CLOUD,
        "above": path_drawing(flat[:, [0, 2]] * [1, -1], doubtful, loops, "The path from above"),
        "side": path_drawing(flat[:, [0, 1]], doubtful, loops, "The path from the side"),
        "shots": "".join(map(_shot, shots(reconstruction))),
        "health": _health(report, reconstruction),
        "cost": _cost(report),
        "stages": stage_bars(report.stages, "Processor seconds of each stage"),
        "loops": _loops(report.loops, {frame.index: frame.name for frame in reconstruction.posed}),
        "notes": _paragraphs(report.notices) or "<p>None.</p>",
        "settings": escape(_settings(report)),
        "cloud": json.dumps(_drawn(cloud, reconstruction.posed)),
        "style": asset("page.css"),
        "script": asset("cloud.js") + asset("report.js"),
    }
    return Template(asset("page.html")).substitute(parts)


def asset(name: str) -> str:
    """The text of a file of this package."""
    return (resources.files("viewer.report") / name).read_text(encoding="utf-8")


def _listed(found: Iterable[Finding]) -> str:
    rows = [f"<li>{escape(one.text)}{f'<span>{escape(one.remedy)}</span>' if one.remedy else ''}</li>" for one in found]
    return f'<ul class="findings">{"".join(rows)}</ul>' if rows else ""


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _figures(report: RunReport, reconstruction: ReconstructedMap) -> str:
    path = centres(reconstruction.posed)
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1)[~is_gap(path)].sum())
    accepted = sum(loop.verdict == "accepted" for loop in report.loops)
    shown = {
        "keyframes placed"
        if report.passed_over
        else "frames placed": f"{report.frames_placed} of {report.frames_read}",
        "frames between them": f"{report.passed_over_placed} of {report.passed_over}" if report.passed_over else "",
        "length of the path": f"{length:.3g} {'m' if reconstruction.metric else 'map units'}",
        "loops closed": f"{accepted} of {len(report.loops)}" if report.loops else "",
        "time": duration(report.seconds),
        "peak memory": size(report.peak_memory_bytes),
    }
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items() if value)


def _doubtful_rows(report: RunReport, frames: Sequence[PlacedFrame]) -> set[int]:
    spans = [(chunk.first, chunk.last) for chunk in report.chunks if chunk.warnings]
    return {row for row, frame in enumerate(frames) if any(first <= frame.index <= last for first, last in spans)}


def _loop_rows(report: RunReport, frames: Sequence[PlacedFrame]) -> list[tuple[int, int]]:
    rows = {frame.index: row for row, frame in enumerate(frames)}
    accepted = [(loop.earlier, loop.frame) for loop in report.loops if loop.verdict == "accepted"]
    return [(rows[first], rows[second]) for first, second in accepted if first in rows and second in rows]


def _health(report: RunReport, reconstruction: ReconstructedMap) -> str:
    if not len(reconstruction.points.frame_indices):
        return "<p>The map has no sparse points.</p>"
    frames = reconstruction.frames
    seen = np.bincount(reconstruction.points.frame_indices, minlength=frames[-1].index + 1)
    held = np.array([seen[frame.index] for frame in frames])
    return bars_per_frame(held, _doubtful_rows(report, frames), "Points of the map that each frame sees")


def _cost(report: RunReport) -> str:
    each = report.processor_seconds / max(report.frames_read + report.passed_over, 1)
    return (
        f"{duration(report.seconds)} in all; {report.processor_seconds:,.0f} processor seconds, {each:.2f} a frame. "
        "Stages under 1% are left out."
    )


def _loops(ledger: Sequence[LoopRecord], names: dict[int, str]) -> str:
    accepted = sorted((loop for loop in ledger if loop.verdict == "accepted"), key=lambda loop: -loop.before)
    if not accepted:
        return f"<p>{NONE_AGAIN} Frames of one chunk are compared with each other in any case.</p>"
    rows = [
        f"<tr><td>{escape(names.get(loop.frame, str(loop.frame)))}</td>"
        f"<td>{escape(names.get(loop.earlier, str(loop.earlier)))}</td>"
        f"<td>{loop.inliers}</td><td>{loop.before:.1f}</td><td>{loop.after:.1f}</td></tr>"
        for loop in accepted[:LOOPS_LISTED]
    ]
    head = "<tr><th>frame</th><th>earlier frame</th><th>matches</th><th>gap before</th><th>after</th></tr>"
    others = len(ledger) - len(accepted)
    said = f"{len(accepted)} accepted, {others} refused. The gap is in standard deviations of the map's own uncertainty"
    return f"<p>{said}; the largest come first. recon loops lists all.</p><table>{head}{''.join(rows)}</table>"


def _shot(shot: Shot) -> str:
    pictures = "".join(
        f'<img alt="{kind} of {escape(shot.name)}" src="{_jpeg(image)}">'
        for kind, image in (("colour", shot.colour), ("depth", shot.depth))
    )
    says = f"{escape(shot.name)}: depth for {shot.sure:.0%} of the image"
    return f"<figure>{pictures}<figcaption>{says}</figcaption></figure>"


def _jpeg(image: Image) -> str:
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return f"data:image/jpeg;base64,{as_base64(coded)}"


def _settings(report: RunReport) -> str:
    usual = asdict(RunSettings())
    changed = {name: value for name, value in asdict(report.settings).items() if value != usual[name]}
    content = {"settings other than the defaults": changed, "versions": report.versions}
    return json.dumps(content, indent=1, default=str)


def _drawn(cloud: CloudPoints | None, frames: Sequence[PlacedFrame]) -> dict[str, Any] | None:
    return Drawing(cloud.positions, cloud.colours, frames, upright=frames).data() if cloud else None
