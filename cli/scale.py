"""``recon scale``: gives a map metres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.run import UNWRITTEN, write_page

if TYPE_CHECKING:
    from recon.metric.fit import Judged, MetricFit
    from recon.store.map import ReconstructedMap

LENGTH = 'Known length "A B METRES", for points X,Y,Z or names of frames A and B; repeatable.'
POSITIONS = "Known camera centres [m]: rows NAME,X,Y,Z, or a TUM trajectory."
NAME_WIDTH = 32
MOST_ROWS = 40


def scale(
    folder: Annotated[Path, typer.Argument(metavar="MAP", help="Folder of a finished map.")],
    *,
    length: Annotated[list[str] | None, typer.Option(metavar="TEXT", help=LENGTH)] = None,
    positions: Annotated[Path | None, typer.Option(metavar="FILE", help=POSITIONS)] = None,
    gps: Annotated[bool, typer.Option("--gps", help="Use the GPS tags of the images.")] = False,
    tag_size: Annotated[
        float | None, typer.Option(metavar="METRES", help="Edge of the AprilTags or ArUco markers in the scene.")
    ] = None,
    camera_height: Annotated[
        float | None, typer.Option(metavar="METRES", help="Mean height of the camera above the ground.")
    ] = None,
    track: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Track of the camera: GPX, KML, or SRT of a DJI drone.")
    ] = None,
    track_offset: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Clock of the track less that of the frames.  [default: estimated]"),
    ] = None,
) -> None:
    """Give a map metres.

    From known lengths, printed markers, the height of the camera, known camera centres, GPS tags or a track, several of
    which are combined. Wrong ones among right ones are left out. Prints what remains of each, then writes the outputs
    again.
    """
    from cli.progress import StageBar
    from recon.exports import written_names
    from recon.metric.scale import Known, scale_map, write_scaled_outputs
    from recon.store.map import open_map
    from recon.store.tracked import NAME as TRACKED
    from retrieval.map_index import move_index

    before = open_map(folder)
    with ended_with(lambda: _ended(before)):
        known = Known(tuple(length or ()), positions, gps, tag_size, camera_height, track, track_offset)
        found = scale_map(folder, known, StageBar())
        _print(found)
        move_index(before, open_map(folder), found.metric_from_world)
        unwritten = write_scaled_outputs(folder)
    for sentence in unwritten:
        typer.echo(f"note: {sentence}", err=True)
    if (folder / "report.json").exists():
        write_page(folder)
    kept = ("recording.rrd", TRACKED, *written_names(by_every_run=False))
    stale = [name for name in kept if (folder / name).exists()]
    if stale:
        typer.echo(f"note: still in the old unit: {', '.join(stale)}. recon export writes exports again.", err=True)
    if unwritten:
        raise typer.Exit(UNWRITTEN)


def _ended(before: ReconstructedMap) -> str:
    """What an interrupted command has left. before: the map as it was."""
    from recon.store.map import open_map

    now = open_map(before.folder)
    if all(a.world_from_cam.isclose(b.world_from_cam) for a, b in zip(before.posed, now.posed, strict=True)):
        return "Interrupted: the map is as it was."
    return f"Interrupted. The map is in metres; write its outputs with: recon check {before.folder} --repair"


def _print(found: MetricFit) -> None:
    typer.secho(f"{'observation':<{NAME_WIDTH}}  {'known':>10}  {'map':>10}  {'error':>10}", bold=True)
    worst = sorted(found.observations, key=lambda one: (one.used, -abs(one.error)))
    for one in found.observations if len(worst) <= MOST_ROWS else worst[:MOST_ROWS]:
        typer.echo(_row(one))
    if len(worst) > MOST_ROWS:
        typer.echo(f"and {len(worst) - MOST_ROWS} more with smaller errors")
    error = f"{found.error:.3g} m (RMS)" if found.error is not None else "unknown, as nothing checks a single length"
    typer.echo(
        f"The map is in metres: one old map unit is {found.metric_from_world.scale:.6g} m. Error: {error}; "
        f"{found.used} of {len(found.observations)} observations used."
    )


def _row(one: Judged) -> str:
    lengths = "  ".join(f"{value:>8.3f} m" if value is not None else " " * 10 for value in (one.given, one.found))
    return f"{one.name:<{NAME_WIDTH}}  {lengths}  {one.error:>8.3f} m{'' if one.used else '  left out'}"
