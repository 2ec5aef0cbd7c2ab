"""Whether a live source shows the place of a finished map, before it may extend that map."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from recon.core.errors import SourceError
from recon.core.events import Listener, Notice, Progress
from recon.core.types import Camera, CameraModel, Frame
from recon.sources import SourceOptions, live_kind, open_live_source
from recon.sources.intrinsics import given_camera
from retrieval.localiser import Localiser, Location, open_localiser

MOST_TRIED = 20  # images


def find_camera(
    folder: Path,
    source: str,
    options: SourceOptions,
    tell: Listener,
    *,
    watch: bool = False,
    realtime: bool = False,
    intrinsics: str | None = None,
    model: CameraModel | None = None,
) -> None:
    """Find a live source in the map in ``folder``; ``tell`` gets progress and a note of the place. Opens and closes the
    source, and changes nothing but the map's index of places. intrinsics, model: see ``given_camera``.

    Raises SourceError if none of the first MOST_TRIED images is of the place, and as ``open_live_source`` does;
    SettingsError for unusable intrinsics; MapError if the map cannot be searched.
    """
    live_kind(source, watch=watch, realtime=realtime)  # before the map is prepared, which takes a while
    localiser = open_localiser(folder, tell=lambda sentence: tell(Notice(sentence)))
    opened = open_live_source(source, replace(options, keyframes="all"), watch=watch, realtime=realtime)
    lens = given_camera(intrinsics, model, opened.description.sizes)[0] if intrinsics else None
    items = iter(opened)
    try:
        location, tried = first_located(localiser, items, lens, tell)
    finally:
        opened.stop()
        deque(items, maxlen=0)  # until the camera is free again
    if location is None or location.frame is None:
        raise SourceError(
            f"None of {tried} images of {source} is of the place in {folder}, which stays as it is. Begin where that "
            "map was made, or make a new one with --out."
        )
    tell(Notice(f"{source} shows the place in {folder}, near {location.frame.name}. The map will grow from there."))


def first_located(
    localiser: Localiser, items: Iterable[object], lens: Camera | None, tell: Listener
) -> tuple[Location | None, int]:
    """Where the first frame that is of the place was taken, and how many were tried; None after MOST_TRIED."""
    frames = (item for item in items if isinstance(item, Frame))
    tried = 0
    for tried, frame in enumerate(islice(frames, MOST_TRIED), start=1):
        tell(Progress("finding the camera in the map", tried - 1, MOST_TRIED))
        location = localiser.locate(frame, lens)
        if location.world_from_cam is not None:
            return location, tried
    return None, tried
