"""``recon bench``: measurements that the documentation quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.text import print_rows
from recon.core.errors import SettingsError
from recon.lab.benchmark.clock import Clock

FELL_SHORT = 1
ClockOption = Annotated[Clock, typer.Option(help="Processor time is for machines with other work.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure this program on this machine.")


@app.command()
def real(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that holds the sequences.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and runs go; replaced.")] = Path("out/bench"),
    sets: Annotated[str | None, typer.Option(metavar="A,B", help="Only these sets; all without it.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each program; the table gives medians.")] = 1,
) -> None:
    """Compare recon with plain COLMAP on real sequences.

    Runs both in turn on each set. Exits with 1 when recon falls short.
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
def scaling(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for scaling.json, scaling.md and scaling.png.")],
    shape: Annotated[Literal["compact", "vggt-1b"], typer.Option(help="Size of the network.")] = "compact",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda...")] = "auto",
    frames: Annotated[str, typer.Option(help="Numbers of frames, separated by commas.")] = "8,16,32,64,128",
    methods: Annotated[
        str | None, typer.Option(help="Some of: dense, descriptors, published stream, our stream; with commas.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Frames per chunk of the streams.")] = 8,
    memory_frames: Annotated[int, typer.Option(help="Earlier frames that our stream remembers.")] = 32,
    repeats: Annotated[int, typer.Option(help="Runs per case; fewer for slow ones.")] = 3,
    clock: ClockOption = "wall",
) -> None:
    """Time the network against the number of frames.

    By method: dense, descriptors, the published stream, ours.
    """
    from recon.core.files import make_folder
    from recon.lab.benchmark import scaling as benchmark
    from recon.network.runtime import choose_device

    chosen = methods.split(",") if methods else benchmark.METHODS
    unknown = set(chosen) - set(benchmark.METHODS)
    if unknown:
        raise SettingsError(f"--methods knows {', '.join(benchmark.METHODS)}, got {', '.join(sorted(unknown))}.")
    settings = benchmark.ScalingSettings(
        shape=shape,
        frames=_numbers(frames),
        methods=tuple(method for method in benchmark.METHODS if method in chosen),
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
def index(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for index.json and index.md.")],
    counts: Annotated[str, typer.Option(help="Numbers of descriptors, separated by commas.")] = "10000,100000,1000000",
    dim: Annotated[int, typer.Option(help="Length of the descriptors.")] = 512,
    queries: Annotated[int, typer.Option(help="How many queries are timed.")] = 200,
    clock: ClockOption = "wall",
) -> None:
    """Time the place index on made-up descriptors.

    Measures build, query, recall@10 and memory.
    """
    from recon.core.files import make_folder
    from retrieval.lab import index_benchmark as benchmark

    settings = benchmark.IndexBenchmark(_numbers(counts, "--counts"), dim, queries, clock)
    make_folder(out)
    cases = benchmark.measure(settings, lambda sentence: typer.echo(sentence, err=True))
    benchmark.write_results(cases, settings, out)
    typer.echo(benchmark.table(cases))


@app.command()
def walk(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for walk.json, walk.md and the map.")],
    frames: Annotated[int, typer.Option(min=100, help="Length of the walk.")] = 2000,
    laps: Annotated[int, typer.Option(min=1, help="How often it goes around the room.")] = 4,
) -> None:
    """Measure what loops mend on a walk that drifts.

    Walks through a rendered room, with loops and without; tells error and memory.
    """
    from recon.lab.benchmark import walk as benchmark
    from retrieval.recogniser import LoopFinder

    settings = benchmark.WalkSettings(frames, laps)
    result = benchmark.measure(
        settings, out, LoopFinder(), lambda at: typer.echo(f"{at.frames} of {frames} frames", err=True)
    )
    benchmark.write_results(result, out)
    typer.echo(benchmark.table(result))


def _numbers(text: str, option: str = "--frames") -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{option} needs numbers such as 8,16,32, got {text}.") from error
