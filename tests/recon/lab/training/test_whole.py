"""Training of the whole network on the tiny preset: it learns, streams, resumes exactly, and is written in parts."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recon.core.errors import ReconError
from recon.lab.compact.compact import CompactNet
from recon.lab.compact.weights import load_compact, save_weights, start_weights
from recon.lab.training.loop import Limits, Trainer, parameter_groups, train
from recon.lab.training.presets import COMPACT, COMPACT_TINY
from recon.lab.training.run import export, make_held_out, make_trainer, with_stages
from recon.lab.training.whole import WholeHeldOut
from tests.recon.lab.training.resuming import assert_resumes_exactly

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
WITHOUT_OTHERS = """
import sys
for name in ("cv2", "scipy", "pycolmap", "gtsam", "open3d", "rerun", "av", "faiss", "xformers", "PIL", "psutil"):
    sys.modules[name] = None
import cli.main, recon.lab.training.run
"""
STEPS = 24


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
    train(trainer(folder), held_out(folder), folder, Limits(steps=STEPS, log_every=8, measure_every=STEPS), print)
    return folder


def test_six_scenes_are_learned_through_the_cache_too(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24]
    for name in ("match", "covisible", "camera", "relative", "depth"):
        assert lines[-1][name] < lines[0][name], name
    assert lines[-1]["match"] < 0.85 * lines[0]["match"]


def test_a_resumed_run_equals_an_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    assert_resumes_exactly(lambda: trainer(folder), 14, tmp_path)


def test_a_step_in_half_precision_is_finite(folder: Path) -> None:
    half = replace(COMPACT_TINY, training=replace(COMPACT_TINY.training, half=True))
    begun = make_trainer(half, folder, None, CPU)
    begun.steps = 12  # of the streaming stage
    values = begun.step()
    assert values["match"] < 4
    assert all(math.isfinite(value) for value in values.values())


def test_the_best_weights_are_written_in_parts(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "compact.safetensors"
    said = export(trainer(folder), folder / "best.pt", path)
    assert said == f"{path}: the weights of step {STEPS}"
    best = torch.load(folder / "best.pt", weights_only=True)
    net = load_compact(path, CPU)
    assert net.config == COMPACT_TINY.network
    for name, tensor in best["mean"].items():
        torch.testing.assert_close(net.state_dict()[name], tensor.half().float(), rtol=0, atol=0)
    parts = save_weights(net, tmp_path / "parts.safetensors", 7, part_bytes=1 << 17)
    assert [part.name for part in parts] == [f"parts-{k}-of-{len(parts)}.safetensors" for k in range(1, len(parts) + 1)]
    assert len(parts) > 2
    assert all(part.stat().st_size <= 1 << 17 for part in parts)
    again = load_compact(parts[1], CPU)
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    parts[0].unlink()
    with pytest.raises(ReconError, match=r"parts-1-of-\d+\.safetensors does not exist"):
        load_compact(parts[1], CPU)


def test_the_large_network_fits_into_three_parts_of_16_mebibytes(tmp_path: Path) -> None:
    net = CompactNet(COMPACT.network)
    parts = save_weights(net, tmp_path / "compact.safetensors", 0, part_bytes=16 << 20)
    assert len(parts) == 3
    assert all(part.stat().st_size <= 16 << 20 for part in parts)


def test_the_weights_of_the_posed_network_start_the_whole_one(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "posed.safetensors"
    begun = trainer(folder)
    posed = type(begun.net.depth)(COMPACT_TINY.network.depth)
    save_weights(posed, path, 99)
    begun.start_from(*start_weights(path, begun.net))
    assert begun.steps == 0
    for name, tensor in posed.state_dict().items():
        assert torch.equal(begun.net.depth.state_dict()[name], tensor.half().float()), name
    save_weights(CompactNet(replace(COMPACT_TINY.network, matching=8)), path, 5)
    with pytest.raises(ReconError, match=r"cannot begin this training: matching\.from_stem\.bias does not fit"):
        start_weights(path, begun.net)


def test_stages_follow_each_other_and_can_be_moved() -> None:
    moved = with_stages(COMPACT, "0,10,20,30")
    assert [moved.training.stage_at(step).batch.views for step in (0, 9, 10, 20, 99)] == [2, 2, 4, 8, 8]  # type: ignore[union-attr]
    assert with_stages(COMPACT, None) is COMPACT
    for wrong in ("0,10", "5,10,20,30", "0,30,20,40"):
        with pytest.raises(ReconError, match="--stages takes 4 rising steps"):
            with_stages(COMPACT, wrong)


def test_temperatures_learn_ten_times_faster_without_decay(folder: Path) -> None:
    net = trainer(folder).net
    others, temperatures = parameter_groups(net)
    assert len(temperatures["params"]) == 2
    assert temperatures["pace"] == 10
    assert temperatures["weight_decay"] == 0
    assert len(others["params"]) + 2 == len(list(net.parameters()))


def test_the_last_stretch_fades_out() -> None:
    limits = Limits(minutes=10, finish=True)
    assert [limits.fade(60 * minutes) for minutes in (0, 7.5, 8.75, 10, 11)] == [1, 1, 0.5, 0, 0]
    assert Limits(minutes=10).fade(599) == 1


def test_the_batches_of_every_stage_of_the_large_preset_have_256_images_or_fewer() -> None:
    for stage in COMPACT.training.stages:
        batch = stage.batch
        assert batch.parts * batch.scenes * batch.views == 256
        assert batch.views <= COMPACT.pool.views
        assert batch.height % 16 == batch.width % 16 == 0
        assert batch.height <= COMPACT.pool.height
        assert batch.planes == COMPACT.network.depth.planes


def test_training_starts_with_numpy_torch_and_safetensors_alone() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_OTHERS], check=True, cwd=Path(__file__).parents[4])


def test_figures_on_held_out_scenes_repeat_and_include_the_trivial_baselines(folder: Path) -> None:
    net = trainer(folder).net.eval()
    judge = held_out(folder)
    figures = judge.measure(net)
    assert figures == judge.measure(net)
    assert figures.cell < figures.still  # of small images seen from nearby, before anything is learned
    assert abs(figures.streamed - figures.cell) < 0.3
    assert figures.rotation == pytest.approx(figures.no_rotation, rel=1e-3)  # untrained cameras stand still
    assert figures.error == pytest.approx(1 - figures.cell + figures.depth)
    assert str(figures).startswith(f"matches within a cell {figures.cell:.1%}")


def test_batches_are_checked_before_the_first_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"views fit each other to 0\.\d+ px", held_out(folder).check())
    monkeypatch.setattr("recon.lab.training.whole.LARGEST_ROUND_TRIP", 0.0)
    with pytest.raises(ReconError, match="do not fit each other on cpu"):
        held_out(folder).check()
