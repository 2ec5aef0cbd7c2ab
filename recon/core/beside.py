"""Runs a function on many items in parallel, on all processors."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from recon.core.machine import processors

AHEAD = 2  # items per processor taken in advance

Item = TypeVar("Item")
Result = TypeVar("Result")


def beside(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` over several threads: the same results, in the same order.

    ``items`` are taken in the calling thread, a few in advance. BLAS and PyTorch use one thread per item: all
    processors are busy anyway, and sums would otherwise depend on the number of threads.
    """
    workers = processors()
    waiting: deque[Future[Result]] = deque()
    with threadpool_limits(1, "blas"), _one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """One PyTorch thread for each new thread, if PyTorch is loaded: its threads spin while they wait for each other."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
