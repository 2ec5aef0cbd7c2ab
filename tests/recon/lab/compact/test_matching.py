"""Matching maps, the evidence of correlation and the choice of partners, compared with loops."""

import itertools
import math

import torch

from recon.lab.compact.matching import (
    EVIDENCE,
    PEAK,
    REACH,
    CorrelationTokens,
    MatchingMap,
    choose_partners,
    cosines,
    dual_softmax,
    evidence,
)

SIZE = (3, 4)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_matching_vectors_are_centred_and_of_length_one() -> None:
    torch.manual_seed(0)
    maps = MatchingMap(8, 12, 16)(random(2, 8, 4, 6), random(2, 12, 2, 3))
    assert maps.shape == (2, 16, 4, 6)
    torch.testing.assert_close(maps.mean(1), torch.zeros(2, 4, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 4, 6))


def test_cosines_compare_every_cell_with_every_cell() -> None:
    maps, others = random(2, 5, *SIZE), random(2, 5, *SIZE, seed=1)
    similarity = cosines(maps, others)
    assert similarity.shape == (2, 12, 12)
    torch.testing.assert_close(similarity[1, 5, 10], maps[1, :, 1, 1] @ others[1, :, 2, 2])


def test_the_dual_softmax_is_the_product_of_both() -> None:
    scores = random(1, 12, 12)
    row, column = scores[0, 3].softmax(0)[7], scores[0, :, 7].softmax(0)[3]
    torch.testing.assert_close(dual_softmax(scores)[0, 3, 7], row * column)


def test_evidence_equals_the_sums_written_out() -> None:
    similarity, temperature = random(2, 12, 12), torch.tensor(3.0)
    told = evidence(similarity, temperature, SIZE)
    assert told.shape == (2, EVIDENCE, *SIZE)
    for n, row, column in itertools.product(range(2), range(3), range(4)):
        cell = 4 * row + column
        dual = dual_softmax(similarity * temperature)[n, cell]
        best, shares = int(dual.argmax()), (dual / dual.sum()).tolist()
        mean = [
            sum(share * (other % 4 if axis == 0 else other // 4) for other, share in enumerate(shares))
            for axis in (0, 1)
        ]
        expected = [(mean[0] - column) / 4, (mean[1] - row) / 4, float(dual.max())]
        expected.append(-sum(share * math.log(share + 1e-9) for share in shares) / math.log(12))
        around = []
        for down, right in itertools.product(range(-REACH, REACH + 1), repeat=2):
            near = (best // 4 + down, best % 4 + right)
            inside = 0 <= near[0] < 3 and 0 <= near[1] < 4
            around.append(float(similarity[n, cell, 4 * near[0] + near[1]]) if inside else 0.0)
        torch.testing.assert_close(told[n, :, row, column], torch.tensor(around + expected), atol=1e-5, rtol=1e-4)


def test_partners_count_by_how_clearly_they_match() -> None:
    torch.manual_seed(0)
    module = CorrelationTokens(dim=8, hidden=4)
    assert (module(random(1, 2, EVIDENCE, 4, 6))[0] == 0).all()  # the trunk starts without this evidence
    torch.nn.init.normal_(module.tokens.weight)
    told = random(1, 2, EVIDENCE, 4, 6)
    told[:, 0, PEAK], told[:, 1, PEAK] = 0.9, 0.1
    both, covisible = module(told)
    assert both.shape == (1, 8, 2, 3)
    assert covisible.shape == (1, 2, 4, 6)
    first, second = (module(told[:, [partner]])[0] for partner in (0, 1))
    torch.testing.assert_close(both, 0.9 * first + 0.1 * second, atol=1e-4, rtol=1e-4)


def test_partners_are_the_first_frame_and_the_nearest() -> None:
    assert choose_partners((), [0], 4) == [[]]
    assert choose_partners((), [0, 1, 2], 4) == [[1, 2], [0, 2], [0, 1]]
    # Kept frames 0, 3 and 8 are in rows 0, 1 and 2; the chunk's 9 and 10 in rows 3 and 4.
    assert choose_partners((0, 3, 8), [9, 10], 3) == [[0, 2, 4], [0, 3, 2]]
