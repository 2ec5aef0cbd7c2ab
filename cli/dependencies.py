"""Error messages for missing packages and system libraries."""

from __future__ import annotations

import re

from recon.core.errors import DependencyError

DEBIAN_PACKAGES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libgomp.so.1": "libgomp1",
    "libX11.so.6": "libx11-6",
}
EXTRAS = {
    "laspy": "las",
    "lazrs": "las",
    "pyproj": "las",
    "usd-core": "usd",
    "rosbags": "ros",
    "aiohttp": "phone",
    "cryptography": "phone",
    "segno": "phone",
    "ray": "fleet",
    "lancedb": "fleet",
    "pyarrow": "fleet",
    "fastapi": "fleet",
    "fastapi-offline": "fleet",
    "starlette": "fleet",
    "uvicorn": "fleet",
}  # of pyproject.toml, by the packages that they add
DISTRIBUTIONS = {"pxr": "usd-core"}  # of modules of another name
POSIX_MODULES = ("fcntl", "resource")
OWN_PACKAGES = ("recon", "retrieval", "viewer", "cli")


def explain(error: ImportError | OSError) -> DependencyError | None:
    """The error for a missing package or system library; None for any other error."""
    library = re.match(r"(lib\S+\.so\S*): cannot open shared object file", str(error))
    if library:
        name = library[1]
        package = DEBIAN_PACKAGES.get(name)
        remedy = (
            f"On Debian or Ubuntu: apt-get install {package}" if package else "Install the package that provides it."
        )
        return DependencyError(f"The system library {name} is not installed. {remedy}")
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] not in OWN_PACKAGES:
        name = error.name.split(".")[0]
        name = DISTRIBUTIONS.get(name, name.replace("_", "-"))
        if name in POSIX_MODULES:
            return DependencyError("This program needs Linux or macOS. On Windows, run it in WSL 2.")
        what, how = ("it", f"'.[{EXTRAS[name]}]'") if name in EXTRAS else ("all packages", ".")
        return DependencyError(f"The Python package {name} is not installed. Install {what} with: pip install {how}")
    return None
