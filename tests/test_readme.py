"""README and usage page as a newcomer follows them, in a folder with four small frames of the sample."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli.main import main
from recon.lab.benchmark.tables import HEADER
from tests.pages import ROOT, blocks, commands
from tests.support import half_size_sample

README, USAGE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "usage.md").read_text()
FRAMES = 4


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sample at its usual place."""
    folder = tmp_path_factory.mktemp("checkout")
    half_size_sample(folder / "data" / "sample", FRAMES)
    return folder


def test_every_command_of_the_page_works(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("viewer.show", lambda folder, web: None)  # would open a window
    assert {row[0] for row in commands(USAGE)} == {
        "run",
        "plan",
        "view",
        "check",
        "info",
        "report",
        "export",
        "eval",
        "locate",
        "doctor",
    }
    for arguments in commands(USAGE):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, arguments


def test_the_program_of_the_page_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout)
    (program,) = blocks("python", USAGE)
    exec(compile(program, "usage.md", "exec"), {})
    assert capsys.readouterr().out.endswith(f"{FRAMES} of {FRAMES} frames placed\n")


def test_commands_of_the_readme_exist() -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("sh", README) for line in block.splitlines()]
    used = {row[1] for row in lines if row and row[0] in ("recon", ".venv/bin/recon")}
    assert used == {"run", "view"} and used <= {row[0] for row in commands(USAGE)}


def test_the_readme_gives_the_commands_behind_make_demo() -> None:
    assert re.findall(r"^make (\w+)", "".join(blocks("sh", README)), flags=re.MULTILINE) == ["demo"]
    demo = "recon run data/sample/images --out out/demo --overwrite"
    assert f"$(BIN)/{demo}" in (ROOT / "Makefile").read_text()
    assert f".venv/bin/{demo}" in blocks("sh", README)[1]


def test_figures_of_the_readme_match_the_benchmark() -> None:
    text = (ROOT / "BENCHMARKS.md").read_text()
    table = text.split("<!-- results.md begins -->\n")[1].split("<!-- results.md ends -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert tuple(rows[0]) == HEADER
    measured = {ours[0]: (ours, colmap) for ours, colmap in zip(rows[2::2], rows[3::2], strict=True)}
    shown = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in README.splitlines()
        if "frames posed" in line or any(line.startswith(f"| {name} |") for name in measured)
    ][1:]
    assert len(shown) == 9
    for name, *figures in shown:
        pairs = zip(*measured[name], strict=True)
        processor_seconds, posed, _, extent, *_ = list(pairs)[1:]
        assert figures == [posed[0], posed[1].split(",")[0], *extent, *processor_seconds]


@pytest.mark.parametrize("page", ["README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))])
def test_links_have_targets(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []
