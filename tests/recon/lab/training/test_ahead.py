"""Batches prepared ahead of time."""

import threading

from recon.lab.training.ahead import Ahead


def test_results_are_the_same_with_and_without_threads() -> None:
    for workers in (0, 3):
        ahead = Ahead(lambda number: number * number, workers)
        assert [ahead.take(number) for number in range(5, 20)] == [number * number for number in range(5, 20)]


def test_the_next_results_are_started_ahead() -> None:
    begun = [threading.Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return number

    ahead = Ahead(make, workers=2)
    assert ahead.take(0) == 0
    assert begun[1].wait(5)
    assert begun[2].wait(5)
    assert not begun[3].is_set()


def test_a_jump_forward_starts_over() -> None:
    ahead = Ahead(lambda number: number, workers=2)
    assert ahead.take(0) == 0
    assert ahead.take(100) == 100
    assert ahead.take(101) == 101
