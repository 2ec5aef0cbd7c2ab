"""Partly usable input: the usable part is reconstructed, everything else is named with the reason."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import av
import numpy as np
import pycolmap
import pytest
from PIL import Image as PillowImage

from cli.main import main
from recon.store import report
from recon.store.map import open_map
from recon.store.report import RunReport
from tests.cli.conftest import SAMPLE, Recon, make_images

SIZE, LARGE = (320, 240), (400, 300)
TURNED = 6  # EXIF: the stored picture must be turned a quarter clockwise
OPTIONS = ("--viewer", "none", "--size", "320")


def sample_image(index: int, size: tuple[int, int] = SIZE) -> PillowImage.Image:
    with PillowImage.open(SAMPLE / "images" / f"{index:06d}.jpg") as image:
        return image.resize(size, PillowImage.Resampling.BOX)


def write_turned(image: PillowImage.Image, path: Path) -> None:
    """Stored on its side, with the EXIF tag that says so."""
    exif = PillowImage.Exif()
    exif[0x0112] = TURNED
    image.transpose(PillowImage.Transpose.ROTATE_90).save(path, exif=exif, quality=92)


def write_photos(folder: Path) -> None:
    """Eleven frames of a walk: one on its side, one as HEIC, three from a larger camera, one with spaces in its name.
    And unusable files: a truncated image, an empty one, two of other places, and a text.
    """
    folder.mkdir()
    for number, index in enumerate(range(0, 22, 2)):
        path = folder / ("06 (Größe 1).jpg" if number == 6 else f"{number:02d}.jpg")
        if number == 2:
            write_turned(sample_image(index), path)
        elif number == 4:
            sample_image(index).save(path.with_suffix(".heic"), quality=90)
        else:
            sample_image(index, LARGE if number >= 8 else SIZE).save(path, quality=92)
    content = (folder / "05.jpg").read_bytes()
    (folder / "11.jpg").write_bytes(content[: len(content) // 2])
    (folder / "12.jpg").touch()
    for path in make_images(folder / "elsewhere", 2, SIZE, same=False).iterdir():
        path.rename(folder / f"2{path.name}")
    (folder / "notes.txt").write_text("not an image")


@dataclass(frozen=True)
class Finished:
    """The folder of a run on the photos, its report, and its output."""

    folder: Path
    run: RunReport
    printed: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("mixed")
    write_photos(folder / "photos")
    printed = StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stdout(printed):
        main(["run", str(folder / "photos"), "--out", str(folder / "out"), *OPTIONS])
    assert not ended.value.code
    return Finished(folder / "out", report.read(folder / "out" / "report.json"), printed.getvalue())


def test_damaged_and_empty_images_are_skipped_with_the_reason(finished: Finished) -> None:
    reasons = {frame.name: frame.reason for frame in finished.run.skipped}
    assert "cut short" in reasons["11.jpg"]
    assert reasons["12.jpg"] == "the file is empty"
    assert finished.run.frames_read == 13


def test_images_of_other_places_are_named_and_the_rest_is_kept(finished: Finished) -> None:
    assert {frame.name for frame in finished.run.skipped} - {"11.jpg", "12.jpg"} == {"2000.png", "2001.png"}
    assert [frame.index for frame in open_map(finished.folder).frames] == list(range(11))


def test_images_of_each_size_get_their_own_lens(finished: Finished) -> None:
    model = pycolmap.Reconstruction(finished.folder / "colmap" / "sparse" / "0")
    assert {(camera.width, camera.height) for camera in model.cameras.values()} == {SIZE, LARGE}
    for camera in model.cameras.values():
        assert camera.mean_focal_length() / camera.width == pytest.approx(500 / 640, rel=0.02)


def test_rotated_and_heic_photos_are_stored_upright(finished: Finished) -> None:
    images = finished.folder / "colmap" / "images"
    for number, index in ((2, 4), (4, 8)):
        with PillowImage.open(images / f"{number:02d}.jpg") as found:
            assert found.size == SIZE
            assert np.abs(np.asarray(found).astype(float) - np.asarray(sample_image(index))).mean() < 6


def test_skipped_files_are_reported_at_the_end(finished: Finished) -> None:
    assert "11 of 13 placed" in finished.printed
    assert "  left out     11.jpg: the image is damaged or cut short" in finished.printed
    assert "  left out     12.jpg: the file is empty" in finished.printed
    assert "  NOT PLACED   2 of 13 frames, the first " in finished.printed
    assert "2000.png" in finished.printed


def test_frames_of_a_truncated_video_are_used(recon: Recon, tmp_path: Path) -> None:
    path = tmp_path / "walk.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, width=320, height=240, pix_fmt="yuvj420p")
        for index in range(0, 28, 2):
            container.mux(stream.encode(av.VideoFrame.from_image(sample_image(index))))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome = recon("run", path, "--out", tmp_path / "out", *OPTIONS, "--depth", "classical", "--no-loops")
    assert outcome.code == 0
    assert "the video is cut short: it ends at" in outcome.out
    run = report.read(tmp_path / "out" / "report.json")
    assert 4 <= run.frames_read <= 10
    assert run.frames_placed == run.frames_read
