"""``recon weights``: list, download, verify and import weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.text import print_rows
from recon.core.quantities import size

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Manage network weights: list, pull, verify, import."
)
DAMAGED = 1
Agreed = Annotated[bool, typer.Option("--yes", help="Accept the licence without asking.")]


@app.command("list")
def list_weights() -> None:
    """List known weights and where they are stored."""
    from recon.network.known_weights import KNOWN, stored_path, weights_folder

    rows = []
    for weights in KNOWN.values():
        path = stored_path(weights)
        rows.append((weights.name, f"installed: {path}" if path else "not installed"))
        rows += [("", weights.about), ("", f"licence: {weights.licence}"), ("", weights.page)]
    print_rows(f"Weights, kept in {weights_folder()}", rows)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name from recon weights list.")],
    yes: Agreed = False,
) -> None:
    """Download known weights after you accept the licence."""
    from recon.network import known_weights

    weights = known_weights.known(name)
    print_rows(weights.name, [("licence", weights.licence), ("page", weights.page)])
    if not yes:
        typer.confirm("Do you accept this licence?", abort=True)
    typer.echo(f"Downloaded {known_weights.pull(weights)}")


@app.command()
def verify(file: Annotated[str, typer.Argument(metavar="NAME|PATH", help="Name or file of the weights.")]) -> None:
    """Check that a weight file is complete and fits.

    Exits with 1 if its values or its checksum are wrong.
    """
    from recon.network.architectures import ARCHITECTURES, architecture_of
    from recon.network.checkpoints import read_checkpoint
    from recon.network.known_weights import kept_checksum, published_sha256, resolve, sha256, unusable_tensors
    from retrieval.aggregation import ARCHITECTURE

    path = resolve(file)
    checkpoint = read_checkpoint(path)
    among = ARCHITECTURES | {"ImAge": ARCHITECTURE}  # its check compares all tensors with the network
    kind = architecture_of(checkpoint, among).verify(checkpoint)
    broken, checksum, kept = unusable_tensors(checkpoint), sha256(path), kept_checksum(path) or published_sha256(path)
    rows = [
        ("kind", kind),
        ("parameters", f"{checkpoint.parameters:,} in {len(checkpoint.tensors)} tensors, {size(path.stat().st_size)}"),
        ("values", f"not finite in {', '.join(broken[:5])}" if broken else "all finite"),
        ("sha256", checksum),
        ("kept sha256", kept or "none"),
    ]
    print_rows(str(path), rows)
    if broken or kept not in (None, checksum):
        typer.echo("The file is damaged. Download it again.", err=True)
        raise typer.Exit(DAMAGED)


@app.command("import")
def import_weights(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Weight file, safetensors or PyTorch.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to store it under.  [default: the file name]")
    ] = None,
) -> None:
    """Import a weight file for --weights NAME."""
    from recon.network.known_weights import import_file

    typer.echo(f"Imported as {import_file(path, name)}")
