"""VGGT-1B's shape on an ordinary machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
GIBIBYTE = 2**30
LIMIT = 8 * GIBIBYTE
ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import torch
from recon.network.config import VGGT_1B, Dense
from recon.network.model import GeometryNetwork
from recon.core.stopwatch import peak_memory

with torch.inference_mode():
    with torch.device("meta"):
        network = GeometryNetwork(VGGT_1B)
    network.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        spread = (3 / parameter[0].numel()) ** 0.5
        if parameter.dim() > 1:
            parameter.uniform_(-spread, spread, generator=generator)
        else:
            parameter.fill_(float("weight" in name or "gamma" in name))
    prediction = network.predict(torch.rand(1, 2, 3, 70, 98, generator=generator), Dense())
assert prediction.encodings.shape == (1, 2, 9)
assert prediction.depth.values.shape == (1, 2, 70, 98, 1)
assert prediction.points.values.shape == (1, 2, 70, 98, 3)
assert prediction.encodings.isfinite().all() and prediction.depth.values.isfinite().all()
print(peak_memory())
"""


def test_two_frames_with_random_weights_fit_into_8_gib() -> None:
    if psutil.virtual_memory().available < LIMIT:
        pytest.skip("this machine has less than 8 GiB of free memory for the full-size network")
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < LIMIT
