"""A recording of ROS 2 holds every pose twice, as pose and as transform, and the points of the cloud."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from scipy.spatial.transform import Rotation

from recon.core.errors import OutputError
from recon.evaluate.proof import prove
from recon.exports import export
from recon.exports.ply import mapped_vertices
from recon.exports.readers import CheckError, read_rosbag2
from recon.exports.rosbag2 import write_rosbag2
from recon.store.map import ReconstructedMap, open_map
from tests.support import forget_depth, make_map


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    return make_map(tmp_path_factory.mktemp("map"))


@pytest.fixture(scope="module")
def written(made: ReconstructedMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(made, "rosbag2", tmp_path_factory.mktemp("bag") / "rosbag2")


def test_files_are_those_of_a_recording(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["metadata.yaml", "rosbag2.mcap"]
    with Reader(written) as bag:
        assert {topic: info.msgtype for topic, info in bag.topics.items()} == {
            "/recon/pose": "geometry_msgs/msg/PoseStamped",
            "/tf": "tf2_msgs/msg/TFMessage",
            "/recon/points": "sensor_msgs/msg/PointCloud2",
        }


def test_poses_and_transforms_are_those_of_the_map(made: ReconstructedMap, written: Path) -> None:
    found = read_rosbag2(written)
    assert len(found["/recon/pose"]) == len(found["/tf"]) == len(made.posed)
    for stamped, message, frame in zip(found["/recon/pose"], found["/tf"], made.posed, strict=True):
        (transform,) = message.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("map", "camera_optical_frame")
        assert stamped.header.frame_id == "map"
        assert stamped.header.stamp.sec + 1e-9 * stamped.header.stamp.nanosec == pytest.approx(frame.timestamp)
        for place, turn in (
            (stamped.pose.position, stamped.pose.orientation),
            (transform.transform.translation, transform.transform.rotation),
        ):
            assert (place.x, place.y, place.z) == tuple(frame.world_from_cam.translation)
            rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            np.testing.assert_allclose(rotation, frame.world_from_cam.rotation, atol=1e-12)


def test_points_are_those_of_the_cloud(made: ReconstructedMap, written: Path, tmp_path: Path) -> None:
    vertices = mapped_vertices(export(made, "ply", tmp_path / "cloud.ply"))
    (cloud,) = read_rosbag2(written)["/recon/points"]
    kind = np.dtype({"names": [field.name for field in cloud.fields], "formats": ["<f4", "<f4", "<f4", "<u4"]})
    points = np.asarray(cloud.data).view(kind)
    assert len(points) == cloud.width == len(vertices) > 100
    for name in ("x", "y", "z"):
        np.testing.assert_array_equal(points[name], vertices[name].astype(np.float32))
    np.testing.assert_array_equal(points["rgb"] >> 16, vertices["red"])
    np.testing.assert_array_equal(points["rgb"] & 255, vertices["blue"])


def test_a_map_without_depth_has_poses_alone(tmp_path: Path) -> None:
    made = make_map(tmp_path / "map")
    forget_depth(made.folder)
    assert set(read_rosbag2(export(open_map(made.folder), "rosbag2", tmp_path / "bag"))) == {"/recon/pose", "/tf"}


def test_times_that_ros_does_not_know_are_refused(made: ReconstructedMap, tmp_path: Path) -> None:
    late = replace(made, frames=tuple(replace(frame, timestamp=2.2e9) for frame in made.frames))
    with pytest.raises(OutputError, match="from 1970 to 2038"):
        write_rosbag2(late, tmp_path / "late")
    assert list(tmp_path.iterdir()) == []


def test_damage_and_other_poses_are_found(made: ReconstructedMap, written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written, tmp_path / "copy")
    content = (copy / "rosbag2.mcap").read_bytes()
    (copy / "rosbag2.mcap").write_bytes(content[:-100])
    with pytest.raises(CheckError, match="damaged"):
        prove(made, "rosbag2", copy)
    turned = replace(
        made, frames=tuple(replace(one, world_from_cam=one.world_from_cam.inverse()) for one in made.frames)
    )
    export(turned, "rosbag2", tmp_path / "turned")
    assert not prove(made, "rosbag2", tmp_path / "turned").ok
    with AnyReader([written]) as bag:
        assert bag.message_count == 2 * len(made.posed) + 1
