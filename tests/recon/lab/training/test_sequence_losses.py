"""Losses of the whole network, compared with loops and for the truth."""

import math

import pytest
import torch
from torch import Tensor

from recon.lab.training.sequence_losses import (
    Pairs,
    SequenceWeights,
    camera_loss,
    covisible_loss,
    cross_entropy,
    direction_error,
    match_loss,
    place_loss,
    rotation_error,
    weighted,
)
from recon.lab.training.truth import Correspondence
from recon.network.pose_encoding import encoding_from_matrices
from tests.recon.lab.training.test_sequences import batch_of, shards  # noqa: F401 (a fixture)

ROWS, COLUMNS = 3, 4
CELLS = ROWS * COLUMNS


def truth(pixels: Tensor, covisible: Tensor) -> Correspondence:
    return Correspondence(pixels, torch.ones_like(covisible), covisible, COLUMNS)


def random_truth(seed: int = 0) -> Correspondence:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand((2, CELLS, 2), generator=generator) * torch.tensor([32.0, 24.0])
    return truth(pixels, torch.rand((2, CELLS), generator=generator) < 0.6)


def test_cross_entropy_equals_the_sum_written_out() -> None:
    scores, true = torch.randn((2, CELLS, CELLS), generator=torch.Generator().manual_seed(1)), random_truth()
    costs = []
    for n in range(2):
        for cell in range(CELLS):
            if not true.covisible[n, cell]:
                continue
            x, y = (true.pixels[n, cell] / 8 - 0.5).tolist()
            logs = scores[n, cell].log_softmax(0)
            cost = 0.0
            for column in (math.floor(x), math.floor(x) + 1):
                for row in (math.floor(y), math.floor(y) + 1):
                    weight = (1 - abs(x - column)) * (1 - abs(y - row))
                    near = min(max(row, 0), ROWS - 1) * COLUMNS + min(max(column, 0), COLUMNS - 1)
                    cost -= weight * float(logs[near])
            costs.append(cost)
    assert float(cross_entropy(scores, true)) == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_matching_loss_is_least_for_the_truth_and_chance_is_the_log_of_the_cells() -> None:
    centres = torch.tensor([[8 * c + 4.0, 8 * r + 4.0] for r in range(ROWS) for c in range(COLUMNS)])[None]
    there = truth(centres, torch.ones(1, CELLS, dtype=torch.bool))
    nothing = torch.zeros(1, CELLS)

    def pairs(scores: Tensor) -> Pairs:
        return Pairs(torch.zeros(1, 2, dtype=torch.long), scores, nothing, there, there)

    assert match_loss(pairs(40 * torch.eye(CELLS)[None])) < 1e-4
    assert float(match_loss(pairs(torch.zeros(1, CELLS, CELLS)))) == pytest.approx(math.log(CELLS), rel=1e-5)
    assert match_loss(pairs(5 * torch.eye(CELLS).roll(1, 0)[None])) > math.log(CELLS)


def test_covisibility_has_a_binary_cross_entropy() -> None:
    true = random_truth()
    right = torch.where(true.covisible, 9.0, -9.0)
    scores, rows = torch.zeros(2, CELLS, CELLS), torch.zeros(2, 2, dtype=torch.long)
    assert covisible_loss(Pairs(rows, scores, right, true, true)) < 1e-3
    assert float(covisible_loss(Pairs(rows, scores, 0 * right, true, true))) == pytest.approx(math.log(2), rel=1e-4)


def test_the_true_cameras_cost_nothing(shards: list) -> None:  # type: ignore[type-arg]  # noqa: F811
    batch = batch_of(shards)
    true = encoding_from_matrices(batch.seen.cam_from_world[:, :3], batch.seen.intrinsics, (48, 64)).unflatten(
        0, (6, 3)
    )
    assert camera_loss(true, batch) < 1e-8
    wrong = true.clone()
    wrong[..., 0] += 0.5
    far = true.clone()
    far[..., 0] += 1.0
    assert 0 < camera_loss(wrong, batch) < camera_loss(far, batch)


def test_errors_of_rotation_and_direction() -> None:
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.0, 0.0, 2.0])
    angle = 0.2
    turned = torch.tensor([0.0, math.sin(angle / 2), 0.0, math.cos(angle / 2)])
    assert float(rotation_error(turned, pose)) == pytest.approx(angle, rel=1e-2)
    assert float(rotation_error(-turned, pose)) == pytest.approx(angle, rel=1e-2)
    assert float(direction_error(torch.tensor([math.sin(angle), 0, math.cos(angle)]), pose)) == pytest.approx(
        angle, rel=1e-2
    )
    pose[:3, 3] = 0.001
    assert direction_error(torch.tensor([1.0, 0, 0]), pose) == 0


def test_alike_descriptors_cost_less_for_the_same_place() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), dim=1)
    right = place_loss(vectors, torch.tensor([0, 0, 1, 1]))
    wrong = place_loss(vectors, torch.tensor([0, 1, 0, 1]))
    assert right < 0.3
    assert wrong > right + 0.4


def test_the_total_is_the_weighted_sum() -> None:
    parts = {"match": torch.tensor(2.0), "place": torch.tensor(3.0)}
    assert float(weighted(parts, SequenceWeights(match=0.5, place=2.0))) == 7
