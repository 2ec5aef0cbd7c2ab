"""``recon run`` and ``recon plan``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.ending import UNWRITTEN, Ending, ended_before_the_run, ended_by_signals
from cli.options import (
    Arithmetic,
    CameraCount,
    Chunk,
    Compile,
    DenseDepth,
    Device,
    Equirectangular,
    Every,
    Features,
    Fps,
    Input,
    Intrinsics,
    Keyframes,
    Lens,
    Loops,
    Masks,
    MaxFrames,
    MaxPoints,
    MemoryFrames,
    MemoryMib,
    Out,
    Overlap,
    Overwrite,
    Pixels,
    PlaceDescriptor,
    PlaceWeights,
    Precision,
    Quality,
    Refine,
    Resume,
    Rig,
    Size,
    Topic,
    Viewer,
    ViewerName,
    Voxel,
    WebHost,
    Weights,
    chosen_lens,
    takes_options_of,
)
from cli.text import print_rows
from recon.core.errors import ReconError, ReconstructionError, SettingsError
from recon.core.quantities import duration, size

if TYPE_CHECKING:
    from recon.core.events import Listener
    from recon.core.places import PlaceRecogniser
    from recon.core.types import SkippedFrame
    from recon.core.workers import Workers
    from recon.plan import Plan
    from recon.settings import RunSettings
    from recon.sources import Source, SourceDescription
    from recon.store.report import RunReport

MAKE_PLAN = "recon.plan:make_plan"
SKIPPED_SHOWN = 5


@dataclass(frozen=True)
class Prepared:
    """A run ready for planning. finished: frame count of the run to resume. keyframe_share: see ``make_plan``. A plan
    may lower the settings."""

    description: SourceDescription
    settings: RunSettings
    finished: int
    keyframe_share: float
    viewers: Sequence[ViewerName]
    web_host: str

    def plan(self, out: Path, workers: Workers) -> Plan:
        """See ``make_plan``; a worker measures the machine, since it needs the same imports for the run."""
        recorded = ViewerName.NONE not in self.viewers
        wanted = self.description, self.settings, out
        progress = {"finished": self.finished, "keyframe_share": self.keyframe_share}
        made: Plan = workers.call("geometry", MAKE_PLAN, *wanted, recorded=recorded, **progress)
        return made


def prepare(
    source: str,
    out: Path,
    *,
    fps: Fps = None,
    every: Every = 1,
    max_frames: MaxFrames = None,
    keyframes: Keyframes = "auto",
    longest_side: Size = 1024,
    masks: Masks = None,
    topic: Topic = None,
    equirectangular: Equirectangular = False,
    rig: Rig = None,
    chunk: Chunk = 60,
    overlap: Overlap = 12,
    camera_model: Lens = None,
    cameras: CameraCount = "auto",
    intrinsics: Intrinsics = None,
    weights: Weights = None,
    arithmetic: Arithmetic = None,
    device: Device = "auto",
    pixels: Pixels = 518 * 392,
    memory_frames: MemoryFrames = 64,
    memory_mib: MemoryMib = None,
    compile_network: Compile = False,
    precision: Precision = "float32",
    loops: Loops = True,
    place_descriptor: PlaceDescriptor = None,
    place_weights: PlaceWeights = None,
    refine: Refine = "auto",
    depth: DenseDepth = "filled",
    quality: Quality = "normal",
    features: Features = "auto",
    voxel: Voxel = None,
    max_points: MaxPoints = 10_000_000,
    viewer: Viewer = None,
    web_host: WebHost = "127.0.0.1",
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Prepared:
    """Read the options of ``recon run`` and ``recon plan``. Raises ReconError if they are invalid."""
    from recon.core.refusal import too_few
    from recon.settings import CloudSettings, NetworkSettings, PlaceSettings, RunSettings, refuse_options
    from recon.sources import SourceOptions, open_source
    from recon.sources.keyframes import keyframe_share

    viewers = chosen_viewers(viewer, web_host)
    options = SourceOptions(
        every, fps, max_frames, longest_side, masks, keyframes, cameras, topic, equirectangular, rig
    )
    memory = (memory_frames or None, memory_mib)
    chosen = device, pixels, *memory, compile_network, precision
    network = NetworkSettings(weights, arithmetic, *chosen) if weights else None
    opened = open_source(source, options)
    description = opened.description
    if description.views > 1:
        refuse_options(description, {"--camera-model": bool(camera_model), "--intrinsics": bool(intrinsics)})
    one = description.frames == description.views and len(description.sizes) == 1  # that can be opened
    if one and not description.rate and not resume:  # the length of a video is an estimate
        raise ReconstructionError(too_few(source, 1, description.unit))
    stated = description if cameras == "auto" and not weights else replace(description, lens=None)
    model, camera = chosen_lens(intrinsics, camera_model, stated)
    cloud = CloudSettings(voxel, max_points)
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
        cloud,
        refine=refine,
        depth=depth,
        quality=quality,
        features=features,
        places=places,
    )
    if description.lens and description.views > 1:
        settings = settings.of_rig(description)
    finished = 0
    if resume:
        settings, finished = _resumed(source, opened, out, settings)
    selects = settings.decided(description.frames).source.keyframes == "select"
    share = keyframe_share(opened.candidates()) if selects and description.frames else 1.0
    return Prepared(description, settings, finished, share, viewers, web_host)


def _resumed(name: str, source: Source, out: Path, settings: RunSettings) -> tuple[RunSettings, int]:
    """The settings with keyframes as the run has decided, and the number of frames of the source up to the last mapped
    one. Raises ReconError if the run cannot be resumed with it.
    """
    from recon.store.journal import Journal

    journal = Journal.resume(out, str(Path(name).expanduser().resolve()), settings, source)
    return settings.with_keyframes(journal.parts[-1].settings.source.keyframes), journal.frames_behind


@takes_options_of(prepare)
def run(source: Input, *, out: Out, **options: Any) -> None:
    """Reconstruct images or a video into DIR."""
    from recon.core.workers import workers_of_environment
    from recon.folder import finish_moving, refuse_own_outputs, require_usable

    with workers_of_environment() as workers:
        with ended_before_the_run(elsewhere=workers.separate):
            refuse_own_outputs(source, out)
            if options["resume"]:
                finish_moving(out)
            else:
                require_usable(out, overwrite=options["overwrite"])
            prepared = prepare(source, out, **options)
            plan = prepared.plan(out, workers)
            _print_plan(plan)
            recogniser = open_recogniser(plan.settings, workers)
        listeners_of_run = listening(out, plan, prepared.viewers, prepared.web_host)
        with ended_by_signals(elsewhere=workers.separate) as ending, listeners_of_run as listeners:
            from recon.pipeline import reconstruct

            report = reconstruct(source, out, plan.settings, listeners, recogniser, workers=workers)
    conclude(report, out, ending)


@takes_options_of(prepare)
def plan(
    source: Input,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder of the run.  [default: not checked]")
    ] = None,
    **options: Any,
) -> None:
    """Estimate time, memory and disk of a run.

    Takes every option of recon run. Writes nothing.
    """
    from recon.core.workers import Workers
    from recon.folder import refuse_own_outputs, require_usable

    with ended_before_the_run():
        if out and not options["resume"]:
            refuse_own_outputs(source, out)
            require_usable(out, overwrite=options["overwrite"])
        folder = out or Path()
        _print_plan(prepare(source, folder, **options).plan(folder, Workers()))


def open_recogniser(settings: RunSettings, workers: Workers) -> PlaceRecogniser | None:
    """The loop finder; None with loops off."""
    from retrieval import recogniser

    return recogniser.open_recogniser(settings.places, workers) if settings.places else None


@contextmanager
def listening(out: Path, plan: Plan | None, viewers: Sequence[ViewerName], web_host: str) -> Iterator[list[Listener]]:
    """Progress bar and viewers of a run."""
    # Imported here because imports take seconds and input errors should be reported first.
    from cli.progress import ProgressBar
    from recon.core.files import leaving_no_empty_folder

    with leaving_no_empty_folder(out), ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(plan))
        listeners: list[Listener] = [bar]
        if ViewerName.NONE in viewers:
            delete_unfinished_recording(out)
        else:
            from cli.recording import Recording

            live, web = ViewerName.LIVE in viewers, ViewerName.WEB in viewers
            recording = Recording(out, say=bar.say, live=live, web=web, host=web_host)
            listeners.append(stack.enter_context(recording))
        yield listeners


def delete_unfinished_recording(out: Path) -> None:
    """Delete the recording of a run that was killed, which a run without a recording would leave as it is; that of the
    run before comes back.
    """
    from recon.store.ledger import Ledger
    from recon.store.map import open_map

    path, earlier = out / "recording.rrd", out / "recording.rrd.earlier"
    if not path.exists() or (Ledger(out).has("map") and open_map(out).complete):
        return
    path.unlink()
    if earlier.exists():
        earlier.replace(path)


def chosen_viewers(viewers: Sequence[ViewerName] | None, web_host: str) -> Sequence[ViewerName]:
    """The requested viewers; warns if other machines can see the run.

    Raises SettingsError for ``none`` with other viewers, and if the web viewer cannot listen on the address.
    """
    chosen = viewers or [ViewerName.RECORD]
    if ViewerName.NONE in chosen and len(set(chosen)) > 1:
        raise SettingsError(f"--viewer none cannot be combined with other viewers; got {', '.join(chosen)}.")
    if web_host != "127.0.0.1" and ViewerName.WEB not in chosen:
        raise SettingsError("--web-host sets the address of --viewer web: add --viewer web.")
    if web_host != "127.0.0.1":
        from viewer.launch import free_port

        free_port(web_host)
        typer.echo(f"warning: anyone who can reach {web_host} will see the images and the map, unencrypted.", err=True)
    return chosen


def _print_plan(plan: Plan) -> None:
    resolution = "{}x{}, processed at {}x{}".format(*plan.original, *plan.working)
    settings = plan.settings
    if plan.frames:
        frames = f"{plan.frames}, {plan.finished} of them finished" if plan.finished else str(plan.frames)
        chunks = f"{plan.chunks} of up to {settings.chunk} frames, with {settings.overlap} shared"
        time = f"about {duration(plan.seconds)} on {plan.machine.processors} processors"
        disk = f"about {size(plan.disk)}"
    else:
        frames, chunks, time, disk = "unknown number", "unknown", "unknown", "unknown"
    memory, gpu_memory = f"about {size(plan.memory)}", size(plan.gpu_memory)
    if settings.network:  # the plan covers structure from motion only
        from recon.network.frontend import plan_network
        from recon.network.runtime import choose_device

        time, weights = "not estimated for a network", f"{plan_network(settings.network)}, and the frames"
        if choose_device(settings.network.device).type == "cuda":
            gpu_memory = weights
        else:
            memory = f"{weights}:"
    rows = [("frames", f"{frames}, {resolution}")]
    if settings.source.keyframes == "select":
        chunks = f"about {chunks}"
        number = f"about {plan.mapped}, if all frames move like the first ones" if plan.frames else "unknown number"
        rows.append(("keyframes", f"{number}; the others are posed afterwards"))
    rows += [
        ("chunks", chunks),
        ("time", time),
        ("memory", f"{memory} of {size(plan.machine.memory)} free"),
        ("GPU memory", gpu_memory),
        ("disk", f"{disk} of {size(plan.machine.disk)} free"),
    ]
    print_rows("Plan", rows)
    for notice in plan.notices:
        typer.echo(f"  note: {notice}")


def conclude(report: RunReport, out: Path, ending: Ending) -> None:
    """Print the summary of a run. Raises typer.Exit if it was interrupted or could not write a file."""
    write_page(out)
    print_summary(report, out)
    if report.interrupted:
        typer.echo("Interrupted. Finished chunks are kept, and every file is complete.", err=True)
        raise typer.Exit(ending.code)
    if report.unwritten:
        raise typer.Exit(UNWRITTEN)


def write_page(out: Path) -> None:
    """Write report.html; a failure is a warning, since the map is complete."""
    from viewer.report import write_report

    try:
        write_report(out)
    except ReconError as error:
        typer.echo(f"warning: there is no report.html: {error}", err=True)


def _loss(lost: Sequence[SkippedFrame], read: int) -> str:
    """A sentence about frames that could not be placed for one reason."""
    return f"{len(lost)} of {read} frames, the first {lost[0].name}, the last {lost[-1].name}: {lost[0].reason}."


def print_summary(report: RunReport, out: Path) -> None:
    """The results of a run, and what to do next."""
    from cli.progress import stream_counts, tracking_figures

    quoted = shlex.quote(str(out))
    rows = [("DOUBTFUL", f"{suspicion}.") for suspicion in report.suspicions]
    rows += [("NOT PLACED", _loss(lost, report.frames_read)) for lost in report.losses]
    doubtful = sum(bool(chunk.warnings) for chunk in report.chunks)
    if len(report.chunks) == 1:
        warnings = (warning for warning in report.chunks[0].warnings if warning not in report.suspicions)
        rows += [("doubtful", f"{warning}.") for warning in warnings]
    elif doubtful:
        rows.append(("doubtful", f"{doubtful} of {len(report.chunks)} submaps; see recon loops {quoted}"))
    what = "keyframes" if report.passed_over else "frames"
    rows.append((what, f"{report.frames_placed} of {report.frames_read} placed"))
    if report.passed_over:
        rows.append(("between them", f"{report.passed_over} frames, {report.passed_over_placed} posed afterwards"))
    if report.stream:
        rows.append(("stream", stream_counts(report.stream)))
    if report.tracking:
        rows.append(("at capture", tracking_figures(report.tracking) or "not tracked: the map came too late"))
        if report.tracking.first_pose:
            rows.append(("first pose", f"after {report.tracking.first_pose:.1f} s"))
    rows += [
        ("time", f"{duration(report.seconds)}, {report.frames_read / report.seconds:.1f} {what}/s"),
        ("peak memory", size(report.peak_memory_bytes)),
        ("loops", f"{sum(loop.verdict == 'accepted' for loop in report.loops)} of {len(report.loops)} candidates"),
    ]
    listed = {frame.index for lost in report.losses for frame in lost}
    others = [frame for frame in report.skipped if frame.index not in listed]
    rows += [("left out", f"{frame.name}: {frame.reason}") for frame in others[:SKIPPED_SHOWN]]
    if len(others) > SKIPPED_SHOWN:
        rows.append(("", f"and {len(others) - SKIPPED_SHOWN} more, see {out / 'report.json'}"))
    print_rows("Result", rows)
    files = (
        ("cloud", "cloud.ply"),
        ("COLMAP model", "colmap/sparse/0"),
        ("trajectory", "poses.txt"),
        ("at capture", "tracked.csv"),
        ("recording", "recording.rrd"),
        ("report", "report.html"),
        ("report, as data", "report.json"),
    )
    print_rows("Files", [(label, str(out / name)) for label, name in files if (out / name).exists()])
    commands = [(f"recon view {quoted}", "explore the result")] if (out / "recording.rrd").exists() else []
    commands += [
        (f"recon check {quoted}", "check every output"),
        (f"recon export {quoted} --to nerfstudio", "or ply, mesh, colmap, tum, kitti"),
    ]
    print_rows("Next", commands)
