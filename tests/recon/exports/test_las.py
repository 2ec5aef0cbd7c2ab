"""LAS and LAZ: read back by laspy, they hold what cloud.ply does, and where on the Earth it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import laspy
import numpy as np
import pytest
from pyproj import CRS, Transformer

from recon.core.errors import OutputError
from recon.core.geodesy import latitude_longitude_height
from recon.core.metric import Metric
from recon.exports import export
from recon.exports.las import UNIT_RECORD, georeference, utm_zone
from recon.exports.ply import CloudPoints, read_points
from recon.exports.readers import CheckError, read_las
from recon.store.map import ReconstructedMap
from tests.support import make_map

ORIGIN = (-33.8567844, 151.2152967, 22.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    return make_map(tmp_path_factory.mktemp("map"))


@pytest.fixture(scope="module")
def cloud(made: ReconstructedMap) -> CloudPoints:
    return read_points(export(made, "ply", made.folder / "cloud.ply"))


@pytest.mark.parametrize("name", ["cloud.las", "cloud.laz"])
def test_the_points_are_those_of_the_cloud(
    made: ReconstructedMap, cloud: CloudPoints, tmp_path: Path, name: str
) -> None:
    path = export(made, "las", tmp_path / name)
    found = read_las(path)
    assert found.header.are_points_compressed == (path.suffix == ".laz")
    extent = np.ptp(cloud.positions, axis=0).max()
    assert found.header.scales.max() < extent / 2e8
    assert np.abs(found.xyz - cloud.positions).max() <= found.header.scales.max()
    colours = np.column_stack([found.red, found.green, found.blue])
    assert np.array_equal(colours, cloud.colours.astype(np.uint16) * 257)
    assert np.array_equal(found["confidence"], cloud.confidence.astype(np.float32))
    assert cloud.normals is not None
    assert np.array_equal(found["normal_z"], cloud.normals[:, 2].astype(np.float32))
    assert found.header.parse_crs() is None
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_map_on_the_earth_is_in_utm(made: ReconstructedMap, cloud: CloudPoints, tmp_path: Path) -> None:
    metric = Metric(4, 0.5, ORIGIN)
    found = read_las(export(replace(made, metric=metric), "las", tmp_path / "cloud.las"))
    crs = found.header.parse_crs()
    assert crs == CRS.from_epsg(32756)
    back = Transformer.from_crs(crs, "EPSG:4326")
    row = len(cloud.positions) // 2
    latitude, longitude, height = latitude_longitude_height(cloud.positions[row], ORIGIN)
    x, y, z = found.xyz[row]
    assert back.transform(x, y) == pytest.approx((latitude, longitude), abs=1e-10)  # 10 micrometres
    assert z == pytest.approx(height, abs=1e-5)
    stated = [record for record in found.header.vlrs if record.user_id == UNIT_RECORD[0]]
    assert [record.record_data.decode() for record in stated] == [str(metric)]


def test_every_place_has_its_zone() -> None:
    assert [utm_zone((0.0, longitude, 0.0)) for longitude in (-180.0, -0.1, 0.0, 8.5, 179.9, 180.0)] == [
        1,
        30,
        31,
        32,
        60,
        1,
    ]
    crs, placed = georeference(Metric(4, 0.5, (52.0, 9.0, 100.0)))
    assert crs == CRS.from_epsg(32632)
    np.testing.assert_allclose(placed(np.zeros((1, 3)))[0, [0, 2]], (500_000, 100), atol=1e-6)  # the central meridian


def test_another_suffix_is_refused(made: ReconstructedMap, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.las or \.laz, got .*cloud\.txt\. Use --out .*cloud\.las\."):
        export(made, "las", tmp_path / "cloud.txt")
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_is_noticed(made: ReconstructedMap, tmp_path: Path) -> None:
    path = export(made, "las", tmp_path / "cloud.las")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises((CheckError, laspy.LaspyException, ValueError)):
        read_las(path)
