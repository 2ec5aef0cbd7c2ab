"""The training loop on the tiny preset: it learns, and an interruption changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recon.lab.compact.weights import save_weights, start_weights
from recon.lab.training.held_out import HeldOut
from recon.lab.training.loop import Limits, Trainer, train
from recon.lab.training.posed import TrainingSettings
from recon.lab.training.presets import TINY
from recon.lab.training.run import make_held_out, make_trainer
from tests.recon.lab.training.resuming import assert_resumes_exactly

STEPS = 45


def trainer(folder: Path) -> Trainer[Any, Any]:
    return make_trainer(TINY, folder, None, torch.device("cpu"))


def held_out(folder: Path) -> HeldOut:
    judge = make_held_out(TINY, folder, torch.device("cpu"))
    assert isinstance(judge, HeldOut)
    return judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; its shards serve the other tests too."""
    folder = tmp_path_factory.mktemp("run")
    train(trainer(folder), held_out(folder), folder, Limits(steps=STEPS, log_every=15, measure_every=STEPS), print)
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_eight_scenes_are_learned(folder: Path) -> None:
    lines = curve(folder)
    assert [line["step"] for line in lines] == [15, 30, 45]
    assert lines[-1]["scores"] < lines[0]["scores"]
    assert lines[-1]["depth"] < 0.8 * lines[0]["depth"]
    assert lines[-1]["error"] < 0.6 * lines[0]["error"]


def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    assert_resumes_exactly(lambda: trainer(folder), 4, tmp_path)


def test_a_run_continues_from_its_checkpoint(folder: Path) -> None:
    lines: list[str] = []
    train(trainer(folder), held_out(folder), folder, Limits(steps=1), lines.append)
    assert lines[0].startswith(f"continuing at step {STEPS}")
    again = trainer(folder)
    again.restore(folder / "checkpoint.pt")
    assert again.steps == STEPS + 1


def test_the_best_weights_are_kept(folder: Path) -> None:
    best = torch.load(folder / "best.pt", weights_only=True)
    assert best["steps"] == STEPS
    net = trainer(folder)
    net.mean.load_state_dict(best["mean"])
    figures = held_out(folder).measure(net.mean)
    assert figures.error == pytest.approx(best["error"], rel=1e-4)
    assert figures.constant > 0.05


def test_the_rate_rises_holds_and_falls() -> None:
    settings = TrainingSettings(rate=1.0, warm_up=10, hold=100)
    assert [settings.rate_at(step) for step in (0, 9, 100, 400)] == [0.1, 1.0, 1.0, 0.5]


def test_stages_follow_each_other() -> None:
    stage = TINY.training.stages[0]
    settings = replace(TINY.training, stages=(stage, replace(stage, start=5, batch=replace(stage.batch, views=3))))
    assert [settings.batch_at(step).views for step in (0, 4, 5, 9)] == [2, 2, 3, 3]


def test_a_run_starts_with_the_weights_of_a_file(folder: Path, tmp_path: Path) -> None:
    trained = trainer(folder)
    trained.restore(folder / "checkpoint.pt")
    save_weights(trained.mean, tmp_path / "trained.safetensors", trained.steps)
    begun = trainer(folder)
    begun.start_from(*start_weights(tmp_path / "trained.safetensors", begun.net))
    assert begun.steps == trained.steps
    for own in (begun.net, begun.mean):
        for name, tensor in trained.mean.state_dict().items():
            assert torch.equal(own.state_dict()[name], tensor.half().float()), name
    begun.step()
    begun.save(tmp_path / "checkpoint.pt")
    resumed = trainer(folder)
    resumed.restore(tmp_path / "checkpoint.pt")
    begun.step()
    resumed.step()  # warms up from the same step on
    assert all(torch.equal(tensor, begun.net.state_dict()[name]) for name, tensor in resumed.net.state_dict().items())


def test_the_rate_warms_up_again_after_a_start() -> None:
    settings = TrainingSettings(rate=1e-3, warm_up=100, hold=10_000)
    assert settings.rate_at(5_000, 5_000) == pytest.approx(1e-5)
    assert settings.rate_at(5_099, 5_000) == pytest.approx(1e-3)
    assert settings.rate_at(40_000, 5_000) == pytest.approx(5e-4)
