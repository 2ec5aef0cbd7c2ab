"""``recon doctor``: installed packages, weights and hardware, and what is missing."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import typer

from cli.dependencies import explain
from cli.text import Row, print_rows
from recon.core.quantities import size

# Packages whose import fails without a system library or wheel: import name, name on the index.
PACKAGES = (
    ("av", "av"),
    ("cv2", "opencv-python-headless"),
    ("faiss", "faiss-cpu"),
    ("gtsam", "gtsam"),
    ("numpy", "numpy"),
    ("open3d", "open3d"),
    ("PIL", "pillow"),
    ("pillow_heif", "pillow-heif"),
    ("pycolmap", "pycolmap"),
    ("rerun", "rerun-sdk"),
    ("safetensors", "safetensors"),
    ("scipy", "scipy"),
    ("torch", "torch"),
    ("watchfiles", "watchfiles"),
)
PROBLEM = 1
# Packages without wheels for some systems, where pyproject.toml leaves them out, and what that costs.
UNAVAILABLE = (
    ("gtsam", "loops do not correct the map"),
    ("xformers", "the network uses PyTorch's own attention"),
    ("faiss-gpu-cu12", "place indexes are searched on the processor"),
)


def doctor() -> None:
    """Report what is installed and what is missing.

    Also lists accelerators and weights. Exits with 1 if something is missing.
    """
    lacking = unavailable(sys.platform, platform.machine())
    rows, problems = _packages({package for package, _ in lacking})
    print_rows("Packages", [("python", platform.python_version()), *rows])
    if lacking:
        print_rows("Not for this system", list(lacking))
    rows = [("torch", _accelerators()), ("needed", "none; structure from motion runs on the CPU"), *_network_memory()]
    print_rows("Accelerators", rows)
    print_rows("Weights", [("needed", "none"), *_weights()])
    print_rows("Machine", list(_machine()))
    if problems:
        print_rows("Missing", [("", problem) for problem in problems])
        raise typer.Exit(PROBLEM)
    typer.echo("Nothing is missing.")


def unavailable(system: str, machine: str) -> tuple[Row, ...]:
    """What there are no wheels of for ``sys.platform`` and ``platform.machine()``, and the cost."""
    if (system, machine) == ("linux", "x86_64"):
        return ()
    return UNAVAILABLE if system == "win32" else UNAVAILABLE[1:]


def _packages(lacking: Collection[str]) -> tuple[list[Row], list[str]]:
    """A row per package, and a sentence for each that cannot be imported though there are wheels of it."""
    from importlib import metadata  # brings 40 modules

    rows, problems = [], []
    for module, package in PACKAGES:
        if package in lacking:
            continue
        try:
            importlib.import_module(module)
            rows.append((package, metadata.version(package)))
        except (ImportError, OSError) as error:
            rows.append((package, "cannot be imported"))
            problems.append(str(explain(error) or f"{package} cannot be imported: {error}"))
    return rows, problems


def _accelerators() -> str:
    try:
        import torch
    except (ImportError, OSError):
        return "not installed"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"CUDA: {', '.join(names)}"
    return "Apple GPU (MPS)" if torch.backends.mps.is_available() else "none, CPU only"


def _network_memory() -> Iterator[Row]:
    """How large the weights of a network may be."""
    try:
        from recon.network.runtime import choose_device, free_memory
        from recon.network.stored_weights import SHARE
    except (ImportError, OSError):  # reported under the packages
        return
    most = size(round(SHARE * free_memory(choose_device("auto"))))
    yield "networks", f"float32 weights up to {most} in memory, larger ones read layer by layer; see --precision"


def _weights() -> Iterator[Row]:
    """Known weights on this machine, and how to get the others."""
    try:
        from recon.network.known_weights import KNOWN, stored_path
    except (ImportError, OSError):  # reported under the packages
        return
    paths = {weights.name: stored_path(weights) for weights in KNOWN.values()}
    yield from ((name, str(path)) for name, path in paths.items() if path)
    packaged = [name for name, path in paths.items() if not path and KNOWN[name].packaged]
    yield from ((name, f"not installed. {KNOWN[name].remedy}") for name in packaged)
    missing = ", ".join(name for name, path in paths.items() if not path and name not in packaged)
    if missing:
        yield "not installed", f"{missing}; recon weights list shows the sources, recon weights pull NAME downloads one"


def _machine() -> Iterator[Row]:
    from recon.core.machine import look_at_machine

    machine = look_at_machine(Path())
    yield "processors", str(machine.processors)
    yield "free memory", size(machine.memory)
    yield "free disk", f"{size(machine.disk)} here"
