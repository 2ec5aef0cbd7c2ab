"""``recon scale``: gives a map metres."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import UNWRITTEN, ended_with
from cli.run import write_page
from recon.core.errors import SettingsError

if TYPE_CHECKING:
    from recon.core.similarity import Sim3
    from recon.metric.fit import Judged, MetricFit
    from recon.metric.level import Up
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
        Path | None, typer.Option(metavar="FILE", help="Track of the camera: GPX, KML, SRT of a DJI drone, or ROS bag.")
    ] = None,
    track_offset: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time of the track minus that of the frames.  [default: estimated]"),
    ] = None,
    level: Annotated[
        bool, typer.Option("--level", help="Turn the map so that z is up, from upright lines in the images.")
    ] = False,
) -> None:
    """Scale a map to metres, and turn it upright.

    Uses known lengths, printed markers, the height of the camera, known camera centres, GPS tags or a track, alone or
    combined. Leaves out wrong observations among right ones, prints the remaining error of each, and writes the
    outputs again.
    """
    from cli.progress import StageBar
    from recon.core.similarity import Sim3
    from recon.exports import written_names
    from recon.metric.level import find_up, turn_level
    from recon.metric.scale import Known, scale_map, write_scaled_outputs
    from recon.store.map import open_map
    from recon.store.tracked import NAME as TRACKED
    from retrieval.map_index import move_index

    before = open_map(folder)
    known = Known(tuple(length or ()), positions, gps, tag_size, camera_height, track, track_offset)
    if level and (positions or gps or track):
        raise SettingsError("--positions, --gps and --track already determine the axes of the map. Omit --level.")
    with ended_with(lambda: _ended(before)):
        change = Sim3.identity()
        up = find_up(before) if level else None
        if up is None or known != Known():
            found = scale_map(folder, known, StageBar())
            _print(found)
            change = found.metric_from_world
        if up is not None:
            turn = turn_level(folder, up)
            _print_turn(turn, up)
            change = turn @ change
        move_index(before, open_map(folder), change)
        unwritten = write_scaled_outputs(folder)
    for sentence in unwritten:
        typer.echo(f"note: {sentence}", err=True)
    if (folder / "report.json").exists():
        write_page(folder)
    kept = ("recording.rrd", TRACKED, *written_names(by_every_run=False))
    stale = [name for name in kept if (folder / name).exists()]
    if stale:
        typer.echo(f"note: still of the old map: {', '.join(stale)}. recon export writes exports again.", err=True)
    if unwritten:
        raise typer.Exit(UNWRITTEN)


def _ended(before: ReconstructedMap) -> str:
    """What an interrupted command has left. before: the map as it was."""
    from recon.store.map import open_map

    now = open_map(before.folder)
    if all(a.world_from_cam.isclose(b.world_from_cam) for a, b in zip(before.posed, now.posed, strict=True)):
        return "Interrupted: the map is as it was."
    return f"Interrupted. The map has changed; write its outputs with: recon check {before.folder} --repair"


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


def _print_turn(turn: Sim3, up: Up) -> None:
    from scipy.spatial.transform import Rotation

    angle = Rotation.from_matrix(turn.rotation).magnitude()
    typer.echo(
        f"z is up: the map is turned by {math.degrees(angle):.1f} deg. {up.lines} lines agree on the vertical, which "
        f"is known to about {up.deviation:.1f} deg."
    )


def _row(one: Judged) -> str:
    lengths = "  ".join(f"{value:>8.3f} m" if value is not None else " " * 10 for value in (one.given, one.found))
    return f"{one.name:<{NAME_WIDTH}}  {lengths}  {one.error:>8.3f} m{'' if one.used else '  left out'}"
