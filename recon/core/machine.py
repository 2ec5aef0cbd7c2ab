"""What this machine has free for a run: memory (also in a container), disk and processors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
# Limit, usage, and the counter of reclaimable cache: first of cgroup version 2, then of version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Machine:
    """memory, disk: usable bytes now, disk on the output's file system. processors: that this process may use."""

    memory: int
    disk: int
    processors: int


def look_at_machine(out: Path) -> Machine:
    """What is free now; ``out`` need not exist yet."""
    import psutil  # noqa: PLC0415 - many import recon.core.machine and never measure

    memory = min([psutil.virtual_memory().available, *container_memory()])
    return Machine(memory, shutil.disk_usage(_existing(out)).free, processors())


def processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def container_memory(root: Path = CGROUP_ROOT, membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left under each memory limit of this process's control groups; empty without limits."""
    left = [_memory_left(folder) for folder in _cgroup_folders(root, membership)]
    return [memory for memory in left if memory is not None]


def _cgroup_folders(root: Path, membership: Path) -> Iterator[Path]:
    """The process's group and its parents. Inside a container only the outermost may be visible."""
    try:
        rows = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in rows:
        if controllers not in ("", "memory"):
            continue
        mount = root / "memory" if controllers == "memory" else root
        group = mount / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _memory_left(folder: Path) -> int | None:
    """Bytes until the group's limit, counting cache that the kernel can reclaim; None without a limit."""
    for limit_name, usage_name, cache_name in CGROUP_FILES:
        try:
            limit = int((folder / limit_name).read_text())
            usage = int((folder / usage_name).read_text())
            counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # another version, or "max"
            continue
        return max(0, limit - usage + int(counters.get(cache_name, 0)))
    return None


def _existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
