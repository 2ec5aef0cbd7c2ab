"""Arguments and options shared by several commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recon.core.lens_names import MODELS, LensName

if TYPE_CHECKING:
    from recon.core.types import Camera, CameraModel
    from recon.sources import SourceDescription

Input = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Image folder, quoted pattern 'a/*.jpg', video, or ROS bag.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Output folder.")]
Fps = Annotated[float | None, typer.Option(help="Frames to use per second of video.  [default: all]")]
Every = Annotated[int, typer.Option(help="Use every N-th frame.")]
MaxFrames = Annotated[int | None, typer.Option(help="Stop after this many frames.  [default: no limit]")]
Size = Annotated[int, typer.Option("--size", help="Longest side of the working images in pixels.")]
Topic = Annotated[
    str | None, typer.Option(metavar="NAME", help="Topic of the images in a ROS bag.  [default: the only one]")
]
Equirectangular = Annotated[
    bool,
    typer.Option("--equirectangular", help="Take images for 360-degree panoramas, even if they are not tagged so."),
]
Rig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Cameras fixed to each other, with their lenses: COLMAP's rig_config.json or Kalibr's camchain YAML.",
    ),
]
Masks = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Mask images; black areas are ignored.")]
Keyframes = Annotated[
    Literal["auto", "all", "select"],
    typer.Option(
        help="Map all frames, or select keyframes and pose the rest afterwards; auto: select above 100 frames and live."
    ),
]
CameraCount = Annotated[
    Literal["auto", "one", "per-image", "per-folder"],
    typer.Option(
        "--cameras",
        help="Lenses to estimate: auto, one per image size (one), per image, per folder.",
    ),
]
Chunk = Annotated[int, typer.Option(help="Frames per chunk.")]
Overlap = Annotated[int, typer.Option(help="Frames shared with the previous chunk.")]
Lens = Annotated[LensName | None, typer.Option(help="Lens model to estimate.  [default: radial]")]
Intrinsics = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS|FILE",
        help="Known calibration: fx,fy,cx,cy[,distortion...] or a calibration file.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|PATH", help="Use a network in place of structure from motion; see recon weights list."),
]
Arithmetic = Annotated[
    Literal["dense", "v1", "v2"] | None,
    typer.Option(help="Cross-frame attention: all tokens (dense), or FlashVGGT's descriptors.  [default: by weights]"),
]
Precision = Annotated[
    Literal["float32", "bfloat16", "int8"],
    typer.Option(help="Precision of the network's weights; bfloat16 takes half the memory, int8 a quarter."),
]
Device = Annotated[str, typer.Option(help="Device for the network: auto, cpu, cuda...")]
Pixels = Annotated[int, typer.Option(help="Pixel budget per image for the network.")]
MemoryFrames = Annotated[int, typer.Option(help="Earlier frames that the network keeps; 0 keeps all.")]
MemoryMib = Annotated[float | None, typer.Option(help="Memory limit for these frames in MiB.  [default: no limit]")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first; worthwhile for long sequences.")]
Loops = Annotated[bool, typer.Option("--loops/--no-loops", help="Recognise revisited places and correct the map.")]
Tracking = Annotated[bool, typer.Option("--tracking/--no-tracking", help="Give every captured image a pose at once.")]
DenseDepth = Annotated[
    Literal["filled", "classical"],
    typer.Option(help="Plane sweep with gaps filled by a network, or plane sweep alone."),
]
Quality = Annotated[
    Literal["fast", "normal", "best"],
    typer.Option(help="Fewer features and coarser depth (fast), or more and finer (best)."),
]
Features = Annotated[
    Literal["auto", "sift", "xfeat+sift"],
    typer.Option(help="SIFT, with pretrained features for frames that it cannot place (auto) or all (xfeat+sift)."),
]
Refine = Annotated[
    Literal["auto", "none"],
    typer.Option(help="Final bundle adjustment of all poses (auto), or none."),
]
PlaceDescriptor = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Place descriptor: vlad (classical), xfeat-vlad (also by night), ImAge.  [default: vlad]",
    ),
]
PlaceWeights = Annotated[
    str | None, typer.Option("--place-weights", metavar="NAME|PATH", help="Recognise places with these ImAge weights.")
]
Voxel = Annotated[
    float | None,
    typer.Option(help="Voxel size of the cloud in map units.  [default: size of a depth pixel]"),
]
MaxPoints = Annotated[int, typer.Option(help="Point limit of the cloud; coarsens the voxels.")]
Clean = Annotated[bool, typer.Option("--clean/--no-clean", help="Remove doubtful, isolated and unconfirmed depth.")]
Sky = Annotated[
    bool, typer.Option("--sky/--no-sky", help="Keep the sky: bright, smooth areas at the top of the image.")
]


class ViewerName(StrEnum):
    """The viewers; an enumeration because typer accepts no literals in a repeatable option."""

    NONE = "none"
    RECORD = "record"
    LIVE = "live"
    WEB = "web"


Viewer = Annotated[
    list[ViewerName] | None,
    typer.Option(
        metavar="none|record|live|web",
        help="Record, show in a window (live) or browser (web); repeatable.  [default: record]",
    ),
]
WebHost = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Address for --viewer web; anyone who can reach it sees the run."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in DIR.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the run in DIR, or extend it with another source."),
]

Command = Callable[..., None]


def takes_options_of(shared: Callable[..., object]) -> Callable[[Command], Command]:
    """Append the options of ``shared`` to those of a command with ``**options``; typer reads the signature."""

    def extended(command: Any) -> Command:
        own, others = (inspect.signature(function, eval_str=True) for function in (command, shared))
        named = [option for option in own.parameters.values() if option.kind is not option.VAR_KEYWORD]
        named += [option for name, option in others.parameters.items() if name not in own.parameters]
        command.__signature__ = own.replace(parameters=named)
        command.__annotations__ = {option.name: option.annotation for option in named}
        return command  # type: ignore[no-any-return]

    return extended


def calibrated_camera(text: str, lens: LensName | None, sizes: Sequence[tuple[int, int]]) -> Camera:
    """The camera from ``--intrinsics``; prints a note if it was scaled. See ``given_camera``."""
    from recon.sources.intrinsics import given_camera

    camera, note = given_camera(text, MODELS[lens] if lens else None, sizes)
    if note:
        typer.echo(f"note: {note}", err=True)
    return camera


def chosen_lens(
    intrinsics: str | None, lens: LensName | None, description: SourceDescription
) -> tuple[CameraModel, Camera | None]:
    """The camera model of a run, and the camera if ``--intrinsics`` gives one or, unless ``lens`` asks for an estimate,
    the source; see ``calibrated_camera``."""
    camera = description.lens if lens is None else None
    if intrinsics is not None:
        camera = calibrated_camera(intrinsics, lens, description.sizes)
    elif camera and description.views == 1:
        typer.echo("note: the lens is the one that the recording states; --camera-model estimates it.", err=True)
    return (camera.model if camera else MODELS[lens or "radial"]), camera
