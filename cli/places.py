"""``recon places``: search a folder of photographs with a photograph."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from cli.text import print_rows
from recon.core.quantities import counted

if TYPE_CHECKING:
    from recon.settings import PlaceSettings
    from retrieval.collection import Collection, Match

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Recognise places: build, query, eval.")
Descriptor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="xfeat-vlad, vlad (classical, for similar light), ImAge.  [default: xfeat-vlad if installed, else vlad]",
    ),
]
Weights = Annotated[str | None, typer.Option(metavar="NAME|PATH", help="Weights of ImAge.")]
Device = Annotated[str, typer.Option(help="Device for the network: auto, cpu, cuda...")]
DEFAULT_FOLDER = "places"


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Image folder, searched recursively.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the index.")] = Path(DEFAULT_FOLDER),
    descriptor: Descriptor = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Build an index of the images in a folder."""
    from retrieval import collection

    built = collection.build(folder, out, _settings(descriptor, weights, device))
    rows = [
        ("images", str(len(built.index))),
        ("descriptor", f"{built.describer.name}, {built.describer.dim} values"),
        ("index", str(out)),
    ]
    rows += _left_out(built)
    print_rows("Places", rows)
    _note_missing_weights(descriptor, weights)


@app.command()
def query(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Photograph of the place.")],
    count: Annotated[int, typer.Option("--top", min=1, help="Number of matches.")] = 5,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the query and its matches into this file.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Find the images most similar to IMAGE.

    In similar light, the classical descriptor orders the images. Where it is unsure, the ten images most similar by
    xfeat-vlad are ordered by the points that they share with IMAGE.
    """
    from retrieval.collection import read_image
    from retrieval.place_search import open_search
    from retrieval.reranking import CONFIRMED

    search, notice = open_search(index, device)
    if notice:
        typer.echo(f"note: {notice}", err=True)
    answer = search.query(read_image(image), count)
    matches = answer.matches
    print_rows(f"Matches by {answer.describer}", [(f"{match.similarity:.3f}", _text(match)) for match in matches])
    if (most := matches[0].points) is not None and most < CONFIRMED:
        typer.echo(f"note: No image shares {CONFIRMED} points with {image}: it may show another place.", err=True)
    if sheet is not None:
        _write_sheet(sheet, image, matches)
        typer.echo(f"Picture: {sheet}")


@app.command("eval")
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder with database/ and queries/; UTM coordinates in file names."),
    ],
    descriptor: Descriptor = None,
    weights: Weights = None,
    device: Device = "auto",
    by_similarity: Annotated[
        bool, typer.Option("--by-similarity", help="Order by the descriptor alone, not as query does; takes less time.")
    ] = False,
) -> None:
    """Measure recall@1, 5 and 10 within 25 m."""
    from retrieval.benchmark import check_layout, evaluate_folder
    from retrieval.collection import build
    from retrieval.place_search import PlaceSearch, open_search

    check_layout(folder)
    with TemporaryDirectory() as built:
        database = build(folder / "database", Path(built), _settings(descriptor, weights, device))
        search = PlaceSearch(database) if by_similarity else open_search(Path(built), device)[0]
        result = evaluate_folder(folder, search)
    describer = database.describer
    rows = [(f"recall@{rank}", f"{share:.1%}") for rank, share in result.recall.items()]
    rows += [("queries", f"{result.queries}, plus {result.left_out} without a correct image in the database")]
    rows += [("database", counted(result.database, "image")), ("descriptor", describer.name)]
    rows += [("an image", f"{4 * describer.dim / 1024:.0f} KB, {result.milliseconds:.0f} ms of processor time")]
    print_rows("Recall", rows + _left_out(database))
    _note_missing_weights(descriptor, weights)


def _settings(descriptor: str | None, weights: str | None, device: str) -> PlaceSettings:
    from recon.settings import PlaceSettings
    from retrieval.describer import for_photographs

    return for_photographs(PlaceSettings(descriptor or "", weights or "", device))


def _left_out(built: Collection) -> list[tuple[str, str]]:
    """A row about the images that could not be read, if there are any."""
    unread = built.unread
    return [("left out", f"{counted(len(unread), 'unreadable image')}, the first {unread[0]}")] if unread else []


def _text(match: Match) -> str:
    return str(match.path) if match.points is None else f"{match.path}  {match.points} shared points"


def _note_missing_weights(descriptor: str | None, weights: str | None) -> None:
    """Print a note if places would be recognised better with a package that is not installed. Printed last, so that an
    error is the only sentence.
    """
    from recon.settings import PlaceSettings
    from retrieval.describer import what_is_missing

    if missing := what_is_missing(PlaceSettings(descriptor or "", weights or "")):
        typer.echo(f"note: {missing}", err=True)


def _write_sheet(path: Path, image: Path, matches: list[Match]) -> None:
    """Draw the query and its matches; images deleted since then are skipped."""
    from retrieval.collection import read_image
    from retrieval.contact_sheet import write_contact_sheet

    present = [match for match in matches if match.path.is_file()]
    pictures = [(read_image(image), f"query {image.name}")]
    pictures += [(read_image(match.path), f"{match.similarity:.3f} {match.path.name}") for match in present]
    write_contact_sheet(path, pictures)
