"""``python -m cli`` and the command ``recon``."""

from __future__ import annotations

import sys


def start() -> None:
    """Run the program, which Ctrl-C may end before all of it is imported."""
    try:
        from cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    start()
