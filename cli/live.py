"""``recon live``: reconstruct while images arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.ending import ended_by_user
from cli.options import (
    Arithmetic,
    CameraCount,
    DenseDepth,
    Device,
    Every,
    Features,
    Fps,
    Intrinsics,
    Keyframes,
    Lens,
    Loops,
    MaxFrames,
    Out,
    Overwrite,
    PlaceDescriptor,
    PlaceWeights,
    Quality,
    Refine,
    Resume,
    Size,
    Tracking,
    Viewer,
    WebHost,
    Weights,
    chosen_lens,
)
from cli.run import chosen_viewers, conclude, listening, open_recogniser
from cli.text import print_rows

if TYPE_CHECKING:
    from recon.sources import SourceDescription

SOURCE_HELP = "Camera number or /dev path, stream URL, folder (--watch), or video (--realtime)."


def live(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    *,
    out: Out,
    watch: Annotated[bool, typer.Option("--watch", help="Read images as they arrive in the folder SOURCE.")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play the video SOURCE at its own speed.")] = False,
    reconnect: Annotated[float, typer.Option(help="Seconds to keep trying a lost camera or stream.")] = 120.0,
    fps: Fps = None,
    every: Every = 1,
    max_frames: MaxFrames = None,
    keyframes: Keyframes = "auto",
    longest_side: Size = 640,
    chunk: Annotated[int, typer.Option(help="Frames per chunk; smaller chunks appear sooner.")] = 24,
    overlap: Annotated[int, typer.Option(help="Frames shared with the previous chunk.")] = 8,
    camera_model: Lens = None,
    cameras: CameraCount = "auto",
    intrinsics: Intrinsics = None,
    weights: Weights = None,
    arithmetic: Arithmetic = None,
    device: Device = "auto",
    loops: Loops = True,
    place_descriptor: PlaceDescriptor = None,
    place_weights: PlaceWeights = None,
    refine: Refine = "auto",
    depth: DenseDepth = "filled",
    quality: Quality = "normal",
    features: Features = "auto",
    tracking: Tracking = True,
    viewer: Viewer = None,
    web_host: WebHost = "127.0.0.1",
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Reconstruct a camera, stream or growing folder live.

    The map grows in DIR while images arrive. Press q or Ctrl-C to finish.
    """
    from recon.core.workers import workers_of_environment
    from recon.folder import refuse_own_outputs, require_usable
    from recon.settings import NetworkSettings, PlaceSettings, RunSettings
    from recon.sources import SourceOptions, open_live_source
    from recon.store.map import incoming_folder

    viewers = chosen_viewers(viewer, web_host)
    refuse_own_outputs(source, out)
    if not resume:
        require_usable(out, overwrite=overwrite)
    options = SourceOptions(every, fps, max_frames, longest_side, None, keyframes, cameras)
    incoming = incoming_folder(out, resume=resume)
    opened = open_live_source(source, options, incoming, watch=watch, realtime=realtime, patience=reconnect)
    model, camera = chosen_lens(intrinsics, camera_model, opened.description.sizes)
    network = NetworkSettings(weights, arithmetic, device) if weights else None
    places = PlaceSettings(place_descriptor or "", place_weights or "", device) if loops else None
    settings = RunSettings(
        options,
        chunk,
        overlap,
        model,
        camera,
        overwrite,
        resume,
        network,
        refine=refine,
        depth=depth,
        quality=quality,
        features=features,
        places=places,
        tracking=tracking,
    )
    _print_source(source, opened.description, settings.chunk)
    with workers_of_environment() as workers:
        recogniser = open_recogniser(settings, workers)
        ended = ended_by_user(opened.stop, elsewhere=workers.separate)
        with listening(out, None, viewers, web_host) as listeners, ended as ending:
            from recon.pipeline import reconstruct_source

            report = reconstruct_source(
                source, opened, out, settings, listeners=listeners, recogniser=recogniser, workers=workers
            )
    conclude(report, out, ending)


def _print_source(source: str, description: SourceDescription, chunk: int) -> None:
    size = "{}x{}".format(*description.sizes[0]) if description.sizes else "the size of the first image"
    rows = [
        (description.kind, source),
        ("frames", f"as they arrive, processed at {size}"),
        ("chunks", f"up to {chunk} frames"),
        ("until", "q or Ctrl-C; Ctrl-C again skips the final bundle adjustment"),
    ]
    print_rows("Live", rows)
