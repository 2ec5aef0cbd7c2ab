"""Checks that training continues unchanged after a save and a restore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recon.lab.training.loop import Trainer


def assert_resumes_exactly(make: Callable[[], Trainer[Any, Any]], steps: int, folder: Path) -> None:
    """Run ``steps`` steps, and the same with a save and a restore before the last two; weights must be equal."""
    whole, part, resumed = make(), make(), make()
    for _ in range(steps):
        whole.step()
    for _ in range(steps - 2):
        part.step()
    part.save(folder / "checkpoint.pt")
    resumed.restore(folder / "checkpoint.pt")
    for _ in range(2):
        resumed.step()
    assert resumed.steps == whole.steps == steps
    for own, other in ((resumed.net, whole.net), (resumed.mean, whole.mean)):
        for name, tensor in own.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name
