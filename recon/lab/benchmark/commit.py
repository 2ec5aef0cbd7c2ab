"""The version of the program that was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path


def current_commit() -> str:
    """The commit of the source beside this file, with a plus if files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
