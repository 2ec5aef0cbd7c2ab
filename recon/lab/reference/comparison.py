"""One number per output: how far ours is from the stored one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recon.core.errors import SourceError

TOLERANCE = 20.0  # times the public code's own float32 rounding
Json = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """error: largest absolute difference; bound: the largest that passes. reason: what is wrong apart from numbers."""

    case: str
    output: str
    error: float
    bound: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.bound


def compare(case: str, output: str, ours: Tensor | None, stored: Tensor, bound: float) -> Comparison:
    """The difference of two tensors; infinite if ours is missing, not finite, or of another shape."""
    if ours is None:
        return Comparison(case, output, float("inf"), bound, "not computed")
    if ours.shape != stored.shape:
        return Comparison(case, output, float("inf"), bound, f"shape {tuple(ours.shape)}, not {tuple(stored.shape)}")
    error = float((ours.double() - stored.double()).abs().max()) if stored.numel() else 0.0
    return Comparison(case, output, error if error == error else float("inf"), bound)  # noqa: PLR0124


def read_json(path: Path) -> Json:
    """A JSON object. Raises SourceError naming the file."""
    try:
        content: Json = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} cannot be read as JSON ({error}). Copy the reference folder again.") from error
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises SourceError naming the file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SourceError(
            f"{path} cannot be read as safetensors ({error}). Copy the reference folder again."
        ) from error
