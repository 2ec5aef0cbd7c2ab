"""Files that come with the program: inside the package when installed, at the top of a checkout otherwise."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def bundled_weights(name: str) -> Path:
    """The path of a bundled weight file, which may not exist."""
    installed = Path(str(resources.files("recon"))) / "data" / "weights" / name
    return installed if installed.is_file() else CHECKOUT / "data" / "weights" / name


def sample_folder() -> Path:
    """The sample in a checkout; an installed package has none and looks for it among the other sequences."""
    checkout = CHECKOUT / "data" / "sample"
    return checkout if checkout.is_dir() else Path("sample")
