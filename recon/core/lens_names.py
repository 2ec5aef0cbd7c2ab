"""The lens models as users name them. Without imports, so that the command line starts fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from recon.core.types import CameraModel

LensName = Literal["pinhole", "radial", "opencv", "fisheye"]
MODELS: dict[LensName, CameraModel] = {
    "pinhole": "PINHOLE",
    "radial": "SIMPLE_RADIAL",
    "opencv": "OPENCV",
    "fisheye": "OPENCV_FISHEYE",
}
