"""Places on the Earth, and metres from an origin."""

from __future__ import annotations

import numpy as np
import pytest

from recon.core.geodesy import east_north_up, latitude_longitude_height, middle


@pytest.mark.parametrize("longitude", [0.0, 11.5, 179.9999, -179.9999, 180.0])
def test_the_middle_of_places_lies_among_them(longitude: float) -> None:
    metres = np.array([[-40.0, 3, 1], [0, 0, 0], [35, -2, 2]])
    places = np.array([latitude_longitude_height(one, (-17.0, longitude, 5.0)) for one in metres])
    assert (np.abs(places[:, 1]) <= 180).all()
    east, north, up = east_north_up(middle(places), (-17.0, longitude, 5.0))
    assert abs(east) < 0.01
    assert abs(north) < 0.01
    assert up == pytest.approx(1, abs=0.01)
