"""``recon bench``: measure the pipeline beside plain COLMAP on real sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.text import print_rows

FELL_SHORT = 1

app = typer.Typer(no_args_is_help=True, help="Measure the program on real sequences.")


@app.callback()
def bench() -> None:
    """Measure the program on real sequences."""


@app.command("real")
def real(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder that holds the sequences.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results and runs go; replaced.")] = Path("out/bench"),
    sets: Annotated[str | None, typer.Option(metavar="A,B", help="Only these sets; all without it.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each program; the table gives medians.")] = 1,
) -> None:
    """Run recon and plain COLMAP in turn on each set and compare them. Exits with 1 when recon falls short."""
    from recon.benchmark.measure import SetResult, measure_set
    from recon.benchmark.sets import chosen_sets
    from recon.benchmark.tables import BenchmarkResult, circumstances, to_markdown, write_results
    from recon.store import make_folder

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
