"""A Ray cluster: the machines that ``--address`` names, or this one."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray as untyped_ray
from ray import exceptions

from recon.core.errors import ReconError, ResourceError
from recon.core.failures import short
from recon.fleet.driver import Need
from recon.fleet.store import FleetStore, Job, State
from recon.fleet.work import PATIENCE, PROGRAM, work

ray: Any = untyped_ray  # some of its functions have no types
PER_CPU = 2  # jobs submitted for each processor, so that none is idle while the next is planned
USABLE = 0.9  # of a machine's memory
CALL_RETRIES = 2  # of a call whose worker or machine is lost
A = TypeVar("A")
B = TypeVar("B")


class RayCluster:
    """See ``recon.fleet.driver.Cluster``. A job whose machine or worker is lost goes to another one."""

    def __init__(self, folder: Path, retries: int, address: str | None, program: Sequence[str] = PROGRAM) -> None:
        """Connect to the cluster at ``address``, or start one here. Raises ResourceError if that fails."""
        self._folder, self._retries, self._program = folder, retries, tuple(program)
        self._running: dict[Any, Job] = {}
        _connect(address)
        self._work = ray.remote(max_retries=retries, retry_exceptions=False)(work)

    @property
    def capacity(self) -> int:
        return _capacity()

    def submit(self, job: Job, need: Need) -> None:
        # The run itself lowers its settings where it gets less than it needs, or says what lacks.
        options = _reserved(need) | {"name": f"recon {job.name}"}
        self._running[self._work.options(**options).remote(self._folder, job, self._retries, self._program)] = job

    def wait(self, seconds: float) -> list[tuple[Job, State]]:
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [(job := self._running.pop(one), self._result(one, job)) for one in done]

    def stop(self) -> None:
        for one in self._running:
            ray.cancel(one)
        ray.wait(list(self._running), num_returns=len(self._running), timeout=PATIENCE + 5)

    def close(self) -> None:
        ray.shutdown()

    def _result(self, one: Any, job: Job) -> State:
        try:
            state: State = ray.get(one)
        except (exceptions.RayError, KeyboardInterrupt) as error:
            store, last = FleetStore(self._folder), short(error) if isinstance(error, Exception) else "interrupted"
            why = f"Ray gave it up, after {self._retries} retries or with its cluster ({last})."
            state = replace(store.state(job.name), phase="failed", sentence=why)
            store.write_state(job.name, state)
        return state


class Mapper(Protocol):
    """Calls a function with one argument after the other, as ``map`` does: lazily, results in order."""

    def __call__(self, function: Callable[[A], B], arguments: Iterable[A], /) -> Iterator[B]: ...


@contextmanager
def cluster_map(address: str, need: Need) -> Iterator[Mapper]:
    """``map`` on the cluster at ``address``. need: of one call.

    At most ``PER_CPU`` calls for each processor are begun and not yet answered, so memory is bounded however many
    arguments there are. The function must be importable. It raises what the function raises, and ResourceError if the
    cluster is lost. Raises ResourceError if the cluster cannot be reached.
    """
    _connect(address)

    def mapped(function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
        remote = ray.remote(max_retries=CALL_RETRIES, retry_exceptions=False, **_reserved(need))(function)
        begun = deque[Any]()
        for argument in arguments:
            begun.append(remote.remote(argument))
            if len(begun) >= _capacity():
                yield _answer(begun.popleft())
        while begun:
            yield _answer(begun.popleft())

    try:
        yield mapped
    finally:
        ray.shutdown()  # ends the calls that an interruption leaves


def _connect(address: str | None) -> None:
    """Connect to the cluster at ``address``, or start one here. Raises ResourceError if that fails."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU keep CUDA as it is
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",  # without an address, Ray would join a cluster that happens to run here
            include_dashboard=None if address and address != "local" else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except Exception as error:
        raise ResourceError(
            f"Ray cannot be reached at {address or 'this machine'} ({short(error)}). Start it with ray start --head "
            "and, on other machines, ray start --address. If it asks for a token, all need the same one, and "
            "RAY_AUTH_MODE=token in their environment."
        ) from error
    signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would end this process with the signal's number


def _capacity() -> int:
    """How many tasks are worth submitting at once."""
    return max(2, int(PER_CPU * ray.cluster_resources().get("CPU", 1)))


def _reserved(need: Need) -> dict[str, float]:
    """What a task reserves: no more than the largest machine has, or it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def most(resource: str) -> float:
        return float(max((node.get(resource, 0) for node in nodes), default=0))

    return {
        "num_cpus": min(need.cpus, most("CPU")),
        "memory": min(need.memory, int(USABLE * most("memory"))),
        "num_gpus": min(need.gpus, most("GPU")),
    }


def _answer(call: Any) -> Any:
    try:
        return ray.get(call)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, ReconError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        raise ResourceError(
            f"The cluster lost a task {CALL_RETRIES + 1} times ({short(error)}). The same command continues."
        ) from error
