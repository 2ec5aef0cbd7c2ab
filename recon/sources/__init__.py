"""Where frames come from: images, a video, a recording of ROS, or something live."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from natsort import natsorted, ns

from recon.core.errors import SettingsError, SourceError
from recon.core.registry import Registry
from recon.sources.base import LARGEST_SIZE, Source, SourceDescription, SourceOptions
from recon.sources.decoding import UnreadableImage, opened_image
from recon.sources.images import ImageSource
from recon.sources.kinds import IMAGE_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES, is_bag, is_image, is_text

if TYPE_CHECKING:
    from recon.sources.live import LiveSource

__all__ = [
    "SOURCES",
    "Source",
    "SourceDescription",
    "SourceKind",
    "SourceOptions",
    "open_live_source",
    "open_source",
]


OpenSource = Callable[[str, SourceOptions, Path | None], Source]
LONGEST_NAME = 255  # bytes, on all usual file systems


@dataclass(frozen=True)
class SourceKind:
    """takes: whether this kind accepts the SOURCE of a run, a text. open: opens it, see ``open_source``. has_topics:
    whether it knows ``SourceOptions.topic``.
    """

    takes: Callable[[str], bool]
    open: OpenSource
    has_topics: bool = False


def open_source(spec: str, options: SourceOptions | None = None, images_folder: Path | None = None) -> Source:
    """The source that ``spec`` names: an image folder, a quoted glob pattern, an image, a video or a bag.

    Of the kinds in ``SOURCES`` that accept it, the one registered last opens it. An existing path is never read as a
    pattern. Images come in natural order (2 before 10), from the folder itself and not from its subfolders. An image is
    recognised by suffix or content; hidden files and all others are ignored. ``images_folder`` receives the upright
    original of every frame that is read, as ``Frame.name``: a hard link if the file is already an upright JPEG or PNG,
    else a JPEG. 360-degree panoramas give the faces that ``recon.sources.panoramas`` cuts from them, and with
    ``SourceOptions.rig``, ``spec`` is the folder of a rig, see ``recon.sources.rigs``.

    Raises SourceError if there is nothing to read, SettingsError if the options do not suit this source, and, while
    iterating, OutputError if ``images_folder`` cannot be written.
    """
    options = options or SourceOptions()
    if not spec.strip():
        raise SourceError("SOURCE is empty. Give an image folder, a pattern such as 'a/*.jpg', or a video.")
    if options.rig:
        from recon.sources.rigs import RigSource  # noqa: PLC0415 - rare

        return RigSource(spec, options, images_folder)
    if any(len(os.fsencode(name)) > LONGEST_NAME for name in Path(spec).parts):
        raise SourceError(f"No file can be called {spec[:30]}...: the name is too long.")
    for kind in reversed(SOURCES.values()):
        if kind.takes(spec):
            if options.topic is not None and not kind.has_topics:
                raise SettingsError(f"--topic applies to ROS recordings only, and {spec} is not one. Omit it.")
            return _perhaps_spherical(kind, spec, options, images_folder)
    if _is_live(spec):
        raise SourceError(f"{spec} is a live source: use recon live. If it is a file on a server, download it first.")
    if os.path.lexists(_path(spec)):
        raise SourceError(f"{spec} is neither a file nor a folder. Give an image folder, a video, or an image.")
    raise SourceError(f"{spec} does not exist. Give an image folder, a pattern such as 'a/*.jpg', or a video.")


def _perhaps_spherical(kind: SourceKind, spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    """The source of this kind; of 360-degree panoramas, their faces."""
    source = kind.open(spec, options, images_folder)
    if not (options.equirectangular or getattr(source, "is_spherical", False)):
        return source
    from recon.sources.panoramas import PanoramaSource  # noqa: PLC0415 - rare

    whole = replace(options, size=LARGEST_SIZE)
    return PanoramaSource(spec, kind.open(spec, whole, None), options, images_folder)


def _path(spec: str) -> Path:
    return Path(spec).expanduser()


def _is_live(spec: str) -> bool:
    return "://" in spec or spec.isdecimal() or spec.startswith("/dev/video")


def _is_pattern(spec: str) -> bool:
    return not os.path.lexists(_path(spec)) and glob.has_magic(spec) and not _is_live(spec)


def _is_picture(spec: str) -> bool:
    return _path(spec).is_file() and is_image(_path(spec)) and _animation(_path(spec)) is None


def _open_folder(spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    return _image_source("folder", spec, _files_in(_path(spec)), options, images_folder)


def _open_pattern(spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    return _image_source("glob", spec, _matches(_path(spec), spec), options, images_folder)


def _open_picture(spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    path = _path(spec)
    return ImageSource("image", str(path), [path], options, images_folder)


def _matches(path: Path, spec: str) -> list[Path]:
    """Files that match a pattern; if there are none, those that match it when its brackets are literal."""
    for pattern in dict.fromkeys((_literal_parents(path), str(path).replace("[", "[[]"))):
        names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - the pattern may be absolute
        if names:
            return [Path(name) for name in names if Path(name).is_file()]
    brackets = ""
    if "[" in spec:
        brackets = " Brackets stand for one of the characters in them; write [[] for an opening bracket itself."
    raise SourceError(
        f"No file matches {spec}. Check the pattern, and quote it so that the shell leaves it alone.{brackets}"
    )


def _literal_parents(path: Path) -> str:
    """The pattern with the existing folders at its start escaped, so that their names are literal."""
    known = next((parent for parent in path.parents if parent.is_dir()), Path())
    return str(Path(glob.escape(str(known))) / path.relative_to(known))


def open_live_source(
    spec: str,
    options: SourceOptions,
    images_folder: Path | None = None,
    *,
    watch: bool = False,
    realtime: bool = False,
    patience: float = 120.0,
) -> LiveSource:
    """A camera (its number or /dev path), a stream's URL, a folder to ``watch``, or a video played in ``realtime``.

    patience: how long to wait for a lost camera or stream [s]. Raises SourceError if it cannot be read now, and
    SettingsError if the options do not suit it.
    """
    from recon.sources.cameras import device_path  # noqa: PLC0415 - only for live sources, as the others
    from recon.sources.capture import CaptureFeed  # noqa: PLC0415
    from recon.sources.live import LiveSource  # noqa: PLC0415
    from recon.sources.watching import WatchFeed  # noqa: PLC0415

    kind = live_kind(spec, watch=watch, realtime=realtime)
    if kind == "folder":
        return LiveSource(spec, WatchFeed(Path(spec).expanduser(), options, images_folder), options)
    address = device_path(spec) if kind == "camera" else spec
    return LiveSource(address, CaptureFeed(kind, address, options, patience), options, images_folder)


def live_kind(
    spec: str, *, watch: bool = False, realtime: bool = False
) -> Literal["folder", "camera", "stream", "video"]:
    """What ``open_live_source`` would open; opens nothing. Raises SourceError and SettingsError as that does."""
    if watch and realtime:
        raise SettingsError("--watch reads a folder, --realtime plays a video. Use only one of them.")
    if watch:
        return "folder"
    if realtime:
        return "video"
    if "://" in spec:
        return "stream"
    path = Path(spec)
    if spec.isdecimal() or (spec.startswith("/dev/") and not (path.is_dir() or path.is_file())):  # as in /dev/shm
        return "camera"
    raise SourceError(
        f"{spec} is neither a camera's number, a /dev path nor a stream's URL. Add --watch if it is a folder that "
        "is still filling, --realtime if it is a video. For finished files, use recon run."
    )


def _files_in(folder: Path) -> list[Path]:
    try:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"Cannot list the folder {folder}: {error.strerror}.") from error
    if not files:
        raise SourceError(f"{folder} contains no files. Give the folder that directly contains the images.")
    return files


def _open_video(spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    path = _path(spec)
    if is_image(path) and _animation(path) == "WEBP":
        raise SourceError(f"{path} is an animated WebP, which FFmpeg cannot read. Convert it to GIF or MP4 first.")
    if path.suffix.lower() in RAW_SUFFIXES:
        raise SourceError(f"{path} is a raw photo. Convert it to JPEG or TIFF first.")
    if path.suffix.lower() not in VIDEO_SUFFIXES and is_text(path):
        raise SourceError(
            f"{path} is of an unsupported type. Images: {_listed(IMAGE_SUFFIXES)}; videos: {_listed(VIDEO_SUFFIXES)}."
        )
    from recon.sources.video import VideoSource  # noqa: PLC0415 - PyAV is slow to import

    return VideoSource(path, options, images_folder)


def _open_bag(spec: str, options: SourceOptions, images_folder: Path | None) -> Source:
    from recon.sources.bag import BagSource  # noqa: PLC0415 - optional

    return BagSource(_path(spec), options, images_folder)


def _animation(path: Path) -> str | None:
    """The format of an animated image file, None for a still image."""
    try:
        with opened_image(path) as image:
            animated = image.format in ("GIF", "PNG", "WEBP") and getattr(image, "is_animated", False)
            return image.format if animated else None
    except UnreadableImage:
        return None


def _image_source(
    kind: str, spec: str, files: list[Path], options: SourceOptions, images_folder: Path | None
) -> Source:
    images = [path for path in files if is_image(path)]
    videos = natsorted(path.name for path in files if path.suffix.lower() in VIDEO_SUFFIXES)
    if not images:
        others = f"{len(files)} other file" + ("s" if len(files) != 1 else "")
        advice = f" To use the video {videos[0]}, give its own path." if videos else ""
        raise SourceError(
            f"{spec} holds no images, only {others}. Supported images: {_listed(IMAGE_SUFFIXES)}.{advice}"
        )
    # Sorted by plain text first, so that names equal but for case always come in the same order.
    ordered = natsorted(sorted(images), alg=ns.PATH | ns.IGNORECASE)
    raw = natsorted(path.name for path in files if path.suffix.lower() in RAW_SUFFIXES)
    return ImageSource(kind, spec, ordered, options, images_folder, notes=_notes(ordered, videos, raw))


def _notes(images: list[Path], videos: list[str], raw: list[str]) -> list[str]:
    """Notes about files in a folder that may surprise the user."""
    notes = []
    if videos:
        notes.append(f"Videos in the folder of images are ignored: {len(videos)} in all, first {videos[0]}.")
    if raw:
        notes.append(f"Raw photos are ignored: {len(raw)} in all, first {raw[0]}. Convert them to JPEG or TIFF.")
    by_stem: dict[Path, list[str]] = {}
    for path in images:
        by_stem.setdefault(path.with_name(path.stem.casefold()), []).append(path.name)
    doubles = [names for names in by_stem.values() if len(names) > 1]
    if doubles:
        notes.append(
            f"Some names have images of several types, {len(doubles)} in all, first "
            f"{' and '.join(doubles[0])}. All are read; if they show the same picture, remove one type for speed."
        )
    return notes


def _listed(suffixes: tuple[str, ...]) -> str:
    return " ".join(suffix.removeprefix(".") for suffix in suffixes)


SOURCES = Registry(
    "kind of source",
    {
        "glob": SourceKind(_is_pattern, _open_pattern),
        "folder": SourceKind(lambda spec: _path(spec).is_dir(), _open_folder),
        "video": SourceKind(lambda spec: _path(spec).is_file(), _open_video),
        "image": SourceKind(_is_picture, _open_picture),  # after the video, which takes any file
        "bag": SourceKind(lambda spec: is_bag(_path(spec)), _open_bag, has_topics=True),
    },
)
