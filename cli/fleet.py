"""``recon fleet``: many sources on many machines, one store of places, one map."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_with
from cli.text import one_line
from recon.core.errors import DependencyError, SettingsError

if TYPE_CHECKING:
    from recon.fleet.driver import Need
    from recon.fleet.ray_cluster import RayCluster
    from recon.fleet.store import FleetStore, Job, State

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Map many sources on many machines: run, status, merge, locate."
)
FAILED = 1
NAME_WIDTH = 28
MERGE_MEMORY = 2_000_000_000  # bytes; measured with parts of a few hundred frames
Store = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a fleet's run.")]


@app.command(options_metavar="--out STORE [OPTIONS]")
def run(
    sources: Annotated[
        str, typer.Argument(metavar="LIST", help="Folder, quoted pattern, or CSV with source,name,options.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="STORE", help="Folder that all machines share.")],
    address: Annotated[
        str | None, typer.Option(metavar="RAY", help="Ray cluster, or auto.  [default: start Ray here]")
    ] = None,
    options: Annotated[str, typer.Option(metavar="TEXT", help='Options of recon run, such as "--size 640".')] = "",
    part_frames: Annotated[
        int | None, typer.Option(help="Cut longer sources into parts, merged afterwards.  [default: cut none]")
    ] = None,
    cpus: Annotated[float, typer.Option(min=1, help="Processors per source.")] = 2,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts after a crash or a lost machine.")] = 2,
) -> None:
    """Map every source of LIST into STORE, each as a task of Ray.

    Finished maps are skipped, others resumed. A source that fails is reported and stops no other; the exit code is
    then 1. Watch with recon fleet status STORE.
    """
    from recon.core.files import make_folder
    from recon.fleet.cutting import jobs_of
    from recon.fleet.driver import Driver
    from recon.fleet.listing import read_list
    from recon.fleet.store import FleetStore
    from recon.store.lock import sole_writer

    listed = read_list(sources, _split(options))
    for one in listed:
        _arguments(one.source, one.options)  # an option that does not exist is an error before anything starts
    store = FleetStore(out.absolute())
    make_folder(out)
    with sole_writer(store.folder, "recon fleet run"), ended_with(lambda: _interrupted(out)):
        jobs = [job for one in listed for job in jobs_of(one, store.folder / "parts", part_frames)]
        store.extend(jobs)
        store.reset(jobs)
        left = sum(store.state(job.name).phase != "done" for job in jobs)
        typer.echo(f"{len(jobs) - left} of {len(jobs)} maps are finished.")
        if left:
            cluster = _cluster(store, retries, address)
            try:
                Driver(store, cluster, lambda job: _need(job, cpus), _tell).drive(jobs)
            finally:
                cluster.close()
    failed = _print_status(store, jobs)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def status(folder: Store) -> None:
    """Show how far the sources of a fleet are, while it runs or afterwards, from any machine."""
    from recon.fleet.store import FleetStore

    store = FleetStore(folder)
    _print_status(store, list(store.jobs()))


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise SettingsError(f"--options cannot be read ({error}): {options}.") from error


def _arguments(source: str, options: tuple[str, ...]) -> dict[str, object]:
    """The options of ``recon run``, parsed. Raises typer.BadParameter and its like for those that do not exist."""
    import click
    from typer.main import get_command

    from cli import run as runs

    alone = typer.Typer()
    alone.command()(runs.plan)
    command = get_command(alone)
    try:
        found = command.make_context("recon run", [source, *options]).params
    except click.ClickException as error:
        raise SettingsError(f"The options of {source} cannot work: {one_line(error.format_message())}") from error
    for name, value in (("overwrite", found["overwrite"]), ("resume", found["resume"]), ("out", found["out"])):
        if value:
            raise SettingsError(f"The options of {source} cannot hold --{name}: recon fleet run decides it.")
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


def _cluster(store: FleetStore, retries: int, address: str | None) -> RayCluster:
    try:
        from recon.fleet.ray_cluster import RayCluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise DependencyError(
            "recon fleet run needs the package ray, which is not installed. Install it with: pip install '.[fleet]'"
        ) from error
    return RayCluster(store.folder, retries, address)


def _tell(job: Job, state: State) -> None:
    typer.echo(_line(job, state))


def _line(job: Job, state: State) -> str:
    phase = "lost" if state.is_lost else state.phase
    rate = f"{state.frames / state.seconds:.1f} frames/s" if state.frames and state.seconds else ""
    words = f"{job.name:<{NAME_WIDTH}}  {phase:<7}  {state.frames:>6} frames  {rate:>13}"
    where = f"on {state.host}" if phase == "running" else ""
    return "  ".join(filter(None, (words.rstrip(), where, one_line(state.sentence)))).rstrip()


def _print_status(store: FleetStore, jobs: list[Job]) -> int:
    """Print a line for every map that is not done, or for all if they are few, and the sums; returns those failed."""
    states = {job.name: store.state(job.name) for job in jobs}
    for job in jobs:
        typer.echo(_line(job, states[job.name]))
    counts = Counter("lost" if state.is_lost else state.phase for state in states.values())
    frames, seconds = (sum(getattr(state, name) for state in states.values()) for name in ("frames", "seconds"))
    rate = f", {frames / seconds:.1f} a second of work" if seconds else ""
    phases = ", ".join(f"{counts[phase]} {phase}" for phase in ("done", "running", "waiting", "lost", "failed"))
    typer.echo(f"{len(jobs)} maps: {phases}. {frames} frames{rate}.")
    return counts["failed"]


def _interrupted(out: Path) -> str:
    return (
        f"Interrupted. Finished chunks are kept; the same command continues, recon fleet status {out} shows the rest."
    )
