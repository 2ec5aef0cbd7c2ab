"""``recon bench``: the measurements quoted in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from cli.text import print_rows
from recon.core.errors import SettingsError
from recon.lab.benchmark.clock import Clock

Name = TypeVar("Name", bound=str)

FELL_SHORT = 1
ClockOption = Annotated[Clock, typer.Option(help="Wall time, or processor time for a busy machine.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run the benchmarks.")


@app.command()
def real(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of the sequences.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for results and runs; replaced.")] = Path(
        "out/bench"
    ),
    sets: Annotated[str | None, typer.Option(metavar="A,B", help="Sets to measure.  [default: all]")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs per program; the table shows medians.")] = 1,
) -> None:
    """Compare recon with plain COLMAP on real sequences.

    Runs both in turn on each set. Exits with 1 if recon misses a requirement.
    """
    from recon.core.files import make_folder
    from recon.lab.benchmark.measure import SetResult, measure_set
    from recon.lab.benchmark.sets import chosen_sets
    from recon.lab.benchmark.tables import BenchmarkResult, circumstances, to_markdown, write_results

    chosen = chosen_sets(sets)
    make_folder(out)
    where = circumstances()
    results: list[SetResult] = []
    for member in chosen:
        results.append(measure_set(member, data, out, repeat, lambda sentence: typer.echo(sentence, err=True)))
        result = BenchmarkResult(where, repeat, tuple(results))
        write_results(result, out)  # after every set: an interrupted benchmark keeps what it has
    typer.echo(to_markdown(result))
    print_rows("Files", [("results", str(out / "results.json")), ("table", str(out / "results.md"))])
    if any(member.shortfalls for member in results):
        raise typer.Exit(FELL_SHORT)


@app.command()
def live(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of the sequences.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the videos, runs, live.md and live.json.")],
    sets: Annotated[str, typer.Option(metavar="A,B", help="Sets to stream.")] = "seven-scenes,hololens-000,kitti03",
    images: Annotated[
        int | None, typer.Option(min=10, help="Images of a video, the set back and forth.  [default: the set once]")
    ] = None,
    rate: Annotated[int, typer.Option(min=1, help="Images a second.")] = 10,
    watched: Annotated[bool, typer.Option("--watched", help="With the web viewer and a recording.")] = False,
    known_lens: Annotated[bool, typer.Option("--known-lens", help="Give the sets' calibration.")] = False,
) -> None:
    """Measure delays, memory and errors of live runs.

    Makes a video of each set and runs it in real time.
    """
    from recon.lab.benchmark import live as benchmark
    from recon.lab.benchmark.sets import chosen_sets

    settings = benchmark.LiveSettings(images, rate, watched, known_lens)
    results: list[benchmark.LiveResult] = []
    for member in chosen_sets(sets):
        results.append(benchmark.measure(member, data, out, settings))
        benchmark.write_results(results, settings, out)
    typer.echo(benchmark.table(results))


@app.command()
def stages(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Images or video to run, or the folder of a run.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for stages.md, stages.png and the run.")],
) -> None:
    """Show where a run spends its processor time.

    Reads the report of a finished run, or runs recon on SOURCE first.
    """
    from recon.core.files import make_folder
    from recon.lab.benchmark import stages as benchmark

    make_folder(out)
    report = benchmark.measure(source, out)
    benchmark.write_results(report, out)
    typer.echo(benchmark.table(report))


@app.command()
def scaling(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for scaling.json, scaling.md and scaling.png.")],
    shape: Annotated[Literal["compact", "vggt-1b"], typer.Option(help="Network size.")] = "compact",
    device: Annotated[str, typer.Option(help="Device for the network: auto, cpu, cuda...")] = "auto",
    frames: Annotated[str, typer.Option(help="Frame counts, separated by commas.")] = "8,16,32,64,128",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Any of dense, descriptors, published stream, our stream; separated by commas.  [default: all]"
        ),
    ] = None,
    chunk: Annotated[int, typer.Option(help="Frames per chunk in streams.")] = 8,
    memory_frames: Annotated[int, typer.Option(help="Earlier frames that our stream keeps.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs per case; slow cases get fewer.")] = 3,
    clock: ClockOption = "wall",
) -> None:
    """Measure how the time of the network grows with frames.

    Compares dense attention, descriptors, the published stream and ours.
    """
    from recon.core.files import make_folder
    from recon.lab.benchmark import scaling as benchmark
    from recon.network.runtime import choose_device

    settings = benchmark.ScalingSettings(
        shape=shape,
        frames=_numbers(frames),
        methods=_chosen(methods, benchmark.METHODS, "--methods"),
        chunk=chunk,
        memory_frames=memory_frames,
        repeats=repeats,
        clock=clock,
    )
    make_folder(out)
    for measured in benchmark.measure(settings, choose_device(device)):
        typer.echo(benchmark.describe(measured.cases[-1]), err=True)
        benchmark.write_results(measured, out)  # after every case: an interrupted benchmark keeps what it has
    typer.echo(benchmark.table(measured))


@app.command()
def precision(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for precision.json and .md, and drawn weights.")],
    shape: Annotated[Literal["compact", "vggt-1b"], typer.Option(help="Network size.")] = "vggt-1b",
    device: Annotated[str, typer.Option(help="Device for the network: cpu, cuda...")] = "cpu",
    sizes: Annotated[str, typer.Option(metavar="WxH,...", help="Image sizes, multiples of 14.")] = "210x154,518x392",
    forms: Annotated[
        str | None,
        typer.Option(help="Any of float32, bfloat16, int8, layer by layer; separated by commas.  [default: all]"),
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames of the stream.")] = 4,
    chunk: Annotated[int, typer.Option(help="Frames per chunk.")] = 2,
    clock: ClockOption = "wall",
) -> None:
    """Measure memory and time of the network by precision.

    Compares float32, bfloat16, int8, and float32 read layer by layer.
    """
    from cli.ending import ended_with
    from recon.core.files import make_folder
    from recon.lab.benchmark import precision as benchmark

    settings = benchmark.PrecisionSettings(
        shape=shape,
        sizes=benchmark.read_sizes(sizes),
        forms=_chosen(forms, benchmark.FORMS, "--forms"),
        frames=frames,
        chunk=chunk,
        device=device,
        clock=clock,
    )
    make_folder(out)
    said = "Interrupted: the drawn weights are deleted, and the finished cases are kept."
    with ended_with(lambda: said), closing(benchmark.measure(settings, out)) as measuring:
        for measured in measuring:
            typer.echo(benchmark.describe(measured.cases[-1], chunk), err=True)
            benchmark.write_results(measured, out)  # after every case: an interrupted benchmark keeps what it has
    typer.echo(benchmark.table(measured))


@app.command()
def index(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.json and index.md.")],
    counts: Annotated[str, typer.Option(help="Descriptor counts, separated by commas.")] = "10000,100000,1000000",
    dim: Annotated[int, typer.Option(help="Length of the descriptors.")] = 512,
    queries: Annotated[int, typer.Option(help="Queries to time.")] = 200,
    clock: ClockOption = "wall",
) -> None:
    """Measure the place index on synthetic descriptors.

    Reports build time, query time, recall@10 and memory.
    """
    from recon.core.files import make_folder
    from retrieval.lab import index_benchmark as benchmark

    settings = benchmark.IndexBenchmark(_numbers(counts, "--counts"), dim, queries, clock)
    make_folder(out)
    cases = benchmark.measure(settings, lambda sentence: typer.echo(sentence, err=True))
    benchmark.write_results(cases, settings, out)
    typer.echo(benchmark.table(cases))


@app.command("place-store")
def place_store(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for place-store.json, place-store.md and stores.")],
    counts: Annotated[str, typer.Option(help="Row counts, separated by commas.")] = "100000,1000000",
    dim: Annotated[int, typer.Option(help="Length of the descriptors.")] = 512,
    queries: Annotated[int, typer.Option(help="Queries to time.")] = 100,
) -> None:
    """Measure both engines of the place store of a fleet.

    Reports times, recall against exact search, two writers at once, a killed writer. Exits with 1 if a map is lost.
    """
    from recon.core.files import make_folder
    from retrieval.lab import place_store_benchmark as benchmark

    settings = benchmark.PlaceStoreBenchmark(_numbers(counts, "--counts"), dim=dim, queries=queries)
    make_folder(out)
    cases = benchmark.measure(settings, out, lambda row: typer.echo(row, err=True))
    benchmark.write_results(cases, settings, out)
    typer.echo(benchmark.table(cases))
    if any(case.lost or case.torn for case in cases):
        raise typer.Exit(FELL_SHORT)


@app.command()
def walk(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for walk.json, walk.md and the map.")],
    frames: Annotated[int, typer.Option(min=100, help="Frames to render.")] = 2000,
    laps: Annotated[int, typer.Option(min=1, help="Laps around the room.")] = 4,
) -> None:
    """Measure how loop closing corrects a drifting walk.

    Renders a walk through a room; reports error and memory with and without loops.
    """
    from recon.lab.benchmark import walk as benchmark
    from retrieval.recogniser import LoopFinder

    settings = benchmark.WalkSettings(frames, laps)
    result = benchmark.measure(
        settings, out, LoopFinder(), lambda at: typer.echo(f"{at.frames} of {frames} frames", err=True)
    )
    benchmark.write_results(result, out)
    typer.echo(benchmark.table(result))


@app.command()
def locate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of the sequences, as for bench real.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for locate.json, locate.md, maps and pictures.")],
    sets: Annotated[str, typer.Option(metavar="A,B", help="Sets to map and locate photos in.")] = "seven-scenes,sample",
) -> None:
    """Measure how well photos are located in a map.

    Maps every second frame of each set, unless DIR has that map, and locates the others. Also locates 200 photos of
    other places, half of them rendered; exits with 1 if one is accepted.
    """
    from recon.core.files import make_folder
    from recon.lab.benchmark.sets import chosen_sets
    from retrieval.lab import locate_benchmark as benchmark

    make_folder(out)
    results: list[benchmark.LocateResult] = []
    for member in chosen_sets(sets):
        results.append(benchmark.measure(member, data, out, lambda sentence: typer.echo(sentence, err=True)))
        benchmark.write_results(results, out)  # after every set: an interrupted benchmark keeps what it has
    typer.echo(benchmark.table(results))
    if any(result.accepted for result in results):
        raise typer.Exit(FELL_SHORT)


def _chosen(text: str | None, known: Sequence[Name], option: str) -> tuple[Name, ...]:
    """Those of the known names that a text lists, in their order; all without a text. Raises SettingsError."""
    names: Sequence[str] = text.split(",") if text else known
    unknown = set(names).difference(known)
    if unknown:
        raise SettingsError(f"{option} takes {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    return tuple(name for name in known if name in names)


def _numbers(text: str, option: str = "--frames") -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{option} takes numbers such as 8,16,32; got {text}.") from error
