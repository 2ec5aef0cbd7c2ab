"""The suite ``preprocess``: image files under the public loader's rules, exact to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from recon.lab.reference.comparison import Comparison, compare, read_json
from recon.network.preprocess import PublicRule, load_public


def compare_preprocess(folder: Path) -> Iterator[Comparison]:
    """Each case's network input."""
    for name, case in read_json(folder / "config.json")["cases"].items():
        files = case.get("files") or [case["file"]]
        stored = case["expected"] if "files" in case else [case["expected"]]
        rule: PublicRule = "pad" if case.get("mode", name.split(".")[-1]) == "pad" else "crop"
        ours = load_public([folder / file for file in files], rule)
        expected = torch.stack([torch.from_numpy(_pixels(folder / file)) for file in stored])
        yield compare("preprocess", name, ours, expected.permute(0, 3, 1, 2).float() / 255, 0.0)


def _pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
