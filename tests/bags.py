"""Recordings of ROS for tests, written by rosbags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from recon.sources.ros_video import COMPRESSED_VIDEO, DEFINITION

SECOND = 10**9
STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
Row = tuple[str, int, Any]  # topic, time of receipt [ns], message


class Messages:
    """Makes messages of ROS 1 or 2."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.store = get_typestore(Stores.ROS1_NOETIC if version == 1 else Stores.ROS2_JAZZY)
        self.store.register(get_types_from_msg(DEFINITION, COMPRESSED_VIDEO))

    def of(self, kind: str, *values: Any, **fields: Any) -> Any:
        return self.store.types[kind](*values, **fields)

    def header(self, time: float) -> Any:
        whole = int(time)
        stamp = self.of("builtin_interfaces/msg/Time", whole, round((time - whole) * SECOND))
        sequence = {"seq": 0} if self.version == 1 else {}
        return self.of("std_msgs/msg/Header", stamp=stamp, frame_id="camera", **sequence)

    def image(self, time: float, pixels: Any, encoding: str = "rgb8", *, padding: int = 0, big: bool = False) -> Any:
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
        rows = np.pad(rows, ((0, 0), (0, padding)))
        height, width = pixels.shape[:2]
        if encoding in ("nv12", "nv21"):
            height = height * 2 // 3
        step, data = rows.shape[1], rows.reshape(-1)
        return self.of("sensor_msgs/msg/Image", self.header(time), height, width, encoding, int(big), step, data)

    def compressed(self, time: float, pixels: Any, suffix: str = ".png") -> Any:
        _, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return self.of("sensor_msgs/msg/CompressedImage", self.header(time), suffix[1:], data.reshape(-1))

    def packet(self, time: float, data: bytes, codec: str = "h264") -> Any:
        """A message of a video."""
        stamp, content = self.header(time).stamp, np.frombuffer(data, np.uint8)
        return self.of(COMPRESSED_VIDEO, timestamp=stamp, frame_id="camera", data=content, format=codec)

    def camera_info(
        self, time: float, size: tuple[int, int], k: Sequence[float], d: Sequence[float] = (), model: str = "plumb_bob"
    ) -> Any:
        names = ("D", "K", "R", "P") if self.version == 1 else ("d", "k", "r", "p")
        projection = np.column_stack([np.reshape(k, (3, 3)) * [[0.9], [0.9], [1]], np.zeros(3)]).ravel()
        arrays = (np.array(d, float), np.array(k, float), np.eye(3).ravel(), projection)
        return self.of(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(time), height=size[1], width=size[0], distortion_model=model,
            binning_x=0, binning_y=0, roi=self.of("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
            **dict(zip(names, arrays, strict=True)),
        )  # fmt: skip

    def fix(self, time: float, place: tuple[float, float, float], *, status: int = 0) -> Any:
        state = self.of("sensor_msgs/msg/NavSatStatus", status=status, service=1)
        return self.of("sensor_msgs/msg/NavSatFix", self.header(time), state, *place, np.zeros(9), 0)


def write_bag(path: Path, rows: Iterable[Row], messages: Messages, storage: str = "mcap") -> Path:
    """Write a ROS 1 bag, or the folder of one of ROS 2. Returns ``path``."""
    writer: AbstractContextManager[Any]
    if messages.version == 1:
        writer = Writer1(path)
    else:
        plugin = STORAGE[storage]
        writer = Writer2(path, version=9, storage_plugin=plugin)
    with writer as bag:
        connections: dict[str, Any] = {}
        for topic, time, message in rows:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=messages.store)
            serialise = messages.store.serialize_ros1 if messages.version == 1 else messages.store.serialize_cdr
            bag.write(connections[topic], time, serialise(message, kind))
    return path
