"""The cameras of this machine, and why one cannot be used."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

from av.error import FFmpegError
from natsort import natsorted

DEVICES = Path("/dev")
NAMES = Path("/sys/class/video4linux")


def device_path(spec: str) -> str:
    """The device of a camera number, or the device itself."""
    return str(DEVICES / f"video{spec}") if spec.isdecimal() else spec


def found_devices() -> tuple[str, ...]:
    """Every V4L2 device with its name, such as ``/dev/video0 (HD Webcam)``."""
    devices = natsorted(DEVICES.glob("video[0-9]*"))
    return tuple(f"{device} ({_name(device)})" for device in devices)


def _name(device: Path) -> str:
    try:
        return (NAMES / device.name / "name").read_text().strip()
    except OSError:
        return "without a name"


def why_unusable(device: str, error: OSError | FFmpegError) -> str:
    """One or two sentences for the user: what is wrong with the device, what to do, and which devices exist."""
    if not sys.platform.startswith("linux"):
        return f"{device} cannot be opened: cameras are read through Linux's V4L2. Give the URL of a stream instead."
    what = {
        errno.ENOENT: f"There is no camera {device}.",
        errno.ENODEV: f"There is no camera at {device}.",
        errno.EBUSY: f"The camera {device} is in use by another program. Close that program.",
        errno.EACCES: f"You may not use the camera {device}: join the group that owns it (often video).",
        errno.EPERM: f"You may not use the camera {device}: give this program or container access to it.",
    }.get(error.errno or 0, f"{device} does not work as a camera ({error.strerror or error}).")
    devices = found_devices()
    return f"{what} Devices found: {', '.join(devices) if devices else 'none'}."
