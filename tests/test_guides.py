"""The commands and programs of start.md and the guides, on maps of a few small frames.

What takes seconds, opens a window or needs a camera, a network or a second map is only read by the command line; other
tests run such commands.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

from cli.main import main
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from tests.pages import ROOT, blocks, commands, parse
from tests.support import half_size_sample

FRAMES = 4
DOCS = ROOT / "docs"
PAGES = (DOCS / "start.md", *sorted((DOCS / "guides").glob("*.md")))
MAKERS = ("run", "live", "merge")  # of the map in --out, for the commands that follow
ONLY_READ = (*MAKERS, "view", "compare", "weights", "doctor", "places", "check", "eval", "scale")
NOT_HERE = ("geojson", "--check", "mesh")  # needs a track, needs whole frames, takes seconds


@pytest.fixture(scope="module")
def small_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    half_size_sample(folder / "sample", FRAMES)
    reconstruct(str(folder / "sample" / "images"), folder / "map", RunSettings(depth="classical"))
    return folder / "map"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    half_size_sample(tmp_path / "data" / "sample", FRAMES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 320, 240
        for photo in sorted(Path("data/sample/images").glob("*.jpg")):
            video.mux(stream.encode(av.VideoFrame.from_image(Image.open(photo))))
        video.mux(stream.encode(None))


def is_only_read(arguments: list[str]) -> bool:
    return arguments[0] in ONLY_READ or any(word in NOT_HERE for word in arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, small_map: Path, checkout: Path) -> None:
    found = commands(page.read_text())
    shutil.copytree(small_map, checkout / "out" / "demo")
    for arguments in found:
        parse(arguments)
        if is_only_read(arguments):
            if arguments[0] in MAKERS and "--out" in arguments:
                shutil.copytree(small_map, checkout / arguments[arguments.index("--out") + 1], dirs_exist_ok=True)
            continue
        if arguments[0] == "plan" and arguments[1].endswith(".mp4"):
            write_video(Path(arguments[1]))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, arguments
    assert len(found) >= 4


def test_most_commands_of_the_guides_are_run() -> None:
    every = [arguments for page in PAGES for arguments in commands(page.read_text())]
    run = [arguments for arguments in every if not is_only_read(arguments)]
    assert {arguments[0] for arguments in run} == {
        "plan", "info", "export", "crop", "loops", "locate"
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_programs_of_a_page_run(page: Path, checkout: Path) -> None:
    for program in blocks("python", page.read_text()):
        exec(compile(program, str(page), "exec"), {})


def test_an_unknown_option_is_found() -> None:
    with pytest.raises(Exception, match="No such option: --nosuch"):
        parse(["run", "walk.mp4", "--out", "out", "--nosuch"])
    with pytest.raises(AssertionError, match="no command fly"):
        parse(["fly"])
