"""Prepares batches in other threads while the network trains on earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Results of ``make`` for consecutive numbers, started up to ``workers`` numbers ahead; 0 makes them on demand.
    ``make`` must depend on the number alone, so that it does not matter when and in which thread it runs.
    """

    def __init__(self, make: Callable[[int], T], workers: int) -> None:
        self._make = make
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._begun: dict[int, Future[T]] = {}

    def take(self, number: int) -> T:
        """The result for a number; starts those that follow."""
        if self._threads is None:
            return self._make(number)
        for later in range(number, number + self._workers + 1):
            if later not in self._begun:
                self._begun[later] = self._threads.submit(self._make, later)
        for earlier in [begun for begun in self._begun if begun < number]:
            del self._begun[earlier]
        return self._begun.pop(number).result()
