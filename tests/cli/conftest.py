"""The program as a user meets it, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pycolmap
import pytest
from PIL import Image as PillowImage

from cli.main import main
from recon import plan
from recon.plan import random_texture

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, and its output to stdout and stderr."""

    code: int
    out: str
    err: str


Recon = Callable[..., Outcome]


@pytest.fixture(scope="package", autouse=True)
def probed_once() -> Iterator[None]:
    """Every run and plan times the machine, which takes seconds; here it is timed once per size of the images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "run_probe", cache(plan.run_probe))
        yield


@pytest.fixture
def recon(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Recon:
    """Run ``recon ARGUMENTS`` in this process."""
    # The program sets this before pycolmap is imported; here other tests may have imported it.
    monkeypatch.setattr(pycolmap.logging, "minloglevel", pycolmap.logging.FATAL.value)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), written.out, written.err)

    return call


def make_images(folder: Path, count: int = 3, size: tuple[int, int] = (160, 120), *, same: bool = True) -> Path:
    """A folder with copies of one textured image, or with ``same=False`` with parts of it that do not overlap."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    texture = random_texture(width if same else width * count, height)
    for number in range(count):
        left = 0 if same else number * width
        PillowImage.fromarray(texture[:, left : left + width]).save(folder / f"{number:03d}.png")
    return folder
