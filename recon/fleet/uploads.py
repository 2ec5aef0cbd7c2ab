"""Videos that a store receives, such as those that ``recon fleet serve`` is sent.

    uploads/FILE           a video, which is a source of the store
    uploads/.coming-FILE   one that is not whole yet

A video is taken once it is whole and a frame of it can be read. One that a kill interrupts must be sent again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Self

from recon.core.errors import OutputError, SettingsError, SourceError
from recon.core.files import make_folder, sync_folder
from recon.fleet.listing import map_name, sources_in
from recon.fleet.store import UPLOADS, FleetStore, Job
from recon.sources import open_source
from recon.sources.kinds import VIDEO_SUFFIXES

COMING = ".coming-"
LONGEST_NAME = 100  # bytes
# Of FFmpeg. Others are lists of files and addresses, which it would read as well.
FORMATS = "asf,avi,dv,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,ogg,webm,yuv4mpegpipe"


class Uploads:
    """The videos sent to a store, whose lock the caller holds. options: of ``recon run``, for those to come."""

    def __init__(self, store: FleetStore, options: Sequence[str] = ()) -> None:
        """Bring the store up to date with what has been received. Raises MapError and OutputError."""
        self._store, self._options = store, tuple(options)
        self._folder = store.folder / UPLOADS
        self._new = SimpleQueue[Job]()
        self.changing = Lock()  # held by whoever changes the list of the store while this is in use
        make_folder(self._folder)
        for unfinished in self._folder.glob(f"{COMING}*"):
            unfinished.unlink()
        known = {job.name for job in store.jobs()} if (store.folder / "fleet.json").is_file() else set()
        found = [self._job(path) for path in sources_in(self._folder)]
        self.jobs = store.extend([job for job in found if job.name not in known])

    def begin(self, file: str) -> Upload:
        """A new video, to be written. Raises SettingsError if its name is of no video or not free, and OutputError."""
        name, suffix = map_name(Path(file).stem), Path(file).suffix.lower()
        if not name or len(name.encode()) > LONGEST_NAME or suffix not in VIDEO_SUFFIXES:
            kinds = " ".join(one.removeprefix(".") for one in VIDEO_SUFFIXES)
            raise SettingsError(
                f"{file[:LONGEST_NAME]} is no name for a video: give at most {LONGEST_NAME} bytes and one of the "
                f"endings {kinds}."
            )
        self._require_free(name)
        return Upload(self, self._folder / f"{name}{suffix}")

    def take(self, coming: Path, video: Path) -> Job:
        """Make a received video a source of the store, as ``video``. Raises NameTakenError, and OutputError."""
        job = self._job(video)
        with self.changing:
            self._require_free(job.name)  # another video of this name may have come meanwhile
            coming.rename(video)
            sync_folder(video.parent)
            self._store.extend([job])
        self._new.put(job)
        return job

    def arrived(self) -> list[Job]:
        """The jobs that have come since this was last called."""
        new = list[Job]()
        while True:
            try:
                new.append(self._new.get_nowait())
            except Empty:
                return new

    def _require_free(self, name: str) -> None:
        if any(job.name == name for job in self._store.jobs()) or self._store.map_of(name).exists():
            raise NameTakenError(f"There is a map {name} already. Choose another name.")

    def _job(self, video: Path) -> Job:
        return Job(map_name(video.stem), "run", str(video), self._options)


class NameTakenError(SettingsError):
    """A map of this name exists."""


class Upload:
    """A video that is being received. Without ``finish``, nothing of it stays at the end of the block."""

    def __init__(self, uploads: Uploads, video: Path) -> None:
        self._uploads, self._video = uploads, video
        self._coming = video.with_name(COMING + video.name)
        try:
            self._file = self._coming.open("xb")
        except FileExistsError as error:
            raise NameTakenError(f"{video.name} is being received already. Choose another name.") from error
        except OSError as error:
            raise _unwritable(video, error) from error

    def write(self, data: bytes) -> None:
        """Raises OutputError."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self._video, error) from error

    def finish(self) -> Job:
        """Take the video. Raises SourceError if it is none, NameTakenError, and OutputError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self._video, error) from error
        self._require_video()
        return self._uploads.take(self._coming, self._video)

    def _require_video(self) -> None:
        import av  # noqa: PLC0415 - heavy

        try:
            with av.open(f"file:{self._coming}", options={"format_whitelist": FORMATS}):
                pass
            open_source(str(self._coming)).description  # noqa: B018 - reads the first frame
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(f"{self._video.name} is no video of a known format.") from error
        except SourceError as error:
            raise SourceError(str(error).replace(str(self._coming), self._video.name)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._coming.unlink(missing_ok=True)


def _unwritable(video: Path, error: OSError) -> OutputError:
    return OutputError(f"{video.name} cannot be stored: {error.strerror}.")
