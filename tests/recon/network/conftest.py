"""A small network for all tests of this folder."""

from __future__ import annotations

import pytest

from recon.network.model import GeometryNetwork
from tests.network_support import random_network


@pytest.fixture(scope="session")
def network() -> GeometryNetwork:
    """A small network in float64, so that rounding does not affect comparisons."""
    return random_network().double()
