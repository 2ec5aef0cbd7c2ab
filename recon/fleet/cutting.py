"""A long source in overlapping parts, which are mapped side by side and merged.

Images are linked. A video is cut without decoding it, where its stream can be entered; so parts of a video differ a
little in length.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from recon.core.errors import SettingsError, SourceError
from recon.core.files import make_folder
from recon.fleet.listing import Listed
from recon.fleet.store import Job
from recon.sources import SourceOptions, open_source
from recon.sources.images import ImageSource

SHARED = 0.1  # of a part with the next one


def jobs_of(listed: Listed, parts: Path, frames: int | None) -> list[Job]:
    """The jobs for a source: one, or one for each part of ``frames`` frames and one that merges them.

    parts: the folder for parts of sources. frames: None to cut nothing. Raises SettingsError if a part is too short.
    """
    whole = Job(listed.name, "run", listed.source, listed.options)
    if frames is None:
        return [whole]
    if frames < 40:
        raise SettingsError(f"--part-frames must be at least 40, so that parts can be joined, got {frames}.")
    try:
        pieces = cut(listed.source, parts / listed.name, frames)
    except SourceError:  # its run will say so
        return [whole]
    if len(pieces) < 2:
        return [whole]
    own = [
        Job(f"{listed.name}.part{number:03d}", "run", str(piece), listed.options, part=True)
        for number, piece in enumerate(pieces, start=1)
    ]
    return [*own, Job(listed.name, "merge", listed.source, needs=tuple(job.name for job in own))]


def cut(source: str, folder: Path, frames: int) -> list[Path]:
    """Parts of a source in ``folder``, of about ``frames`` frames each, in order; of earlier calls where they are
    there. One part, the source itself, if it has no more. Raises SourceError if it cannot be read.
    """
    opened = open_source(source, SourceOptions())
    count = opened.description.frames
    if opened.description.views > 1 and count > frames:
        raise SourceError(
            f"{source} has 360-degree panoramas, which are not cut into parts. Leave out --part-frames, or map it by "
            "recon run."
        )
    stretches = list(_stretches(count, frames))
    if len(stretches) < 2:
        return [Path(source)]
    make_folder(folder)
    if isinstance(opened, ImageSource):
        files = [file for number in range(count) if (file := opened.file_of(number))]
        return [_linked(files[start:end], folder / f"{row:03d}") for row, (start, end) in enumerate(stretches, start=1)]
    path, rate = Path(source), opened.description.rate
    return [
        _copied(path, folder / f"{row:03d}{path.suffix}", start / rate, end / rate)
        for row, (start, end) in enumerate(stretches, start=1)
    ]


def _stretches(count: int, frames: int) -> Iterator[tuple[int, int]]:
    """Frames from and to of each part: the fewest parts of at most ``frames`` frames, equally long."""
    if count <= frames:
        yield 0, count
        return
    shared = max(1, round(SHARED * frames))
    number = -(-(count - shared) // (frames - shared))
    step = (count - shared) / number
    for row in range(number):
        yield round(row * step), round(row * step) + round(step) + shared if row < number - 1 else count


def _linked(files: list[Path], folder: Path) -> Path:
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
        for file in files:
            (unfinished / file.name).symlink_to(file.absolute())
        unfinished.rename(folder)
    return folder


def _copied(video: Path, part: Path, start: float, end: float) -> Path:
    """The packets of a video's images between two times [s], from the last point before where it can be entered."""
    import av  # noqa: PLC0415 - heavy

    if part.is_file():
        return part
    unfinished = part.with_name("new-" + part.name)
    try:
        with av.open(os.fspath(video)) as source, av.open(os.fspath(unfinished), "w") as target:
            stream = source.streams.video[0]
            copy = target.add_stream_from_template(stream)
            assert stream.time_base is not None
            first = stream.start_time or 0
            source.seek(first + int(start / stream.time_base), stream=stream)
            offset: int | None = None
            for packet in source.demux(stream):
                if packet.dts is None or packet.pts is None:
                    continue
                if (packet.dts - first) * stream.time_base >= end:
                    break
                offset = packet.dts if offset is None else offset
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                target.mux(packet)
        unfinished.replace(part)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise SourceError(f"{video} cannot be cut into parts ({error}). Leave out --part-frames.") from error
    return part
