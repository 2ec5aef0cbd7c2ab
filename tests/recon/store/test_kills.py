"""Kills at random moments, in a process without threads, which can be forked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_kills_at_random_moments_lose_nothing() -> None:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-m", "tests.kills", "10"]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("10 kills: "), ended.stderr
    assert ended.stdout.endswith("; lost: nothing\n")
