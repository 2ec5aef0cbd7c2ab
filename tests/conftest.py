"""Fixtures that several test packages share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from recon.core.bundled import XFEAT
from recon.core.helping import STRICT
from recon.core.workers import VARIABLE

if TYPE_CHECKING:
    from recon.sfm.xfeat_matching import XFeatMatcher

os.environ.setdefault(STRICT, "1")  # a fault of a helper must not go unnoticed in tests
os.environ.setdefault(VARIABLE, "0")  # other processes would import everything again and know no fakes

MEMORY = Path("/dev/shm")
# A small map waits for the disk 30 times, a small run 80 times: half a second and more.
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)

# The same examples in every run, however slow the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def folder_or_skip(variable: str, beside: str, what: str) -> Path:
    """The folder that an environment variable names, or ``beside`` the checkout; skips the test without it."""
    folder = Path(os.environ.get(variable, Path(__file__).resolve().parents[2] / beside))
    if not folder.is_dir():
        pytest.skip(f"the {what} are missing: {folder} does not exist; set {variable}")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sequences: RECON_REAL_DATA, or shared/data beside the checkout."""
    return folder_or_skip("RECON_REAL_DATA", "shared/data", "real sequences")


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """The outputs of the public code: RECON_REFERENCE, or shared/reference beside the checkout."""
    return folder_or_skip("RECON_REFERENCE", "shared/reference", "reference outputs")


@pytest.fixture(scope="session")
def xfeat_matcher() -> XFeatMatcher:
    """XFeat and LighterGlue on the CPU; skips the test without their weights."""
    from recon.sfm.xfeat_matching import open_xfeat_matcher  # noqa: PLC0415  torch takes seconds to import

    if XFEAT.path() is None:
        pytest.skip(f"the weight file of XFeat is missing. {XFEAT.remedy}")
    return open_xfeat_matcher("cpu")
