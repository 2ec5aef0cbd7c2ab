"""Disturbs a fleet: a worker is killed, a node is lost, a source is no video. Every map must be as if made alone.

The sources are overlapping pieces of the bundled sample, which is rendered. The cluster's nodes share one machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ray import cluster_utils

from recon.core.files import make_folder
from recon.fleet.driver import Driver, Need
from recon.fleet.ray_cluster import RayCluster
from recon.fleet.store import FleetStore, Job, State
from recon.lab.benchmark.kills import ALIKE, OPTIONS, PROGRAM, Lost, largest_difference, linked

LENGTH, STEP = 10, 5  # images of a source, and from the first of one to that of the next
NODES = 3  # with one processor each
NEED = Need(cpus=1, memory=0)
TORN = "torn"  # the source that is no video
LOOK_SECONDS = 0.1
T = TypeVar("T")


@dataclass(frozen=True)
class Disturbed:
    """What became of a source. difference: of a camera from the map made alone, at most, as a share of the extent."""

    name: str
    state: State
    difference: float | None


@dataclass(frozen=True)
class FleetTrial:
    """killed: the job whose worker was killed. removed: jobs that were in work when a node was lost."""

    sources: tuple[Disturbed, ...]
    killed: str
    removed: tuple[str, ...]
    faults: tuple[str, ...]


def disturb_fleet(images: Path, out: Path, say: Callable[[str], object]) -> FleetTrial:
    """Map all sources in the new folder ``out`` by a fleet that is disturbed, then each alone, and compare.

    images: of the bundled sample. say: gets a sentence about everything that happens.
    """
    count = len(list(images.iterdir()))
    make_folder(out)
    (out / f"{TORN}.mp4").write_bytes(b"no video")
    starts = range(0, count - LENGTH + 1, STEP)
    folders = [linked(images, range(start, start + LENGTH), out / "sources" / f"{start:03d}") for start in starts]
    store = FleetStore(out / "store")
    jobs = [Job(folder.name, "run", str(folder), OPTIONS) for folder in folders]
    jobs.insert(len(jobs) // 2, Job(TORN, "run", str(out / f"{TORN}.mp4"), OPTIONS))
    store.extend(jobs)
    killed, removed = _drive(store, jobs, say)
    faults, sources = list[str](), list[Disturbed]()
    for job in jobs:
        state, difference = store.state(job.name), None
        if job.name != TORN:
            try:
                difference = _difference(job, store.map_of(job.name), out / "alone" / job.name)
                if difference > ALIKE:
                    faults.append(f"{job.name} differs from the map made alone by {difference:.1e} of the extent")
            except Lost as error:
                faults.append(str(error))
        elif state.phase != "failed" or not state.sentence:
            faults.append(f"{TORN} is not reported")
        sources.append(Disturbed(job.name, state, difference))
        say(f"{job.name}: {state.phase}, {state.attempts} attempts, {state.frames} frames {state.sentence}".rstrip())
    if not killed or not removed:
        faults.append("the fleet ended before it was disturbed")
    if store.finished_maps().keys() != {job.name for job in jobs} - {TORN}:
        faults.append("the finished maps are not those of the sources")
    return FleetTrial(tuple(sources), killed, removed, tuple(faults))


def _drive(store: FleetStore, jobs: Sequence[Job], say: Callable[[str], object]) -> tuple[str, tuple[str, ...]]:
    """Do all jobs on a cluster that is disturbed; whose worker was killed, and what ran when a node was lost."""
    cluster: Any = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES - 1)]
        machines = RayCluster(store.folder, 2, cluster.address)
        happened, ended = list[tuple[str, ...]](), threading.Event()

        def disturb() -> None:
            victim = _awaited(lambda: [job for job in jobs if _is_under_way(store, job)], ended)
            if victim:
                os.kill(store.state(victim[0].name).process, signal.SIGKILL)
                happened.append((victim[0].name,))
                say(f"killed the worker of {victim[0].name}")
            if _awaited(lambda: list(store.finished_maps())[2:], ended):
                running = tuple(job.name for job in jobs if store.state(job.name).phase == "running")
                cluster.remove_node(nodes[-1])
                happened.append(running)
                say(f"removed a node; in work: {', '.join(running)}")

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            Driver(store, machines, lambda job: NEED, lambda job, state: None).drive(jobs)
        finally:
            ended.set()
            thread.join()
            machines.close()
    finally:
        cluster.shutdown()
    killed, removed = [*happened, (), ()][:2]
    return "".join(killed), removed


def _awaited(look: Callable[[], list[T]], ended: threading.Event) -> list[T]:
    """What is found first; nothing once the fleet has ended."""
    while not (found := look()) and not ended.wait(LOOK_SECONDS):
        pass
    return found


def _is_under_way(store: FleetStore, job: Job) -> bool:
    """Whether a run has finished some of its chunks, but not all."""
    return store.state(job.name).phase == "running" and 0 < store.mapped(job.name) < LENGTH


def _difference(job: Job, made: Path, alone: Path) -> float:
    """See ``largest_difference``. Raises Lost if a frame of the source is missing or there twice."""
    command = [sys.executable, *PROGRAM, "run", job.source, "--out", str(alone), *OPTIONS]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return largest_difference(made, alone)
