"""Runs a function on many items in parallel, on all processors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

from recon.core.machine import processors

AHEAD = 2  # items per processor taken in advance

Item = TypeVar("Item")
Result = TypeVar("Result")


def beside(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` over several threads: the same results, in the same order.

    ``items`` are taken in the calling thread, a few in advance. BLAS uses one thread per item: all processors are busy
    anyway, and sums would otherwise depend on the number of threads.
    """
    workers = processors()
    waiting: deque[Future[Result]] = deque()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
