"""``recon fleet``: many sources on many machines, one store of places, one map."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.ending import ended_with
from cli.options import Intrinsics
from cli.text import one_line
from recon.core.errors import SettingsError, SourceError
from recon.core.quantities import counted

if TYPE_CHECKING:
    from recon.fleet.driver import Need
    from recon.fleet.store import FleetStore, Job, State
    from retrieval.fleet.merge import FleetMerged

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Many sources: run, status, merge, locate, delete, serve."
)
FAILED = 1
USAGE_ERROR: Any = typer.BadParameter.__base__  # of click, which is part of typer
NAME_WIDTH = 28
NAMES_SHOWN = 8
LOOPBACK = "127.0.0.1"
MERGE_MEMORY = 2_000_000_000  # bytes, an assumption: recon plan estimates no merges
Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a fleet's run.")]
Address = Annotated[str | None, typer.Option(metavar="RAY", help="Ray cluster, or auto.  [default: start Ray here]")]
RunOptions = Annotated[str, typer.Option(metavar="TEXT", help='Options of recon run, such as "--size 640".')]
Cpus = Annotated[float, typer.Option(min=1, help="Processors per source.")]
Retries = Annotated[int, typer.Option(min=0, help="Further attempts after a crash or a lost machine.")]


@app.command(options_metavar="--out STORE [OPTIONS]")
def run(
    sources: Annotated[
        str, typer.Argument(metavar="LIST", help="Folder, quoted pattern, or CSV with source,name,options.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="STORE", help="Folder that all machines share.")],
    address: Address = None,
    options: RunOptions = "",
    part_frames: Annotated[
        int | None, typer.Option(help="Cut longer sources into parts, merged afterwards.  [default: cut none]")
    ] = None,
    cpus: Cpus = 2,
    retries: Retries = 2,
) -> None:
    """Map every source of LIST into STORE.

    Each is a task of Ray. Finished maps are skipped, others resumed. A source that fails is reported and stops no
    other; the exit code is then 1. Watch with recon fleet status STORE.
    """
    from recon.core.files import make_folder
    from recon.fleet.cutting import jobs_of
    from recon.fleet.driver import Driver
    from recon.fleet.listing import read_list
    from recon.fleet.ray_cluster import RayCluster  # first of all: where Ray is missing, nothing is begun
    from recon.fleet.store import FleetStore
    from recon.store.lock import sole_writer

    listed = read_list(sources, _split(options))
    for one in listed:
        _arguments(one.source, one.options)  # an option that does not exist is an error before anything starts
    store = FleetStore(out.absolute())
    store.require_own_folder()
    make_folder(out)
    with sole_writer(store.folder, "recon fleet run"), ended_with(lambda: _interrupted(out)):
        jobs = [job for one in listed for job in jobs_of(one, store.folder / "parts", part_frames)]
        store.extend(jobs)
        store.reset(jobs)
        left = sum(store.state(job.name).phase != "done" for job in jobs)
        typer.echo(f"{len(jobs) - left} of {counted(len(jobs), 'map')} finished.")
        if left:
            cluster = RayCluster(store.folder, retries, address)
            try:
                Driver(store, cluster, lambda job: _need(job, cpus), _tell).drive(jobs)
            finally:
                cluster.close()
    if _print_sums(store, jobs)["failed"]:
        raise typer.Exit(FAILED)


@app.command()
def status(folder: Store) -> None:
    """Show how far the sources of a fleet are.

    Works from any machine, while the fleet runs and afterwards.
    """
    from recon.fleet.store import FleetStore

    store = FleetStore(folder)
    jobs = store.jobs()
    for job in jobs:
        _tell(job, store.state(job.name))
    _print_sums(store, jobs)


@app.command(options_metavar="[OPTIONS]")
def merge(
    folder: Store,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="MAP", help="Also write the largest group as one map into this folder.")
    ] = None,
    adjust: Annotated[
        bool, typer.Option("--adjust/--no-adjust", help="Adjust all poses of MAP jointly, from the images.")
    ] = False,
    places: Annotated[
        Literal["embedded", "lance"] | None,
        typer.Option(help="Engine of a new place store.  [default: embedded]"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="RAY", help="Ray cluster that compares the maps.  [default: this process]")
    ] = None,
) -> None:
    """Find out which maps of STORE meet.

    Also finds how they lie to each other. Compares only new maps, with those that look like them. Maps that meet no
    other are listed; the exit code is then 1.
    """
    from cli.ending import making_a_map
    from cli.run import write_page
    from recon.fleet.store import FleetStore
    from retrieval.fleet.merge import merge_fleet

    store = FleetStore(folder.absolute())
    maps = store.finished_maps()
    if out is None:
        from cli.progress import StageBar

        said = "Interrupted: the pairs compared so far are kept; the same command continues."
        with ended_with(lambda: said), StageBar() as bar:
            found = merge_fleet(store.folder, maps, None, bar, engine=places, address=address)
    else:
        with making_a_map(out) as workers:
            found = workers.call(
                "geometry",
                "retrieval.fleet.merge:merge_fleet",
                store.folder,
                maps,
                out,
                workers.tell,
                adjust=adjust,
                engine=places,
                address=address,
            )
        if found.atlas.groups:
            write_page(out)
    _print_atlas(found, len(maps), out)
    if found.atlas.apart or found.unwritten:
        raise typer.Exit(FAILED)


@app.command()
def locate(
    folder: Store,
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO...", help="Images, image folders, quoted patterns, or videos.")
    ],
    *,
    intrinsics: Intrinsics = None,
) -> None:
    """Find where photos were taken, in all maps of STORE.

    Needs recon fleet merge first. Says "not of this place" as recon locate does.
    """
    from cli.locate import known_lens, location_row, read_photos, short_name
    from recon.fleet.store import FleetStore
    from recon.sources import open_source
    from retrieval.fleet.locate import FleetLocaliser

    store = FleetStore(folder.absolute())
    sources = [open_source(spec) for spec in photos]
    camera = known_lens(intrinsics, sources)
    localiser = FleetLocaliser(store.folder, store.finished_maps())
    unreadable = 0
    for name, photo in read_photos(sources):
        if isinstance(photo, str):
            unreadable += 1
            typer.echo(f"{short_name(name)}  unreadable: {photo}")
            continue
        found = localiser.locate(photo, camera)
        said = location_row(found.location) if found.location else "not of this place: no map looks like it"
        here = found.location is not None and found.location.world_from_cam is not None
        where = f"  in {found.map}" + (f", group {found.group + 1}" if found.group >= 0 else "") if here else ""
        typer.echo(f"{short_name(name)}  {said}{where}")
    localiser.close()
    if unreadable:
        raise SourceError(f"{unreadable} of the photos cannot be read.")


@app.command()
def delete(
    folder: Store,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Maps, as recon fleet status lists them.")],
) -> None:
    """Delete maps from STORE.

    Also deletes their places, logs, and videos that recon fleet serve received; sources elsewhere stay. The other
    maps keep their places. If this is interrupted, the same command deletes the rest.
    """
    from recon.fleet.store import FleetStore
    from recon.store.lock import sole_writer
    from retrieval.fleet.merge import delete_maps

    store = FleetStore(folder.absolute())
    store.require(names)  # before a folder that is no store is locked
    said = "Interrupted: the same command deletes the rest."
    with sole_writer(store.folder, "recon fleet delete"), ended_with(lambda: said):
        left = delete_maps(store.folder, names)
    typer.echo(f"Deleted {', '.join(dict.fromkeys(names))}. {left} finished maps are left.")


@app.command(options_metavar="[OPTIONS]")
def serve(
    folder: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store, made if it is missing.")],
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen at; nothing is encrypted.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    max_gb: Annotated[float, typer.Option(min=0.001, help="Largest video in GB.")] = 4,
    address: Address = None,
    options: RunOptions = "",
    cpus: Cpus = 2,
    retries: Retries = 2,
) -> None:
    """Receive videos over HTTP, map them into STORE, and locate photos.

    STORE/token has the password of all requests; /docs describes them. Ctrl-C ends; the same command continues.
    """
    from recon.core.files import make_folder
    from recon.fleet.driver import Driver
    from recon.fleet.merging import Merging
    from recon.fleet.ray_cluster import RayCluster
    from recon.fleet.store import FleetStore
    from recon.fleet.uploads import Uploads
    from recon.store.lock import sole_writer
    from retrieval.fleet.server import serve as serving

    given = _split(options)
    _arguments("uploads", tuple(given))
    store = FleetStore(folder.absolute())
    make_folder(folder)
    with sole_writer(store.folder, "recon fleet serve"), ended_with(lambda: _interrupted(folder)):
        uploads = Uploads(store, given)
        store.reset(uploads.jobs)
        merging = Merging(store, lambda sentence: typer.echo(f"note: {sentence}", err=True))
        cluster = RayCluster(store.folder, retries, address)

        def tell(job: Job, state: State) -> None:
            _tell(job, state)
            if state.phase == "done":
                merging.note()

        def arriving() -> list[Job]:
            merging.tend()
            return uploads.arrived()

        try:
            with serving(store, uploads, host, port, round(max_gb * 1e9)) as url:
                _print_sums(store, uploads.jobs)
                typer.echo(f"{url}/docs describes the requests. The password is in {folder / 'token'}.")
                Driver(store, cluster, lambda job: _need(job, cpus), tell).drive(uploads.jobs, arriving)
        finally:
            merging.close()
            cluster.close()


def _print_atlas(found: FleetMerged, maps: int, out: Path | None) -> None:
    typer.echo(f"{counted(maps, 'map')}, {counted(found.compared, 'new pair')} compared.")
    for number, group in enumerate(found.atlas.groups, start=1):
        typer.echo(
            f"group {number}: {counted(len(group), 'map')}, {', '.join(list(group)[:NAMES_SHOWN])}"
            + (", ..." if len(group) > NAMES_SHOWN else "")
        )
    for name in found.atlas.apart:
        typer.echo(f"{name} meets no other map.")
    for joint in found.atlas.refused:
        typer.echo(f"{joint.maps[0]} and {joint.maps[1]} look alike, but other maps contradict that.")
    if out is not None and found.atlas.groups:
        how = "all poses adjusted jointly" if found.adjusted else "poses of the maps as they were"
        typer.echo(f"Merged {counted(len(found.atlas.groups[0]), 'map')} into {out}, {how}.")


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise SettingsError(f"--options cannot be read ({error}): {options}.") from error


def _arguments(source: str, options: tuple[str, ...]) -> dict[str, object]:
    """The options of ``recon run``, parsed. Raises SettingsError for one that does not exist or cannot be read."""
    from typer.main import get_command

    from cli import run as runs

    alone = typer.Typer(add_completion=False)
    alone.command(add_help_option=False)(runs.plan)
    command = get_command(alone)
    try:
        found = command.make_context("recon run", [source, *options]).params
    except USAGE_ERROR as error:
        why = one_line(error.format_message()).replace("Value error, ", "").rstrip(".")
        raise SettingsError(f"The options of {source} cannot work: {why}. See recon run --help.") from error
    for name, value in (("overwrite", found["overwrite"]), ("resume", found["resume"]), ("out", found["out"])):
        if value:
            raise SettingsError(f"The options of {source} cannot include --{name}: recon fleet run sets it.")
    return {name: value for name, value in found.items() if name not in ("source", "out")}


def _need(job: Job, cpus: float) -> Need:
    """What a job needs, as ``recon plan`` estimates it. Raises ReconError if the source cannot be read."""
    from cli.run import prepare
    from recon.fleet.driver import Need
    from recon.plan import memory_need

    if job.kind == "merge":
        return Need(cpus, MERGE_MEMORY)
    prepared = prepare(job.source, Path(), **_arguments(job.source, job.options))  # type: ignore[arg-type]
    settings = prepared.settings.decided(prepared.description.frames)
    memory = memory_need(prepared.description, settings, round(cpus)) if prepared.description.sizes else 0
    return Need(cpus, memory, 1.0 if settings.network else 0.0)


def _tell(job: Job, state: State) -> None:
    typer.echo(_line(job, state))


def _line(job: Job, state: State) -> str:
    phase = "lost" if state.is_lost else state.phase
    rate = f"{state.frames / state.seconds:.1f} frames/s" if state.frames and state.seconds else ""
    words = f"{job.name:<{NAME_WIDTH}}  {phase:<7}  {state.frames:>6} frames  {rate:>13}"
    where = f"on {state.host}" if state.phase == "running" else ""
    return "  ".join(filter(None, (words.rstrip(), where, one_line(state.sentence)))).rstrip()


def _print_sums(store: FleetStore, jobs: Sequence[Job]) -> Counter[str]:
    """Print how many maps are in each phase, which are returned, and what they cost."""
    states = [store.state(job.name) for job in jobs]
    counts = Counter("lost" if state.is_lost else state.phase for state in states)
    frames, seconds = (sum(getattr(state, name) for state in states) for name in ("frames", "seconds"))
    rate = f", {frames / seconds:.1f} a second of work" if seconds else ""
    phases = ", ".join(f"{counts[phase]} {phase}" for phase in ("done", "running", "waiting", "lost", "failed"))
    typer.echo(f"{counted(len(jobs), 'map')}: {phases}. {counted(frames, 'frame')}{rate}.")
    return counts


def _interrupted(out: Path) -> str:
    return (
        f"Interrupted. Finished chunks are kept; the same command continues, recon fleet status {out} shows the rest."
    )
