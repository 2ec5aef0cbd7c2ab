"""``recon lab`` on the terminal: hidden, and as the pages describe it; tests/recon/lab tests its programs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from recon.exports import export
from recon.lab.training.presets import COMPACT_TINY, PRESETS
from tests.cli.conftest import Recon
from tests.support import make_map

ROOT = Path(__file__).parents[2]
PAGES = (*(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md", ROOT / "CONTRIBUTING.md")


def documented() -> list[list[str]]:
    """The words after ``recon lab`` in every command that stands on its own line."""
    lines = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    return [shlex.split(words) for words in re.findall(r"^ *recon lab (.+)$", lines, flags=re.MULTILINE)]


def test_the_laboratory_is_not_in_the_help_but_has_its_own(recon: Recon) -> None:
    assert re.search(r"^ +lab ", recon("--help").out, flags=re.MULTILINE) is None
    outcome = recon("lab", "--help")
    for command in ("train", "export", "evaluate-depth", "evaluate-matches", "sample", "plain-colmap"):
        assert f" {command} " in outcome.out


def test_commands_of_the_pages_exist_with_their_options(recon: Recon) -> None:
    assert {words[0] for words in documented()} >= {"train", "export", "evaluate-depth", "evaluate-matches", "sample"}
    for command, *words in documented():
        outcome = recon("lab", command, "--help")
        assert outcome.code == 0
        for option in (word for word in words if word.startswith("--")):
            assert f"{option} " in outcome.out, command


def test_training_receives_the_options_of_the_command(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr("recon.lab.training.run.run", lambda *given, **named: calls.append((given, named)))
    assert (
        recon("lab", "train", "--out", tmp_path, "--preset", "compact-tiny", "--minutes", "2", "--workers", "3").code
        == 0
    )
    ((preset, folder, device, limits, _), named) = calls[0]
    assert (preset, folder, device.type, limits.minutes) == (COMPACT_TINY, tmp_path, "cpu", 2.0)
    assert named == {"textures": None, "start": None, "workers": 3}


def test_unknown_presets_are_refused(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("lab", "train", "--out", tmp_path / "run", "--preset", "big")
    assert outcome.code == 2
    assert outcome.err == f"recon: --preset takes {', '.join(sorted(PRESETS))}; got big.\n"


@pytest.mark.parametrize("command", ["train", "sample"])
def test_a_word_that_is_no_option_starts_nothing(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = recon("lab", command, "nonsense")
    assert outcome.code == 2
    assert "--out" in outcome.err
    assert "nonsense" in recon("lab", command, "--out", "run", "nonsense").err
    (tmp_path / "file").write_text("mine")
    assert "Cannot create file: File exists." in recon("lab", command, "--out", "file").err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_device_that_is_not_here_is_refused_in_a_line(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("lab", "train", "--out", tmp_path / "run", "--device", "nonsense")
    assert outcome.code == 2
    assert outcome.err.startswith("recon: --device nonsense cannot be used here (")
    assert outcome.err.endswith("). Use cpu or auto.\n")
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_gaussians_are_trained_from_an_export(recon: Recon, tmp_path: Path) -> None:
    made = make_map(tmp_path / "map")
    export(made, "colmap", tmp_path / "model")
    outcome = recon("lab", "splat", tmp_path / "model", "--out", tmp_path / "out", "--minutes", "0.01", "--side", "40")
    assert outcome.code == 0
    found = json.loads((tmp_path / "out" / "splat.json").read_text())
    assert outcome.out.splitlines()[-1].startswith(f"PSNR {found['psnr']:.2f} dB on 1 held-out views of 6")
    assert found["steps"] > 0
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == [made.frames[4].name.replace(".jpg", ".png")]
    outcome = recon("lab", "splat", tmp_path, "--out", tmp_path / "none")
    assert outcome.code == 2
    assert outcome.err.startswith(f"recon: {tmp_path} holds no complete COLMAP model.")
