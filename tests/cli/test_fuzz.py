"""Whatever the input: a map or one sentence, never a traceback, and nothing half-written that looks finished.

``RECON_FUZZ_EXAMPLES=500`` tries more than the default.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cli.main import main
from recon.core.types import Image
from recon.frontend import FRONT_ENDS
from recon.plan import Probe
from recon.store import report
from recon.store.map import images_folder, open_map
from tests.cases.case import picture
from tests.cli.test_bad_input import FINISHED
from tests.support import ExactFrontEnd

EXAMPLES = int(os.environ.get("RECON_FUZZ_EXAMPLES", "60"))
REFUSED = 2
QUIET = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],  # shrinking a failing run would take minutes
)
IMAGE_FORMATS = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I", "LAB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "JPEG2000": ("L", "RGB", "RGBA"),
    "HEIF": ("RGB", "RGBA"),
    "TGA": ("L", "RGB", "RGBA"),
}
SUFFIXES = (".jpg", ".JPEG", ".png", ".tif", ".heic", ".webp", ".bmp", ".pgm", ".gif", ".jp2", ".exr", ".tga", ".mp4",
            ".mkv", ".MTS", ".txt", ".dat", "", ".thm", ".cr2", ".avif")  # fmt: skip
NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), max_size=12)
SIDES = st.sampled_from([1, 2, 3, 7, 16, 17, 64, 200])


@dataclass(frozen=True)
class Item:
    """A file of the input."""

    name: str
    content: bytes


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """An image of any size, depth, channels and EXIF."""
    kind = draw(st.sampled_from(sorted(IMAGE_FORMATS)))
    mode = draw(st.sampled_from(IMAGE_FORMATS[kind]))
    width, height = draw(SIDES), draw(SIDES)
    seed = draw(st.integers(0, 3))
    exif = draw(st.sampled_from([b"", b"Exif\0\0", *map(oriented, range(10))]) | st.binary(max_size=40))
    return encoded_image(kind, mode, width, height, seed, exif)


def oriented(orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker \0 Ä"
    return exif.tobytes()


@cache
def encoded_image(kind: str, mode: str, width: int, height: int, seed: int, exif: bytes) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4)).astype(np.uint8)
    if mode == "I;16":
        image = PIL.Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    elif mode in ("F", "I"):
        values = (pixels[..., 0].astype(np.float32) - 100) * np.float32(10.0 ** (12 * seed))
        image = PIL.Image.fromarray(values if mode == "F" else pixels[..., 0].astype(np.int32) - 100)
    elif mode == "LAB":
        image = PIL.Image.frombytes("LAB", (width, height), pixels[..., :3].tobytes())
    else:
        image = PIL.Image.fromarray(pixels).convert(mode)
    written = io.BytesIO()
    try:
        image.save(written, kind, exif=exif)
    except (ValueError, OSError, TypeError, KeyError, RuntimeError, SyntaxError):
        written = io.BytesIO()
        image.save(written, kind)
    return written.getvalue()


@st.composite
def videos(draw: st.DrawFn) -> bytes:
    """A video of any size, pixels and rotation."""
    return encoded_video(
        draw(
            st.sampled_from([("matroska", "libx264"), ("mp4", "libx264"), ("avi", "mjpeg"), ("mpegts", "mpeg2video")])
        ),
        draw(st.sampled_from([(2, 2), (64, 48), (16, 144), (160, 120)])),
        draw(st.sampled_from([(1, 1), (4, 3), (1, 2), (1, 255)])),
        draw(st.sampled_from([0, 90, 180, 37])),
        draw(st.booleans()),
    )


@cache
def encoded_video(
    kind: tuple[str, str], size: tuple[int, int], pixel: tuple[int, int], rotation: int, interlaced: bool
) -> bytes:
    written = io.BytesIO()
    options = {"x264-params": "interlaced=1:tff=1"} if interlaced and kind[1] == "libx264" else {}
    try:
        with av.open(written, "w", format=kind[0]) as container:
            stream = container.add_stream(kind[1], rate=25, options=options)
            stream.width, stream.height = size  # type: ignore[union-attr]
            stream.pix_fmt = "yuvj420p" if kind[1] == "mjpeg" else "yuv420p"  # type: ignore[union-attr]
            stream.codec_context.sample_aspect_ratio = Fraction(*pixel)  # type: ignore[union-attr]
            if rotation:
                stream.set_display_rotation(rotation)  # type: ignore[union-attr]
            for index in range(3):
                image = np.asarray(cv2.resize(picture(2 * index), size), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))  # type: ignore[union-attr]
            container.mux(stream.encode(None))  # type: ignore[union-attr]
    except (av.error.FFmpegError, ValueError):  # too small for the codec
        return b""
    return written.getvalue()


@st.composite
def damaged(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    """Content that is complete, cut short, or has wrong bytes in it."""
    whole = draw(content)
    damage = draw(st.sampled_from([*["none"] * 5, "cut", "flipped", "longer"]))
    if damage == "cut":
        return whole[: int(len(whole) * draw(st.floats(0, 1)))]
    if damage == "longer":
        return whole + draw(st.binary(max_size=30))
    changed = bytearray(whole)
    if damage == "flipped" and whole:
        for place in draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
            changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


OTHERS = (videos(), st.binary(max_size=200), st.just(b"plain text\n"))
CONTENT = st.integers(0, 9).flatmap(
    lambda kind: images() if kind < 5 else damaged(images() if kind < 7 else OTHERS[kind - 7])
)
NAMES = st.builds("".join, st.tuples(NAME, st.sampled_from(SUFFIXES)))
MIXED = st.lists(st.builds(Item, NAMES, CONTENT), min_size=2, max_size=4)
WHOLE = st.lists(st.tuples(NAME, images()), min_size=2, max_size=4).map(
    lambda drawn: [Item(f"{number}{name}", content) for number, (name, content) in enumerate(drawn)]
)
FILES = MIXED | WHOLE
OPTIONS = st.just([]) | st.lists(
    st.sampled_from(
        [("--every", "2"), ("--max-frames", "2"), ("--keyframes", "select"), ("--fps", "5"), ("--size", "64"),
         ("--intrinsics", "60,60,32,24"), ("--refine", "none")]
    ), unique=True, max_size=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.plan.run_probe", lambda *_: Probe(0.01, 0.01, 0.01))


def write(folder: Path, files: Sequence[Item]) -> Iterator[Path]:
    """Put files into a folder, without those that have impossible names."""
    folder.mkdir()
    for item in files:
        path = folder / item.name
        if item.name not in ("", ".", "..") and not path.exists():
            path.write_bytes(item.content)
            yield path


def try_run(files: Sequence[Item], options: Sequence[tuple[str, str]], single: bool) -> int:
    """Run the program on files and check everything that must hold for any input. Returns the exit code."""
    with tempfile.TemporaryDirectory() as place:
        written = list(write(Path(place) / "in", files))
        before = {path: path.read_bytes() for path in written}
        source, out = written[0] if single and written else Path(place) / "in", Path(place) / "out"
        arguments = ["run", str(source), "--out", str(out), *itertools.chain(*options), *FAST]
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main(arguments)
        code = int(ended.value.code or 0)
        assert {path: path.read_bytes() for path in written} == before
        require_finished(out) if code == 0 else require_refused(code, said.getvalue(), out)
        return code


FAST = ("--depth", "classical", "--no-loops", "--viewer", "none")


def require_finished(out: Path) -> None:
    """Check that the map opens, and that every placed frame has a readable original and a line in the trajectory."""
    run, found = report.read(out / "report.json"), open_map(out)
    assert run.frames_placed == len(found.frames) + len(found.between) >= 2
    lines = [line for line in (out / "poses.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(found.posed)
    assert len({frame.name for frame in found.frames}) == len(found.frames)
    for frame in found.frames:
        with PIL.Image.open(images_folder(out) / frame.name) as image:
            image.load()
    assert not list(out.rglob("*.part"))


def require_refused(code: int, said: str, out: Path) -> None:
    assert code == REFUSED, said
    assert "Traceback" not in said
    sentence = said.rstrip().split("\n")[-1]
    assert sentence.startswith("recon: ") or "Invalid value" in said, said
    assert [name for name in FINISHED if (out / name).exists()] == []


@settings(QUIET, max_examples=EXAMPLES)
@given(files=FILES, options=OPTIONS, single=st.sampled_from([False, False, False, True]))
def test_any_input_ends_in_a_map_or_a_sentence_with_exact_geometry(
    files: Sequence[Item], options: Sequence[tuple[str, str]], single: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FRONT_ENDS, "sfm", ExactFrontEnd)
        try_run(files, options, single)


def photo(index: int, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(picture(index)[..., ::-1], size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


@st.composite
def walks(draw: st.DrawFn) -> list[Item]:
    """Two or three small photos of one place, some with faults."""
    files = []
    for number in range(draw(st.integers(2, 3))):
        size = draw(st.sampled_from([(160, 120), (160, 120), (120, 160), (40, 30)]))
        written = io.BytesIO()
        PIL.Image.fromarray(photo(3 * number, size)).save(written, draw(st.sampled_from(["JPEG", "PNG"])))
        files.append(Item(f"{number}.jpg", draw(damaged(st.just(written.getvalue())))))
    return draw(st.permutations(files))


@settings(QUIET, max_examples=max(3, EXAMPLES // 25))
@given(files=walks(), options=OPTIONS)
def test_photos_with_faults_end_in_a_map_or_a_sentence(files: list[Item], options: Sequence[tuple[str, str]]) -> None:
    try_run(files, options, single=False)
