"""Gives the jobs of a store to a cluster, each as soon as those that it needs are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from recon.core.errors import ReconError
from recon.fleet.store import FleetStore, Job, State

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Need:
    """What a job asks for. memory: bytes."""

    cpus: float
    memory: int
    gpus: float = 0.0


class Cluster(Protocol):
    """Where jobs are done."""

    @property
    def capacity(self) -> int:
        """How many jobs are worth submitting at once; the others would only wait."""
        ...

    def submit(self, job: Job, need: Need) -> None: ...

    def wait(self, seconds: float) -> list[tuple[Job, State]]:
        """The jobs that have ended since, with their last states; waits until there is one."""
        ...

    def stop(self) -> None:
        """Interrupt all jobs and wait until they have written what they have."""
        ...


@dataclass(frozen=True)
class Driver:
    """estimate: what a job needs; a ReconError says that it cannot be done, and why. tell: gets every job that ends."""

    store: FleetStore
    cluster: Cluster
    estimate: Callable[[Job], Need]
    tell: Callable[[Job, State], None]

    def drive(self, jobs: Sequence[Job], arriving: Callable[[], Sequence[Job]] | None = None) -> None:
        """Do all jobs that are not done. A job that fails stops no other but those that need it.

        arriving: asked about every second for the jobs that have come since; with it, this ends by an interruption
        only. If this is interrupted, all running jobs are, and they can be resumed.
        """
        waiting = [job for job in jobs if self.store.state(job.name).phase != "done"]
        running: set[str] = set()
        try:
            while waiting or running or arriving:
                waiting = self._submitted([*waiting, *(arriving() if arriving else ())], running)
                if not running and arriving:
                    time.sleep(WAIT_SECONDS)
                for job, state in self.cluster.wait(WAIT_SECONDS) if running else ():
                    running.remove(job.name)
                    self.tell(job, state)
        except BaseException:
            self.cluster.stop()
            raise

    def _submitted(self, waiting: Sequence[Job], running: set[str]) -> list[Job]:
        """Submit what can begin; returns the other jobs."""
        left = []
        for job in waiting:
            phases = {name: self.store.state(name).phase for name in job.needs}
            failed = [name for name, phase in phases.items() if phase == "failed"]
            if failed:
                self._fail(job, f"Its part {failed[0]} failed.")
            elif len(running) >= self.cluster.capacity or any(phase != "done" for phase in phases.values()):
                left.append(job)
            else:
                try:
                    need = self.estimate(job)
                except ReconError as error:
                    self._fail(job, str(error))
                    continue
                self.cluster.submit(job, need)
                running.add(job.name)
        return left

    def _fail(self, job: Job, sentence: str) -> None:
        state = replace(self.store.state(job.name), phase="failed", sentence=sentence)
        self.store.write_state(job.name, state)
        self.tell(job, state)
