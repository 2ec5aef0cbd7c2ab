"""Proves that wheels of all dependencies, in the versions of constraints.txt, exist for Linux, macOS and Windows and
the supported Pythons: ``python -m tests.resolve``.

Needs uv, the network and some minutes. Nothing is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

from tests.pages import ROOT

PLATFORMS = {"Linux": "x86_64-manylinux_2_36", "macOS": "aarch64-apple-darwin", "Windows": "x86_64-pc-windows-msvc"}
PYTHONS = ("3.11.2", "3.12", "3.13")  # the first is that of Debian 12
EXTRAS = ("", "gpu learned las phone ros usd", "dev release")
SOURCES = ("--constraint", "constraints.txt", "pyproject.toml")
OLDEST_MACOS = "14.0"


def why_not(platform: str, python: str, extras: str) -> str:
    """The resolver's last words if some package has no wheel; empty if all have."""
    added = [word for extra in extras.split() for word in ("--extra", extra)]
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--only-binary",
        ":all:",
        "--python-version",
        python,
        "pyproject.toml",
    ]
    ended = subprocess.run(
        [*command, "--python-platform", platform, *added],
        cwd=ROOT,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": OLDEST_MACOS},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stderr.strip() or "uv failed" if ended.returncode else ""


def main() -> None:
    """Print a line per system, Python and set of extras; exit with 1 if wheels are missing for one."""
    failed = 0
    for (system, platform), python, extras in product(PLATFORMS.items(), PYTHONS, EXTRAS):
        reason = why_not(platform, python, extras)
        failed += bool(reason)
        print(f"{system:8} {python:7} {extras or 'no extras':22} {reason or 'wheels exist'}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
