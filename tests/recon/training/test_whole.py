"""Training of the whole network on the tiny preset: it learns, streams, resumes exactly, and travels in parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recon.training.loop import Limits, Trainer, train
from recon.training.main import make_held_out, make_trainer
from recon.training.presets import COMPACT_TINY
from recon.training.whole import WholeHeldOut

CPU = torch.device("cpu")
STEPS = 60


def trainer(folder: Path) -> Trainer[Any, Any]:
    return make_trainer(COMPACT_TINY, folder, None, CPU)


def held_out(folder: Path) -> WholeHeldOut:
    judge = make_held_out(COMPACT_TINY, folder, CPU)
    assert isinstance(judge, WholeHeldOut)
    return judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; its shards serve the other tests too."""
    folder = tmp_path_factory.mktemp("whole")
    train(trainer(folder), held_out(folder), folder, Limits(steps=STEPS, log_every=20, measure_every=STEPS), print)
    return folder


def test_six_scenes_are_learned_through_the_cache_too(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    for name in ("match", "covisible", "camera", "relative", "depth"):
        assert lines[-1][name] < lines[0][name], name
    print(lines)


def test_a_resumed_run_equals_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    whole, part = trainer(folder), trainer(folder)
    for _ in range(14):
        whole.step()
    for _ in range(12):
        part.step()
    part.save(tmp_path / "checkpoint.pt")
    resumed = trainer(folder)
    resumed.restore(tmp_path / "checkpoint.pt")
    for _ in range(2):
        resumed.step()
    assert resumed.steps == whole.steps == 14
    for own, other in ((resumed.net, whole.net), (resumed.mean, whole.mean)):
        for name, tensor in own.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name
