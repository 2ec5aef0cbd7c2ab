"""Arguments and options that several commands share, and what they ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from recon.core.types import Camera, CameraModel

LensName = Literal["pinhole", "radial", "opencv", "fisheye"]
MODELS: dict[LensName, CameraModel] = {
    "pinhole": "PINHOLE",
    "radial": "SIMPLE_RADIAL",
    "opencv": "OPENCV",
    "fisheye": "OPENCV_FISHEYE",
}

Input = Annotated[str, typer.Argument(metavar="SOURCE", help="Image folder, quoted pattern 'a/*.jpg', or video.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")]
Fps = Annotated[float | None, typer.Option(help="Frames to take per second of a video.")]
Every = Annotated[int, typer.Option(help="Take one frame in this many.")]
MaxFrames = Annotated[int | None, typer.Option(help="Stop after this many frames.")]
Size = Annotated[int, typer.Option("--size", help="Longest side of the working images, in pixels.")]
Masks = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Mask images; where they are black, the frames are ignored.")
]
Keyframes = Annotated[
    Literal["all", "auto"],
    typer.Option(help="Take every frame, or those that show something new; the others get a pose afterwards."),
]
CameraCount = Annotated[
    Literal["auto", "one", "per-image", "per-folder"],
    typer.Option(
        "--cameras",
        help="Lenses to estimate: as EXIF and the images tell (auto), one for each image size, image, or folder.",
    ),
]
Chunk = Annotated[int, typer.Option(help="Frames that are reconstructed together.")]
Overlap = Annotated[int, typer.Option(help="Frames that a chunk shares with the one before.")]
Lens = Annotated[
    LensName | None, typer.Option(help="Lens to estimate: without distortion, radial (default), OpenCV's, or fisheye.")
]
Intrinsics = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS|FILE",
        help="Known calibration: fx,fy,cx,cy[,distortion...] in pixels of the originals, or a file with them, COLMAP's "
        "cameras.txt, nerfstudio's transforms.json, or OpenCV's, ROS's or Kalibr's YAML; files that state their size "
        "are scaled to the images.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="NAME|PATH", help="Find geometry by a network with these weights; see recon weights list."),
]
Arithmetic = Annotated[
    Literal["dense", "v1", "v2"] | None,
    typer.Option(help="How the network looks across frames: all tokens, or FlashVGGT's first or later descriptors."),
]
Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu, cuda...")]
Pixels = Annotated[int, typer.Option(help="Most pixels of an image that the network sees.")]
MemoryFrames = Annotated[int, typer.Option(help="Earlier frames that the network remembers; 0 for all.")]
MemoryMib = Annotated[float | None, typer.Option(help="Most memory for what the network remembers, in MiB.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first: pays off for long sequences.")]
Loops = Annotated[
    bool, typer.Option("--loops/--no-loops", help="Recognise places seen before, and correct the map by them.")
]
DenseDepth = Annotated[
    Literal["filled", "classical"],
    typer.Option(help="Plane sweep with its gaps filled by the learned stage (filled), or plane sweep alone."),
]
Refine = Annotated[
    Literal["auto", "none"],
    typer.Option(help="Adjust all poses together at the end (auto), or leave the map as it grew (none)."),
]
PlaceWeights = Annotated[
    str | None,
    typer.Option(
        "--place-weights", metavar="NAME|PATH", help="Recognise places by ImAge; without, in similar light only."
    ),
]
Voxel = Annotated[
    float | None,
    typer.Option(help="Edge of the grid that thins the cloud, in the map's unit; without it, the size of a pixel."),
]
MaxPoints = Annotated[int, typer.Option(help="Most points of the cloud; where there are more, the grid gets coarser.")]
Clean = Annotated[
    bool, typer.Option("--clean/--no-clean", help="Leave out depth that is doubtful, at edges, or seen by one image.")
]
Sky = Annotated[bool, typer.Option("--sky/--no-sky", help="Keep bright, smooth areas at the top of upright images.")]


class ViewerName(StrEnum):
    """An option that may be given several times: typer takes no list of literals."""

    NONE = "none"
    RECORD = "record"
    LIVE = "live"
    WEB = "web"


Viewer = Annotated[
    list[ViewerName] | None,
    typer.Option(
        metavar="none|record|live|web",
        help="Show the run in a window (live) or a browser (web), only record it (the default), or none; repeatable.",
    ),
]
WebHost = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Where --viewer web listens; anybody who reaches another address sees it all."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in DIR.")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the run in DIR, with the rest of its source or with another."),
]

Command = Callable[..., None]


def takes_options_of(shared: Callable[..., object]) -> Callable[[Command], Command]:
    """Give a command that takes ``**options`` the options of ``shared`` behind its own: typer reads signatures."""

    def extended(command: Any) -> Command:
        own, others = (inspect.signature(function, eval_str=True) for function in (command, shared))
        named = [option for option in own.parameters.values() if option.kind is not option.VAR_KEYWORD]
        named += [option for name, option in others.parameters.items() if name not in own.parameters]
        command.__signature__ = own.replace(parameters=named)
        command.__annotations__ = {option.name: option.annotation for option in named}
        return command  # type: ignore[no-any-return]

    return extended


def calibrated_camera(text: str, lens: LensName | None, sizes: Sequence[tuple[int, int]]) -> Camera:
    """The camera that ``--intrinsics`` describes, and a note for the user; see ``given_camera``."""
    from recon.sources.intrinsics import given_camera

    camera, note = given_camera(text, MODELS[lens] if lens else None, sizes)
    if note:
        typer.echo(f"note: {note}", err=True)
    return camera


def chosen_lens(
    intrinsics: str | None, lens: LensName | None, sizes: Sequence[tuple[int, int]]
) -> tuple[CameraModel, Camera | None]:
    """The camera model of a run, and the camera where ``--intrinsics`` gives one; see ``calibrated_camera``."""
    if intrinsics is None:
        return MODELS[lens or "radial"], None
    camera = calibrated_camera(intrinsics, lens, sizes)
    return camera.model, camera
