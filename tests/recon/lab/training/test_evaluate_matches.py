"""Poses solved from matches on the bundled sample, and the resulting figures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recon.core.errors import ReconError
from recon.lab.compact.compact import CompactNet
from recon.lab.compact.weights import save_weights
from recon.lab.training.evaluate_matches import (
    MeasuredPair,
    Solved,
    covisible_errors,
    load_net,
    network_matches,
    pairs_of,
    regressed,
    report,
    row,
    solve,
)
from recon.lab.training.presets import COMPACT_TINY
from recon.lab.training.real import MeasuredSet, read_views, sift_matches
from recon.lab.training.truth import correspondence

SAMPLE = Path(__file__).parents[4] / "data" / "sample"


@pytest.fixture(scope="module")
def pairs() -> list[MeasuredPair]:
    return pairs_of(read_views(SAMPLE, MeasuredSet("sample", step=6), count=4, longest_side=330), 1)


@pytest.fixture(scope="module")
def net() -> CompactNet:
    torch.manual_seed(0)
    return CompactNet(COMPACT_TINY.network).eval()


def test_pairs_are_cropped_and_carry_their_truth(pairs: list[MeasuredPair]) -> None:
    assert [(pair.first.index, pair.second.index) for pair in pairs] == [(0, 6), (12, 18)]
    height, width = pairs[0].first.mask.shape
    assert height % 16 == width % 16 == 0
    assert pairs[0].first.image.shape == (height, width, 3)
    assert pairs[0].seen is not None


def test_the_true_matches_give_the_true_pose(pairs: list[MeasuredPair]) -> None:
    pair = pairs[0]
    assert pair.seen is not None
    truth = correspondence(*pair.seen)
    chosen = truth.covisible[0]
    columns = truth.columns
    cells = torch.arange(truth.pixels.shape[1])
    centres = (torch.stack([cells % columns, cells // columns], 1) + 0.5) * 8
    pixels = (centres[chosen].double().numpy() + 0.5, truth.pixels[0][chosen].double().numpy() + 0.5)
    solved = solve(pair, pixels)
    assert solved.right > 0.97
    assert solved.rotation < 0.2
    assert solved.direction < 3
    wrong = solve(pair, (pixels[0], pixels[1][::-1].copy()))
    assert wrong.right < 0.2


def test_sift_solves_the_sample_and_an_untrained_network_does_not(pairs: list[MeasuredPair], net: CompactNet) -> None:
    sift = solve(pairs[0], sift_matches(pairs[0].first, pairs[0].second))
    assert sift.matches > 30
    assert sift.right > 0.8
    assert sift.rotation < 1
    first, second = network_matches(net, pairs[0], 0.0)
    assert first.shape == second.shape
    assert len(first) > 0
    coarse, fine = covisible_errors(net, pairs[0])
    assert coarse.shape == fine.shape
    assert (coarse <= 8).float().mean() < 0.9
    still = regressed(net, pairs[0])
    turn = pairs[0].moved[:3, :3]
    assert still.rotation == pytest.approx(float(np.degrees(np.arccos((np.trace(turn) - 1) / 2))), abs=0.1)


def test_too_few_matches_are_no_pose(pairs: list[MeasuredPair]) -> None:
    few = solve(pairs[0], (np.ones((3, 2)), np.ones((3, 2))))
    assert (few.rotation, few.direction) == (180.0, 180.0)


def test_the_table_says_what_was_measured(pairs: list[MeasuredPair], net: CompactNet) -> None:
    lines = report(net, pairs, 0.0).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| SIFT", "| network", "| network, regressed pose"]
    assert lines[5].startswith("covisible cells:")
    solved = [Solved(10, 0.5, 1.0, 4.0), Solved(20, float("nan"), 3.0, 6.0)]
    assert row("x", solved) == "| x | 15 | 50.0% | 2.00 | 5.0 | 50.0% |"


def test_networks_are_read_from_weight_files_and_trainings(net: CompactNet, tmp_path: Path) -> None:
    save_weights(net, tmp_path / "net.safetensors")
    assert load_net(tmp_path / "net.safetensors", "compact").config == net.config
    torch.save({"mean": net.state_dict()}, tmp_path / "best.pt")
    loaded = load_net(tmp_path / "best.pt", "compact-tiny")
    assert torch.equal(loaded.trunk.special, net.trunk.special)
    with pytest.raises(ReconError, match="no training of the whole network"):
        load_net(tmp_path / "best.pt", "tiny")
