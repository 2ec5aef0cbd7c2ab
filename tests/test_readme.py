"""The README as a newcomer follows it, in a folder with six small frames in place of the sample's sixty."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.main import main
from recon.lab.benchmark.tables import HEADER
from tests.support import half_size_sample

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
FRAMES = 6


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sample at its usual place."""
    folder = tmp_path_factory.mktemp("checkout")
    half_size_sample(folder / "data" / "sample", FRAMES)
    return folder


def commands() -> list[list[str]]:
    """Arguments of every ``recon`` command, in the order of the page."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [row[1:] for row in words if row and row[0] in ("recon", ".venv/bin/recon")]


def test_every_command_of_the_page_works(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("viewer.show", lambda folder, web: None)  # would open a window
    assert {row[0] for row in commands()} == {"run", "plan", "view", "check", "export", "eval", "doctor"}
    for arguments in commands():
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, arguments


def test_the_program_of_the_page_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith(f"{FRAMES} of {FRAMES} frames placed\n")


def test_what_make_does_is_spelled_out_for_people_without_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE) == ["demo", "test"]
    by_hand = blocks("sh")[1]
    for command in (
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "pytest",
        "recon run data/sample/images --out out/demo",
    ):
        assert f"$(BIN)/{command}" in makefile
        assert f".venv/bin/{command}" in by_hand


def test_the_table_is_one_of_the_benchmark() -> None:
    table = TEXT.split("<!-- results.md begins -->\n")[1].split("<!-- results.md ends -->")[0]
    assert table.splitlines()[0] == f"| {' | '.join(HEADER)} |"


@pytest.mark.parametrize("page", ["README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []
