"""The examples in docs/examples run as they are, in order, in a checkout with four small frames."""

import ast
import json
import re
import runpy
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recon.frontend import FRONT_ENDS
from recon.sources import SOURCES
from recon.store.map import open_map
from tests.pages import ROOT, blocks
from tests.support import half_size_sample

FOLDER = ROOT / "docs" / "examples"
NOTEBOOK = json.loads((FOLDER / "notebook.ipynb").read_text())
FRAMES = 4


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    half_size_sample(folder / "data" / "sample", FRAMES)
    return folder


@pytest.fixture(autouse=True)
def registries_as_they_were() -> Iterator[None]:
    before = [(registry, dict(registry)) for registry in (SOURCES, FRONT_ENDS)]
    yield
    for registry, choices in before:
        registry.clear()
        registry.update(choices)


def run(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(checkout)
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    return capsys.readouterr().out


def test_the_pages_name_every_example() -> None:
    page = (FOLDER / "README.md").read_text()
    assert re.findall(r"\((\w+\.\w+)\) \|", page) == sorted(path.name for path in FOLDER.glob("*.[pi]*"))


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
        ("7_custom_front_end.py", r"4 of 4 frames placed; nothing is doubtful"),
    ],
)
def test_an_example(
    name: str, says: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(name, checkout, monkeypatch, capsys)
    assert re.search(says, said), said
    if name == "3_custom_source.py":
        assert len(open_map(checkout / "out" / "from-zip").frames) == FRAMES
    if name == "7_custom_front_end.py":
        covered = [(geometry.depth > 0).mean() for _, geometry in open_map(checkout / "out" / "known-poses").geometry()]
        assert min(covered) > 0.7


def test_the_server_answers_with_a_place_or_a_reason(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    program = (FOLDER / "6_localisation_server.py").read_text().replace("8123), A", "0), A")  # any free port
    names: dict[str, Any] = {"__name__": "server"}
    exec(compile(program, "server", "exec"), names)
    server = names["server"]
    asked = [(checkout / "data/sample/images/000001.jpg").read_bytes(), b"no image"]
    thread = threading.Thread(target=lambda: [server.handle_request() for _ in asked])
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    with urllib.request.urlopen(url, data=asked[0]) as answer:
        found = json.load(answer)
    assert found["found"] and found["near"] == "000001.jpg" and found["deviation"] < 0.01
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        urllib.request.urlopen(url, data=asked[1])
    assert json.load(refused.value) == {"error": "This is not an image."}
    thread.join()
    server.server_close()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    half_size_sample(tmp_path / "data" / "sample", 10)  # of which it takes every third
    (tmp_path / "docs" / "examples").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "docs" / "examples")
    names: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook", "exec"), names)
    placed, exact, located = capsys.readouterr().out.splitlines()
    assert placed == "4 of 4 frames placed; nothing is doubtful"
    assert re.fullmatch(r"4 poses, error 0\.\d+% of the extent", exact)
    assert re.fullmatch(r"camera at \[.*\] \+- 0\.0\d+", located)


def test_the_notebook_shows_what_it_printed() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(output.get("text", "")) for cell in cells for output in cell["outputs"]]
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert any(text.startswith("20 of 20 frames placed; nothing is doubtful") for text in texts)
    assert len(pictures) == 2


def test_the_examples_use_the_documented_interface() -> None:
    """What examples 1 to 6, the notebook and the pages import is on the page of the API, or in a registry."""
    documented = set(re.findall(r"^::: (\S+)$", (FOLDER.parent / "api.md").read_text(), flags=re.MULTILINE))
    documented |= {f"{name.rsplit('.', 2)[0]}.{name.rsplit('.', 1)[1]}" for name in documented}  # of a package
    extending = {"recon.sources.SOURCES", "recon.sources.SourceKind", "recon.sources.images.ImageSource"}
    programs = [path.read_text() for path in sorted(FOLDER.glob("[1-6]_*.py"))]
    programs += ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    for page in ("usage.md", "locate.md", "guides/robot.md"):
        programs += blocks("python", (FOLDER.parent / page).read_text())
    used = {
        f"{node.module}.{alias.name}"
        for program in programs
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("recon", "retrieval", "viewer")
        for alias in node.names
    }
    assert len(used) > 15
    assert used - documented - extending == set()
