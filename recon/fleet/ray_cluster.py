"""A Ray cluster: the machines that ``--address`` names, or this one."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray as untyped_ray
from ray import exceptions

from recon.core.errors import ResourceError
from recon.core.failures import short
from recon.fleet.driver import Need
from recon.fleet.store import FleetStore, Job, State
from recon.fleet.work import PATIENCE, PROGRAM, work

ray: Any = untyped_ray  # some of its functions have no types
PER_CPU = 2  # jobs submitted for each processor, so that none is idle while the next is planned
USABLE = 0.9  # of a machine's memory


class RayCluster:
    """See ``recon.fleet.driver.Cluster``. A job whose machine or worker is lost goes to another one."""

    def __init__(self, folder: Path, retries: int, address: str | None, program: Sequence[str] = PROGRAM) -> None:
        """Connect to the cluster at ``address``, or start one here. Raises ResourceError if that fails."""
        self._folder, self._retries, self._program = folder, retries, tuple(program)
        self._running: dict[Any, Job] = {}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU keep CUDA as it is
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=address or "local",  # without an address, Ray would join a cluster that happens to run here
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        except Exception as error:
            raise ResourceError(
                f"Ray cannot be reached at {address or 'this machine'} ({short(error)}). Start it with ray start "
                "--head and, on other machines, ray start --address; all need the same token."
            ) from error
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would end this process with the signal's number
        self._work = ray.remote(max_retries=retries, retry_exceptions=False)(work)

    @property
    def capacity(self) -> int:
        return max(2, int(PER_CPU * ray.cluster_resources().get("CPU", 1)))

    def submit(self, job: Job, need: Need) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]

        def most(resource: str) -> float:
            return float(max((node.get(resource, 0) for node in nodes), default=0))

        # More than the largest machine has would wait for ever; the run itself lowers its settings or says what lacks.
        options = {
            "num_cpus": min(need.cpus, most("CPU")),
            "memory": min(need.memory, int(USABLE * most("memory"))),
            "num_gpus": min(need.gpus, most("GPU")),
            "name": f"recon {job.name}",
        }
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
