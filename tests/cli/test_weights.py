"""``recon weights`` and ``recon run --weights``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from recon.network.checkpoints import METADATA, save_checkpoint
from recon.network.config import DescriptorsV1
from recon.network.known_weights import FOLDER_VARIABLE
from recon.network.stored_config import to_text
from tests.cli.conftest import SAMPLE, Recon
from tests.network_support import SMALL, random_network

RULE = DescriptorsV1(2)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "small.safetensors", random_network(), RULE)
    return tmp_path / "small.safetensors"


def test_list_names_licences_and_what_is_here(recon: Recon, weights: Path) -> None:
    before = recon("weights", "list")
    assert before.code == 0
    for words in ("VGGT-1B-Commercial", "CC BY-NC 4.0", "https://huggingface.co/ZipW/FlashVGGT", "ImAge"):
        assert words in before.out
    assert "here: " not in before.out
    assert recon("weights", "import", weights, "--name", "FlashVGGT").code == 0
    assert "here: " in recon("weights", "list").out


def test_verify_says_what_a_file_is(recon: Recon, weights: Path) -> None:
    outcome = recon("weights", "verify", weights)
    assert outcome.code == 0
    assert "geometry, v1" in outcome.out
    assert "all finite" in outcome.out


def test_verify_finds_damage(recon: Recon, weights: Path, kept: Path) -> None:
    assert recon("weights", "import", weights, "--name", "FlashVGGT").code == 0
    path = kept / "FlashVGGT" / "FlashVGGT.safetensors"
    assert recon("weights", "verify", "FlashVGGT").code == 0
    tensors = load_file(path)
    tensors["depth_head.norm.bias"] = torch.full_like(tensors["depth_head.norm.bias"], torch.nan)
    save_file(tensors, path, {METADATA: to_text(SMALL, RULE)})
    outcome = recon("weights", "verify", "FlashVGGT")
    assert outcome.code == 1
    assert "not finite in depth_head.norm.bias" in outcome.out
    assert "The file is damaged" in outcome.err


def test_verify_of_another_network_exits_2(recon: Recon, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    outcome = recon("weights", "verify", tmp_path / "other.safetensors")
    assert outcome.code == 2
    assert "does not fit the network" in outcome.err


def test_pull_asks_for_the_licence_first(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(question: str, **_: object) -> None:
        asked.append(question)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", refuse)
    monkeypatch.setattr("recon.network.known_weights.pull", lambda weights: pytest.fail("fetched without consent"))
    outcome = recon("weights", "pull", "VGGT-1B")
    assert outcome.code == 1
    assert asked == ["Do you accept this licence?"]
    assert "CC BY-NC 4.0" in outcome.out


def test_pull_of_unknown_or_unhosted_weights(recon: Recon) -> None:
    assert "Known are" in recon("weights", "pull", "VGGT-2B").err
    assert "Download ImAge_Merged.pth" in recon("weights", "pull", "ImAge", "--yes").err


def test_run_with_weights(recon: Recon, weights: Path, tmp_path: Path) -> None:
    outcome = recon(
        "run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", weights, "--max-frames", 6, "--size", 160,
        "--pixels", 70 * 56, "--chunk", 4, "--overlap", 1, "--device", "cpu", "--viewer", "none",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "6 of 6 placed" in outcome.out
    assert "v1 attention, computed by torch on cpu" in outcome.out + outcome.err
    assert f"{weights.stat().st_size / 1e6:.0f} MB for the weights" in outcome.out


def test_run_with_weights_and_a_known_lens(recon: Recon, weights: Path, tmp_path: Path) -> None:
    lens = ("--intrinsics", "500,500,320,240")
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", weights, *lens)
    assert outcome.code == 2
    assert "--intrinsics does not go with --weights" in outcome.err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("FlashVGGT", "recon weights pull FlashVGGT"), ("nothing.pt", "There is no weight file nothing.pt")],
)
def test_run_without_the_weights(recon: Recon, tmp_path: Path, given: str, sentence: str) -> None:
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", given, "--max-frames", 3)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()
