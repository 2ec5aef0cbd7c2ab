"""``recon lab``: programs that make and measure what the project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run a program of the laboratory.")

Weights = Annotated[
    Path, typer.Argument(metavar="FILE", help="best.pt or checkpoint.pt of a training, or a .safetensors file.")
]
Data = Annotated[Path, typer.Option(envvar="RECON_REAL_DATA", metavar="DIR", help="Folder of the sequences.")]
Preset = Annotated[str, typer.Option(help="Network, sizes and schedule: core, gpu, tiny, compact or compact-tiny.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of every operation on the CPU.")]
Views = Annotated[int, typer.Option(min=0, help="First views of each sequence to use; 0 for all.")]
LongestSide = Annotated[int, typer.Option(min=1, help="Longest side of the views in pixels.")]
REAL_DATA = Path("data/real")
ROOT = Path(__file__).resolve().parents[1]


@app.command()
def train(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run; an existing run continues.")],
    preset: Preset = "core",
    textures: Annotated[Path | None, typer.Option(metavar="DIR", help="Photographs of materials (.jpg).")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Stop after this many minutes; 0 for never.")] = 0.0,
    stages: Annotated[str | None, typer.Option(metavar="0,N,N", help="Steps at which the stages begin.")] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Lower the rate to zero in the last quarter.")] = False,
    start: Annotated[Path | None, typer.Option(metavar="FILE", help="Weights that a new run begins with.")] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda...")] = "cpu",
    threads: Threads = 1,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prepare batches ahead, for a GPU.")] = 0,
) -> None:
    """Train the depth network or the compact network.

    Run the same command again to continue.
    """
    import torch

    from recon.core.files import make_folder
    from recon.lab.training.loop import Limits
    from recon.lab.training.run import chosen_preset, run, with_stages
    from recon.network.runtime import choose_device

    torch.set_num_threads(threads)
    chosen, on = with_stages(chosen_preset(preset), stages), choose_device(device)
    make_folder(out)
    run(
        chosen,
        out,
        on,
        Limits(minutes=minutes, finish=finish),
        typer.echo,
        textures=textures,
        start=start,
        workers=workers,
    )


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the run.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weight file to write (.safetensors).")],
    *,
    preset: Preset = "core",
) -> None:
    """Write the best weights of a training run."""
    from recon.lab.training.pool import CPU
    from recon.lab.training.run import chosen_preset, make_trainer
    from recon.lab.training.run import export as write

    typer.echo(write(make_trainer(chosen_preset(preset), folder, None, CPU), folder / "best.pt", file))


@app.command()
def evaluate_depth(
    weights: Weights, *, data: Data = REAL_DATA, views: Views = 0, longest_side: LongestSide = 320, threads: Threads = 1
) -> None:
    """Compare learned and classical depth on real sequences."""
    from torch import set_num_threads

    from recon.lab.training.evaluate import tables

    set_num_threads(threads)
    for table in tables(weights, data, views, longest_side):
        typer.echo(table)


@app.command()
def evaluate_matches(
    weights: Weights,
    *,
    preset: Preset = "compact",
    data: Data = REAL_DATA,
    least: Annotated[float, typer.Option(min=0, max=1, help="Smallest confidence of a match.")] = 0.1,
    views: Views = 0,
    longest_side: LongestSide = 320,
    threads: Threads = 1,
) -> None:
    """Compare matches with SIFT's on real sequences."""
    from torch import set_num_threads

    from recon.lab.training.evaluate_matches import load_net, tables

    set_num_threads(threads)
    for table in tables(load_net(weights, preset), data, least, views, longest_side):
        typer.echo(table)


@app.command()
def sample(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")],
    moved: Annotated[
        bool, typer.Option("--moved", help="The room after three things were moved, from 53 other places.")
    ] = False,
) -> None:
    """Render the bundled sample."""
    from recon.core.files import make_folder
    from recon.lab.synthetic.look_alikes import MOVED_FRAMES, tidied
    from recon.lab.synthetic.sample import write_sample

    make_folder(out)
    if moved:
        write_sample(out, tidied(), MOVED_FRAMES)
    else:
        write_sample(out)


@app.command()
def twins(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to, a folder for each scene.")],
    seeds: Annotated[int, typer.Option(min=1, help="Scenes of each kind.")] = 7,
    control: Annotated[bool, typer.Option("--control", help="The same scenes with nothing alike.")] = False,
) -> None:
    """Render scenes with places that look alike."""
    from torch import set_num_threads

    from recon.folder import require_outside_maps
    from recon.lab.synthetic.twins import write_twins

    require_outside_maps(out)
    set_num_threads(1)
    write_twins(out, seeds, alike=not control)


@app.command()
def places(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to, a folder for each kind of query.")],
    count: Annotated[int, typer.Option("--places", min=1, help="Places along the street, 10 m apart.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Number of the street.")] = 0,
) -> None:
    """Render places on a street by day and by night.

    recon places eval reads each folder: day, night, night-other-side.
    """
    from torch import set_num_threads

    from recon.folder import require_outside_maps
    from recon.lab.synthetic.places_by_night import write_places

    require_outside_maps(out)
    set_num_threads(1)
    write_places(out, count, seed)


@app.command()
def place_vocabulary(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write, .safetensors.")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images to learn from.")] = Path("data/sample/images"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of vocabularies to learn.")] = 5,
    validation: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Image sequence to choose by, asked by simulated night; repeatable."),
    ] = None,
    every: Annotated[int, typer.Option(min=2, help="Images from one place of a sequence to the next.")] = 6,
    threads: Threads = 1,
) -> None:
    """Learn vocabularies of xfeat-vlad and write the best."""
    from torch import set_num_threads

    from recon.settings import PlaceSettings
    from retrieval.collection import list_images, read_image
    from retrieval.lab.place_vocabulary import learn, recall_by_night
    from retrieval.xfeat_vlad import open_dense_xfeat

    set_num_threads(threads)
    dense, rendered = open_dense_xfeat(PlaceSettings()), [read_image(path) for path in list_images(images)]
    best = -1.0
    for seed in range(seeds):
        learned = learn(rendered, dense, seed)
        found = [recall_by_night(learned.describer(dense), folder, every).recall for folder in validation or []]
        rows = "  ".join(f"{recall[1]:.1%} / {recall[5]:.1%}" for recall in found)
        mean = sum(recall[1] for recall in found) / max(1, len(found))
        typer.echo(f"seed {seed}: recall@1 / @5 by simulated night {rows}  mean {mean:.1%}")
        if mean > best:
            best = mean
            learned.save(out)


@app.command()
def architecture(
    *,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="SVG file to draw to.")] = None,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Checkout to read.  [default: this one]", show_default=False)
    ] = ROOT,
) -> None:
    """Draw the packages and their imports."""
    from recon.core.files import write_atomically
    from recon.lab.architecture import building, imports_of, sources
    from recon.lab.floor_plan import draw

    found = building(imports_of(sources(root)))
    names = ("rooms", "floors", "arrows", "imports", "arrows up or round")
    typer.echo(", ".join(f"{figure} {name}" for figure, name in zip(found.figures(), names, strict=True)))
    for start, end in found.circular:
        typer.echo(f"{start} -> {end}")
    if out:
        write_atomically(out, lambda file: file.write(draw(found).encode()))


@app.command()
def plain_colmap(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder of images or video.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the results.")],
    matching: Annotated[Literal["sequential", "exhaustive"], typer.Option(help="Pairs of images to match.")],
    every: Annotated[int, typer.Option(min=1, help="Use every Nth frame.")] = 1,
) -> None:
    """Reconstruct with plain COLMAP."""
    from recon.lab.benchmark.plain_colmap import reconstruct_plainly

    reconstruct_plainly(source, every, matching, out)


@app.command("check-device")
def check_device(
    *,
    device: Annotated[str, typer.Option(help="Device to check: cpu, cuda...")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Also compile the blocks, which takes minutes.")] = False,
) -> None:
    """Compare a device with the CPU in all that a run uses.

    Exits with 1 if one differs.
    """
    import tempfile

    from recon.lab.benchmark.agreement import agreements
    from recon.network.runtime import choose_device

    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for found in agreements(choose_device(device), Path(folder), compiled=compiled):
            typer.echo(str(found))
            failed |= not found.ok
    if failed:
        raise typer.Exit(1)


@app.command()
def kills(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the maps.")],
    count: Annotated[int, typer.Option(min=1, help="Kills in all.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Number of the sequence of random moments.")] = 0,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images of the sample.")] = ROOT / "data/sample/images",
) -> None:
    """Kill runs, merges and exports, and look what is lost.

    Exits with 1 if anything finished is lost, or a result differs from the undisturbed one.
    """
    from recon.folder import require_empty
    from recon.lab.benchmark.kills import kill_commands

    require_empty(out)
    tally = kill_commands(images, out, count, seed, typer.echo)
    for sentence in tally.lost:
        typer.echo(f"fault: {sentence}")
    if tally.lost:
        raise typer.Exit(1)


@app.command()
def fleet(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the maps.")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images of the sample.")] = ROOT / "data/sample/images",
) -> None:
    """Disturb a fleet of twelve sources on three nodes.

    A worker is killed, a node lost, and a source is no video. Exits with 1 if a map is missing or differs from the one
    made alone.
    """
    from recon.folder import require_empty
    from recon.lab.benchmark.fleet import disturb_fleet

    require_empty(out)
    found = disturb_fleet(images, out, typer.echo)
    differences = [source.difference for source in found.sources if source.difference is not None]
    typer.echo(
        f"{len(differences)} maps, {max(differences, default=0):.1e} of the extent from those made alone at most."
    )
    for sentence in found.faults:
        typer.echo(f"fault: {sentence}")
    if found.faults:
        raise typer.Exit(1)


@app.command("walk-map")
def walk_map(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the map.")],
    frames: Annotated[int, typer.Option(min=2, help="Frames in all.")] = 2000,
    laps: Annotated[int, typer.Option(min=1, help="Laps around the room.")] = 10,
) -> None:
    """Render a walk as a finished map.

    One lap of the sample's room is rendered; the others repeat it. Poses and depth are those of the renderer.
    """
    from torch import set_num_threads

    from recon.folder import require_empty
    from recon.lab.benchmark.walk import write_map

    require_empty(out)
    set_num_threads(1)
    write_map(out, frames, laps)


@app.command("wide-pairs")
def wide_pairs(
    folder: Annotated[Path, typer.Argument(metavar="MAP", help="Finished map with depth.")],
    *,
    reference: Annotated[Path, typer.Option(metavar="FILE", help="True poses in TUM format, by frame number.")],
    count: Annotated[int, typer.Option("--pairs", min=1, help="Pairs to solve.")] = 60,
) -> None:
    """Compare features on pairs of views far apart.

    The views share 10 to 40% of what they see, by the depth of the map.
    """
    from recon.lab.benchmark.wide_pairs import HEADER, measure

    typer.echo(HEADER)
    for result in measure(folder, reference, count):
        typer.echo(result.row())


@app.command()
def splat(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="COLMAP model, such as an export; also DIR/sparse/0.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the figures and the held-out views.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images.  [default: images in DIR]")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Minutes of processor time.")] = 5.0,
    side: Annotated[int, typer.Option(min=16, help="Longest side of the images in pixels.")] = 200,
    points: Annotated[int, typer.Option(min=4, help="Points to begin from, at most.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Seed of the order of views.")] = 0,
    threads: Threads = 1,
) -> None:
    """Train Gaussians from a COLMAP model and measure them.

    Every eighth image is held out.
    """
    import json

    import torch

    from recon.core.files import make_folder
    from recon.lab.splat.training import fit, write_views
    from recon.lab.splat.views import read_scene

    torch.set_num_threads(threads)
    scene = read_scene(folder, images or folder / "images", side)
    make_folder(out)
    found, trainer = fit(scene, minutes, typer.echo, seed=seed, points=points)
    (out / "splat.json").write_text(json.dumps(found.as_row(), indent=2) + "\n")
    write_views(trainer, scene, out)
    typer.echo(
        f"PSNR {found.psnr:.2f} dB on {found.held_out} held-out views of {found.views} (worst {found.worst:.2f}), "
        f"{found.trained:.2f} dB on trained ones; {found.first} to {found.last} Gaussians, {found.steps} steps."
    )
