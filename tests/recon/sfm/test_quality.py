"""``--quality``: how many features a frame has, and how fine its depth is."""

from pathlib import Path

import pytest

from recon.core.errors import SettingsError
from recon.core.types import Camera, Chunk
from recon.frontend import Workplace
from recon.settings import NetworkSettings, QualityName, RunSettings
from recon.sfm.frontend import StructureFromMotion
from tests.recon.sfm.conftest import read_frame

LENS = Camera("PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0))


@pytest.mark.parametrize(("quality", "features", "side"), [("fast", 1500, 240), ("best", 4096, 480)])
def test_features_and_depth_have_the_size_of_the_quality(
    tmp_path: Path, quality: QualityName, features: int, side: int
) -> None:
    settings = RunSettings(intrinsics=LENS, depth="classical", quality=quality)
    front_end = StructureFromMotion.prepare(settings)(Workplace(tmp_path, lambda _: None, []))
    chunk = Chunk(0, tuple(read_frame(index) for index in range(3)), 0)
    geometry = front_end.reconstruct(chunk)
    found = [len(front_end.database.features(index).keypoints) for index in range(3)]
    front_end.close()
    assert 0.9 * features < max(found) <= features
    assert [max(frame.depth.shape) for frame in geometry.frames] == [side] * 3


def test_a_network_has_no_quality() -> None:
    with pytest.raises(SettingsError, match="--quality fast cannot be combined with --weights"):
        RunSettings(network=NetworkSettings("vggt-1b"), quality="fast")
