"""The examples in docs/examples run as they are, in order, in a checkout with four small frames."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from recon.sources import SOURCES
from recon.store.map import open_map
from tests.support import half_size_sample

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
FRAMES = 4


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    half_size_sample(folder / "data" / "sample", FRAMES)
    return folder


@pytest.fixture(autouse=True)
def sources_as_they_were() -> Iterator[None]:
    before = dict(SOURCES)
    yield
    SOURCES.clear()
    SOURCES.update(before)


def run(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(checkout)
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    return capsys.readouterr().out


def test_the_pages_name_every_example() -> None:
    page = (FOLDER.parent / "usage.md").read_text()
    assert re.findall(r"\(examples/(\w+\.py)\)", page) == sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("1_from_python.py", r"^4 of 4 frames placed; nothing is doubtful\n(.*\n)+kitti follows its convention"),
        ("4_localise.py", r"(00000\d\.jpg \[.*\] \+- 0\.\d+\n?){4}"),
        (
            "5_evaluate.py",
            r"4 poses, ATE 0\.00\d+, 0\.\d+% of the extent\ndepth error [0-2]\.\d+% \(median\), for \d+%",
        ),
        ("2_live_callback.py", r"chunk 0 has placed 4 frames\n(.*\n)*finished: 4 of 4"),
        ("3_custom_source.py", r"4 of 4 frames placed"),
    ],
)
def test_an_example(
    name: str, says: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(name, checkout, monkeypatch, capsys)
    assert re.search(says, said), said
    if name == "3_custom_source.py":
        assert len(open_map(checkout / "out" / "from-zip").frames) == FRAMES
