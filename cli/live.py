"""``recon live``: reconstruct while images arrive."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.ending import ended_before_the_run, ended_by_user
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
    Overwrite,
    PlaceDescriptor,
    PlaceWeights,
    Precision,
    Quality,
    Refine,
    Resume,
    Size,
    Tracking,
    Viewer,
    ViewerName,
    WebHost,
    Weights,
    chosen_lens,
)
from cli.phone import NAME, opened_phone
from cli.run import chosen_viewers, conclude, listening, open_recogniser
from cli.text import print_rows
from recon.core.errors import SettingsError
from recon.core.lens_names import MODELS

if TYPE_CHECKING:
    from recon.core.events import Listener
    from recon.sources import SourceDescription, SourceOptions

SOURCE_HELP = "Camera number or /dev path, stream URL, folder (--watch), or video (--realtime); none with --phone."


def live(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)] = None,
    *,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder, unless --map names a map.")] = None,
    known: Annotated[
        Path | None, typer.Option("--map", metavar="MAP", help="Locate the camera in this finished map, and extend it.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Read images as they arrive in the folder SOURCE.")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play the video SOURCE at its own speed.")] = False,
    phone: Annotated[bool, typer.Option("--phone", help="Use a phone as the camera, through a web page.")] = False,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address for --phone.  [default: that of the local network]")
    ] = None,
    reconnect: Annotated[float, typer.Option(help="Seconds to keep trying a lost camera, stream or phone.")] = 120.0,
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
    precision: Precision = "float32",
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
    """Reconstruct live from a camera, phone, stream or folder.

    The map grows in DIR while images arrive. Press q or Ctrl-C to finish. With --map, nothing changes unless one of the
    first 20 images is of the place.
    """
    from recon.core.workers import workers_of_environment
    from recon.folder import finish_moving, refuse_own_outputs, require_usable
    from recon.settings import NetworkSettings, PlaceSettings, RunSettings
    from recon.sources import SourceOptions, open_live_source
    from recon.store.journal import require_run
    from recon.store.map import incoming_folder

    source = _source(source, known, phone=phone, host=host, of_files=watch or realtime)
    out, resume = _folder(out, known, overwrite=overwrite), resume or known is not None
    viewers = chosen_viewers(viewer, web_host)
    refuse_own_outputs(source, out)
    if not resume:
        require_usable(out, overwrite=overwrite)
    options = SourceOptions(every, fps, max_frames, longest_side, None, keyframes, cameras)
    if known:
        lens = {"intrinsics": intrinsics, "model": MODELS[camera_model] if camera_model else None}
        _find_camera(known, source, options, watch=watch, realtime=realtime, **lens)
    elif resume:
        finish_moving(out)
        require_run(out)  # before anything is opened
    incoming = incoming_folder(out, resume=resume)
    network = NetworkSettings(weights, arithmetic, device, precision=precision) if weights else None
    places = PlaceSettings(place_descriptor or "", place_weights or "", device) if loops else None
    with workers_of_environment() as workers, ExitStack() as stack:
        screens: list[Listener] = []
        if phone:
            opened, screen = stack.enter_context(
                opened_phone(options, incoming, host=host, patience=reconnect, elsewhere=workers.separate)
            )
            screens.append(screen)
        else:
            opened = open_live_source(source, options, incoming, watch=watch, realtime=realtime, patience=reconnect)
        model, camera = chosen_lens(intrinsics, camera_model, opened.description)
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
            watched=phone or any(one not in (ViewerName.NONE, ViewerName.RECORD) for one in viewers),
        )
        _print_source(source, opened.description, settings.chunk)
        recogniser = open_recogniser(settings, workers)
        ended = ended_by_user(opened.stop, elsewhere=workers.separate)
        with listening(out, None, viewers, web_host) as listeners, ended as ending:
            from recon.pipeline import reconstruct_source

            report = reconstruct_source(
                source,
                opened,
                out,
                settings,
                listeners=[*listeners, *screens],
                recogniser=recogniser,
                workers=workers,
            )
    conclude(report, out, ending)


def _source(source: str | None, known: Path | None, *, phone: bool, host: str | None, of_files: bool) -> str:
    """The name of the source. Raises SettingsError unless either SOURCE or ``--phone`` gives it, with its own options.

    of_files: whether ``--watch`` or ``--realtime`` is given.
    """
    if not phone and host:
        raise SettingsError("--host sets the address of --phone: add --phone.")
    if not phone and source is None:
        raise SettingsError("Give SOURCE, a camera, stream, folder or video, or --phone.")
    if not phone:
        return str(source)
    if source is not None or of_files:
        raise SettingsError("--phone is a source itself: omit SOURCE, --watch and --realtime.")
    if known:
        raise SettingsError(
            f"--map cannot be combined with --phone. With --out {known} --resume, the camera is located as it goes."
        )
    return NAME


def _folder(out: Path | None, known: Path | None, *, overwrite: bool) -> Path:
    """The folder of the run. Raises SettingsError unless either ``--out`` or ``--map`` names it."""
    folder = out or known
    if folder is None or (out and known):
        raise SettingsError("Give --out for a new map, or --map to extend a finished one.")
    if known and overwrite:
        raise SettingsError("--map extends a map that --overwrite would replace. Use only one of them.")
    return folder


def _find_camera(folder: Path, source: str, options: SourceOptions, **how: Any) -> None:
    """Find the camera in a map that can be extended; see ``retrieval.arrival.find_camera``."""
    from cli.progress import StageBar
    from recon.core.workers import workers_of_environment
    from recon.store.journal import require_run
    from recon.store.map import open_map

    open_map(folder).require_finished()
    require_run(folder)
    with workers_of_environment() as workers, ended_before_the_run(elsewhere=workers.separate), StageBar() as bar:
        workers.listener = bar
        workers.call("geometry", "retrieval.arrival:find_camera", folder, source, options, workers.tell, **how)


def _print_source(source: str, description: SourceDescription, chunk: int) -> None:
    size = "{}x{}".format(*description.sizes[0]) if description.sizes else "the size of the first image"
    rows = [
        (description.kind, source),
        ("frames", f"as they arrive, processed at {size}"),
        ("chunks", f"up to {chunk} frames"),
        ("until", "q or Ctrl-C; Ctrl-C again skips the final bundle adjustment"),
    ]
    print_rows("Live", rows)
