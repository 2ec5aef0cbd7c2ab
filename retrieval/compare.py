"""Two maps of one place at different times: how they lie to each other, and what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from recon.core.colmap_log import quiet
from recon.core.errors import SettingsError
from recon.core.events import Listener, Progress
from recon.core.files import make_folder, write_atomically
from recon.core.similarity import Array, Sim3
from recon.core.types import Image
from recon.evaluate.changes import Change, Comparison, Looked, View, compare
from recon.exports.ply import CloudPoints, write_points
from recon.folder import require_outside_maps
from recon.store.map import open_map
from recon.store.merged import numbered
from retrieval.meetings import find_meetings
from retrieval.merge import place_maps

CLOUD, PICTURE = "changes.ply", "changes.png"
GONE, APPEARED = (220, 40, 40), (40, 180, 60)
MOST_SHOWN, MARGIN = 8, 6  # changes in the picture; px between images
TINT = 0.6  # of a changed pixel
NOT_HIDDEN, MOSTLY = 0.95, 0.7  # share of a point's depth; share of the points that the best frame sees
SPREAD = 3  # px by which a point is drawn larger


@dataclass(frozen=True, eq=False)
class Compared:
    """comparison: None if the maps do not meet. pairs: of frames that were verified, of how many."""

    comparison: Comparison | None
    pairs: tuple[int, int]


@quiet()
def compare_maps(first: Path, second: Path, out: Path, tell: Listener = lambda event: None) -> Compared:
    """What has gone from the first map and appeared in the second, as a cloud in the world of the first map and, if
    something has changed, a picture, in ``out``. Nothing is written if the maps do not meet.

    Raises SettingsError for the same map twice, MapError for one that is damaged, unfinished or without depth, and
    OutputError if ``out`` lies in a map or cannot be written.
    """
    require_outside_maps(out)
    if first.resolve() == second.resolve():
        raise SettingsError("A comparison needs two different maps.")
    maps = [open_map(folder) for folder in (first, second)]
    for found in maps:
        found.require_finished()
    meetings = find_meetings(numbered([(one, Sim3.identity()) for one in maps]), tell)
    pairs = sum(one.bridge is not None for one in meetings), len(meetings)
    poses = place_maps(maps, meetings)
    if len(poses) < 2:
        return Compared(None, pairs)
    tell(Progress("comparing the surfaces", 0, 0))
    before, after = (Looked.at(one) for one in maps)
    comparison = compare(before, after, poses[0].inverse() @ poses[1])
    make_folder(out)
    cloud = _cloud(before, after, comparison)
    write_atomically(out / CLOUD, lambda file: write_points(file, cloud))
    (out / PICTURE).unlink(missing_ok=True)  # of an earlier comparison
    if comparison.changes:
        _write_picture(out / PICTURE, before, after, comparison)
    return Compared(comparison, pairs)


def _cloud(first: Looked, second: Looked, comparison: Comparison) -> CloudPoints:
    """Both maps in grey, what has gone in red and what has appeared in green."""
    grey = [np.repeat(one.cloud.colours.mean(axis=1, keepdims=True), 3, axis=1) for one in (first, second)]
    parts = [
        (first.cloud.positions, grey[0]),
        (comparison.first_from_second.apply(second.cloud.positions), grey[1]),
        *((change.points, np.tile(_colour(change), (len(change.points), 1))) for change in comparison.changes),
    ]
    positions, colours = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return CloudPoints(positions, colours, np.ones(len(positions)))


def _colour(change: Change) -> tuple[int, int, int]:
    return APPEARED if change.appeared else GONE


def _write_picture(path: Path, first: Looked, second: Looked, comparison: Comparison) -> None:
    """A row for each change: on the left the first map, on the right the second, from about the same side."""
    from PIL import Image as Pillow  # noqa: PLC0415

    second_from_first = comparison.first_from_second.inverse()
    rows = []
    for change in comparison.changes[:MOST_SHOWN]:
        left, right = _views(first, second, change, second_from_first)
        in_second = second_from_first.apply(change.points)
        images = (
            _tinted(left, change.points, None if change.appeared else GONE),
            _tinted(right, in_second, APPEARED if change.appeared else None),
        )
        rows.append(_side_by_side(images))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, MARGIN), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    write_atomically(path, lambda file: Pillow.fromarray(np.concatenate(padded)).save(file, "PNG"))


def _views(first: Looked, second: Looked, change: Change, second_from_first: Sim3) -> tuple[View, View]:
    """A frame of either map that looks at the place of a change, from about the same side."""
    places = change.points, second_from_first.apply(change.points)
    looking = [_looking(looked.views, points) for looked, points in zip((first, second), places, strict=True)]
    middle = change.points.mean(axis=0)

    def angle(pair: tuple[View, View]) -> float:
        one, other = pair
        rays = (
            middle - one.placed.world_from_cam.translation,
            middle - second_from_first.inverse().apply(other.placed.world_from_cam.translation),
        )
        return float(-np.dot(*rays) / np.prod(np.linalg.norm(rays, axis=1)))

    return min([(one, other) for one in looking[0] for other in looking[1]], key=angle)


def _looking(views: Sequence[View], points: Array) -> list[View]:
    """The frames that see most of some points, at their depth or past them."""

    def seen(view: View) -> int:
        depth, rows, columns, _ = view.projected(points)
        return int((view.depth[rows, columns] > NOT_HIDDEN * depth).sum())

    counts = [seen(view) for view in views]
    return [view for view, count in zip(views, counts, strict=True) if count >= MOSTLY * max(counts)]


def _tinted(view: View, points: Array, colour: tuple[int, int, int] | None) -> Image:
    """The image of a frame, with some points in a colour."""
    image = view.colour.astype(np.float64)
    if colour:
        _, rows, columns, _ = view.projected(points)
        drawn = np.zeros(image.shape[:2], np.uint8)
        drawn[rows, columns] = 1
        marked = cv2.dilate(drawn, np.ones((SPREAD, SPREAD), np.uint8)) > 0
        image[marked] = (1 - TINT) * image[marked] + TINT * np.array(colour)
    return np.round(image).astype(np.uint8)


def _side_by_side(images: Sequence[Image]) -> Image:
    """Images at the same height."""
    height = max(len(image) for image in images)
    scaled = [cv2.resize(image, (round(image.shape[1] * height / len(image)), height)) for image in images]
    gap = ((0, 0), (0, MARGIN), (0, 0))
    return np.concatenate([np.pad(image, gap, constant_values=255) for image in scaled], axis=1)
