"""Files that come with the program: inside it where it was installed, at the top of a checkout where it was not."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def bundled_weights(name: str) -> Path:
    """Where a weight file of the program lies; there may be none."""
    installed = Path(str(resources.files("recon"))) / "data" / "weights" / name
    return installed if installed.is_file() else CHECKOUT / "data" / "weights" / name


def sample_folder() -> Path:
    """The sample of a checkout; what is installed has none, and looks for it where it looks for other sequences."""
    checkout = CHECKOUT / "data" / "sample"
    return checkout if checkout.is_dir() else Path("sample")
