"""``recon locate``: where photos were taken, in a finished map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Intrinsics, Topic, calibrated_camera
from recon.core.errors import SourceError

if TYPE_CHECKING:
    from recon.core.types import Camera, Frame, SkippedFrame
    from recon.sources import Source
    from retrieval.localiser import Localiser, Location

NAME_WIDTH = 24


def locate(
    folder: Annotated[Path, typer.Argument(metavar="MAP", help="Folder of the run that made the map.")],
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO...", help="Images, image folders, quoted patterns, videos, ROS bags.")
    ],
    *,
    out: Annotated[Path | None, typer.Option(metavar="JSON", help="Also write the poses into this file.")] = None,
    matches: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also draw the matches of each photo into this folder.")
    ] = None,
    intrinsics: Intrinsics = None,
    topic: Topic = None,
) -> None:
    """Find where photos were taken, in the map of a run.

    Says "not of this place" where a photo shows another place or too little; that is an answer, so the exit code is 0.
    The first use prepares the map, which takes about a third of a second per keyframe. An unknown lens is estimated.
    """
    from recon.core.files import make_folder
    from recon.sources import SourceOptions, open_source
    from retrieval.localiser import open_localiser
    from retrieval.location_file import write_locations

    sources = [open_source(spec, SourceOptions(topic=topic)) for spec in photos]
    camera = known_lens(intrinsics, sources)
    localiser = open_localiser(folder, tell=lambda sentence: typer.echo(f"note: {sentence}", err=True))
    if matches is not None:
        make_folder(matches)
    found, unreadable = _locate_all(localiser, sources, camera, matches)
    if out is not None:
        write_locations(out, folder, found)
    if unreadable:
        raise SourceError(f"{len(unreadable)} of the photos cannot be read, the first {unreadable[0]}.")


def _locate_all(
    localiser: Localiser, sources: Sequence[Source], camera: Camera | None, matches: Path | None
) -> tuple[list[tuple[str, Location]], list[str]]:
    """Print a row per photo; returns the photos' names with their locations, and those that cannot be read."""
    found: list[tuple[str, Location]] = []
    unreadable: list[str] = []
    typer.secho(
        f"{'photo':<{NAME_WIDTH}}  {'position':^28}  {'±':>7}  {'± angle':>8}  {'features':>12}  frame", bold=True
    )
    for name, photo in read_photos(sources):
        if isinstance(photo, str):
            unreadable.append(f"{name}: {photo}")
            typer.echo(f"{short_name(name)}  unreadable: {photo}")
            continue
        location = localiser.locate(photo, camera)
        typer.echo(f"{short_name(name)}  {location_row(location)}")
        if matches is not None and location.frame:
            _draw(matches / f"{len(found):04d}_{Path(name).stem}.jpg", localiser, name, photo, location)
        found.append((name, location))
    typer.echo(_summary([location for _, location in found], "metres" if localiser.metric else "map units"))
    return found, unreadable


def known_lens(intrinsics: str | None, sources: Sequence[Source]) -> Camera | None:
    """The camera that ``--intrinsics`` gives for photos; None without it."""
    if intrinsics is None:
        return None
    return calibrated_camera(intrinsics, None, list({size for source in sources for size in source.description.sizes}))


def read_photos(sources: Sequence[Source]) -> Iterator[tuple[str, Frame | str]]:
    """Every photo with its name, or the reason why it cannot be read."""
    from recon.core.types import SkippedFrame

    for source in sources:
        is_video = source.description.rate > 0
        for item in source.candidates():
            frame: Frame | SkippedFrame = item if isinstance(item, SkippedFrame) else item.frame
            name = f"{source.file_of(frame.index)}" + (f" frame {frame.index}" if is_video else "")
            yield name, frame.reason if isinstance(frame, SkippedFrame) else frame


def short_name(name: str) -> str:
    """The name of a photo in a column."""
    name = Path(name).name
    return f"{name if len(name) <= NAME_WIDTH else '...' + name[3 - NAME_WIDTH :]:<{NAME_WIDTH}}"


def location_row(location: Location) -> str:
    """Where a photo was taken, or why that is not known, on a line."""
    import math

    if location.world_from_cam is None or location.frame is None:
        return f"not of this place: {location.reason}"
    position = " ".join(f"{value:8.3f}" for value in location.world_from_cam.translation)
    angle = f"{math.degrees(location.rotation_deviation):.2f} deg"
    features = f"{location.inliers} of {location.matched}"
    return f"{position:>28}  {location.position_deviation:7.4f}  {angle:>8}  {features:>12}  {location.frame.name}"


def _summary(found: Sequence[Location], unit: str) -> str:
    located = sum(location.world_from_cam is not None for location in found)
    return (
        f"{located} of {len(found)} photos are of this place. Positions are in {unit}; ± is a standard deviation; "
        "features: those that agree with the pose, of those that match."
    )


def _draw(path: Path, localiser: Localiser, name: str, photo: Frame, location: Location) -> None:
    from retrieval.match_picture import write_match_picture

    assert location.frame is not None
    verdict = "located" if location.world_from_cam else f"not of this place: {location.reason}"
    caption = f"{Path(name).name} and {location.frame.name}: {verdict}"
    write_match_picture(path, photo, localiser.image(location.frame), location, caption)
