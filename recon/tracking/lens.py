"""From pixels to directions and back, with OpenCV, which does not hold the interpreter lock as COLMAP does."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from recon.core.similarity import Array
from recon.core.types import Camera, Frame

GUESSED_FOCAL = 1.0  # in longest sides: between the lenses of phones and of webcams
RADIAL_TERMS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 0, "SIMPLE_RADIAL": 1, "RADIAL": 2, "OPENCV": 4}


def rays(camera: Camera, pixels: Array) -> Array:
    """The points (n, 2) of the plane z = 1 that the camera sees at pixels (n, 2) of its original."""
    found = np.ascontiguousarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
    if not len(found):
        return np.zeros((0, 2))
    undo = cv2.fisheye.undistortPoints if camera.model == "OPENCV_FISHEYE" else cv2.undistortPoints
    return np.asarray(undo(found, camera.matrix(), _distortion(camera)), dtype=np.float64).reshape(-1, 2)


def _distortion(camera: Camera) -> Array:
    """OpenCV's k1, k2, p1, p2, or k1 to k4 of a fisheye lens; COLMAP has the same formulas."""
    count = RADIAL_TERMS.get(camera.model, 4)
    terms = camera.params[len(camera.params) - count :]
    return np.array([*terms, *[0.0] * (4 - count)])


def guessed(frame: Frame) -> Camera:
    """A lens without distortion, of the focal length that the frame has or that is likely."""
    width, height = frame.original_size
    focal = frame.focal or GUESSED_FOCAL * max(width, height)
    return Camera("SIMPLE_PINHOLE", width, height, (focal, width / 2, height / 2))


def stretched(camera: Camera, factor: float) -> Camera:
    """With focal lengths that are a factor longer."""
    count = 1 if camera.matrix()[0, 0] == camera.params[0] == camera.matrix()[1, 1] else 2
    focals = [factor * focal for focal in camera.params[:count]]
    return replace(camera, params=(*focals, *camera.params[count:]))
