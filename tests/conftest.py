"""Fixtures that several test packages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, however slow the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sequences: RECON_REAL_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RECON_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real sequences are not here: {folder} does not exist; set RECON_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """The outputs of the public code: RECON_REFERENCE, or shared/reference beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("RECON_REFERENCE", beside))
    if not folder.is_dir():
        pytest.skip(f"the reference outputs are not here: {folder} does not exist; set RECON_REFERENCE")
    return folder
