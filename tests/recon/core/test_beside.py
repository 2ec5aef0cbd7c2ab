"""Work on several threads gives what ``map`` gives."""

import threading
import time
from collections.abc import Iterator

import pytest

from recon.core import beside as module
from recon.core.beside import AHEAD, beside


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_keep_their_order(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: workers)

    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(beside(work, range(20))) == [number**2 for number in range(20)]


def test_items_are_taken_in_the_calling_thread_and_only_a_few_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processors", lambda: 2)
    taken: list[str] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(threading.current_thread().name)
            yield number

    results = beside(lambda number: number, items())
    assert next(results) == 0
    assert len(taken) <= 2 * AHEAD + 1
    results.close()  # type: ignore[attr-defined]
    assert set(taken) == {threading.main_thread().name}


def test_an_error_reaches_the_caller() -> None:
    def work(number: int) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        list(beside(work, [2, 1, 0, 3]))
