"""The map as a recording of ROS 2: poses, transforms and the dense cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from recon.core.errors import OutputError
from recon.core.types import PlacedFrame
from recon.exports.folders import new_folder
from recon.exports.ply import mapped_vertices, write_ply
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

POSE, TRANSFORM, POINTS = "/recon/pose", "/tf", "/recon/points"
WORLD, CAMERA = "map", "camera_optical_frame"  # by REP 105 and REP 103: x right, y down, z forward
OLDEST: Literal[8] = 8  # version of metadata.yaml that rosbags writes and most distributions read
SECOND = 10**9  # ns
LATEST = 2**31 * SECOND  # a stamp has 32 bits for the seconds
FLOAT = 7  # sensor_msgs/PointField
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])


def write_rosbag2(reconstruction: ReconstructedMap, folder: Path, settings: CloudSettings | None = None) -> None:
    """Write a new ``folder`` with an MCAP file and its metadata.yaml.

    ``/recon/pose`` and ``/tf`` have the pose of every frame that has one, in the world ``map``, at the time of the
    frame; ``/recon/points`` has the points of ``write_ply`` once, at the time of the first. A map without depth has no
    points. Raises as ``write_ply``, and OutputError if ``folder`` is in use or cannot be written, or a time is none
    that ROS knows.
    """
    times = [round(frame.timestamp * SECOND) for frame in reconstruction.posed]
    if times and not 0 <= min(times) <= max(times) < LATEST:
        raise OutputError("ROS knows times from 1970 to 2038, and frames of this map have others. Use --to tum.")
    with new_folder(folder) as output:
        cloud = output / "cloud.ply"
        write_ply(reconstruction, cloud, settings)
        with Writer(output / folder.name, version=OLDEST, storage_plugin=StoragePlugin.MCAP) as bag:
            messages = _Messages(bag)
            if times and len(vertices := mapped_vertices(cloud)):
                messages.add(POINTS, times[0], messages.points(times[0], vertices))
            for time, frame in zip(times, reconstruction.posed, strict=True):
                messages.add(POSE, time, messages.pose(time, frame))
                messages.add(TRANSFORM, time, messages.transform(time, frame))
        cloud.unlink()
        for file in sorted((output / folder.name).iterdir()):  # rosbags makes the folder itself
            file.rename(output / file.name)
        (output / folder.name).rmdir()


class _Messages:
    """Makes messages and adds them to a recording."""

    def __init__(self, bag: Writer) -> None:
        self._bag, self._store = bag, get_typestore(Stores.ROS2_HUMBLE)
        self._connections: dict[str, Any] = {}

    def add(self, topic: str, time: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._bag.add_connection(topic, kind, typestore=self._store)
        self._bag.write(self._connections[topic], time, self._store.serialize_cdr(message, kind))

    def _of(self, kind: str, *values: Any) -> Any:
        return self._store.types[kind](*values)

    def _header(self, time: int) -> Any:
        stamp = self._of("builtin_interfaces/msg/Time", *divmod(time, SECOND))
        return self._of("std_msgs/msg/Header", stamp, WORLD)

    def _place(self, frame: PlacedFrame, kind: str) -> tuple[Any, Any]:
        """The camera's centre as a message of this kind, and its rotation."""
        quaternion = Rotation.from_matrix(frame.world_from_cam.rotation).as_quat(canonical=True)
        centre = self._of(kind, *frame.world_from_cam.translation.tolist())
        return centre, self._of("geometry_msgs/msg/Quaternion", *quaternion.tolist())

    def pose(self, time: int, frame: PlacedFrame) -> Any:
        pose = self._of("geometry_msgs/msg/Pose", *self._place(frame, "geometry_msgs/msg/Point"))
        return self._of("geometry_msgs/msg/PoseStamped", self._header(time), pose)

    def transform(self, time: int, frame: PlacedFrame) -> Any:
        place = self._of("geometry_msgs/msg/Transform", *self._place(frame, "geometry_msgs/msg/Vector3"))
        stamped = self._of("geometry_msgs/msg/TransformStamped", self._header(time), CAMERA, place)
        return self._of("tf2_msgs/msg/TFMessage", [stamped])

    def points(self, time: int, vertices: NDArray[np.void]) -> Any:
        points = np.zeros(len(vertices), POINT)
        for name in ("x", "y", "z"):
            points[name] = vertices[name]
        red, green, blue = (vertices[name].astype(np.uint32) for name in ("red", "green", "blue"))
        points["rgb"] = red << 16 | green << 8 | blue  # the bits of a float, as PCL has it
        fields = [
            self._of("sensor_msgs/msg/PointField", name, 4 * row, FLOAT, 1)
            for row, name in enumerate(POINT.names or ())
        ]
        data = points.view(np.uint8)
        size = POINT.itemsize
        layout = (1, len(points), fields, False, size, size * len(points))
        return self._of("sensor_msgs/msg/PointCloud2", self._header(time), *layout, data, True)
