"""Photometric jitter of training images, independent for every view: matching must not rely on equal colours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def jitter(image: FloatImage, random: np.random.Generator, strength: float) -> FloatImage:
    """An image (h, w, 3) in 0..1 under another light, lens and sensor; strength 0 leaves it nearly as it is."""
    image = _colours(image, random, strength)
    if random.random() < 0.3 * strength:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 1.3)), dtype=np.float32)
    if random.random() < 0.15 * strength:
        image = _motion_blur(image, random)
    if random.random() < 0.7:
        deviation = strength * 0.06 * random.random() ** 2
        image = image + deviation * random.standard_normal(image.shape, dtype=np.float32)
    if random.random() < 0.25 * strength:
        image = _erase(image, random)
    image = np.clip(image, 0, 1)
    return _jpeg(image, random) if random.random() < 0.4 * strength else image


def _colours(image: FloatImage, random: np.random.Generator, strength: float) -> FloatImage:
    """Change saturation (0 to 2), hue, white balance, gamma, contrast and brightness, and darken towards a corner."""
    grey = (image @ LUMA)[..., None]
    saturation = np.float32(1 + strength * random.uniform(-1, 1))
    image = np.asarray(grey + saturation * (image - grey), dtype=np.float32)
    if random.random() < 0.3 * strength:
        image = np.asarray(image @ _hue_rotation(random.uniform(-1.5, 1.5)), dtype=np.float32)
    balance = np.exp(strength * 0.15 * random.standard_normal(3)).astype(np.float32)
    gamma = float(np.exp(strength * random.uniform(-0.4, 0.4)))
    contrast = float(np.exp(strength * random.uniform(-0.7, 0.5)))
    brightness = strength * random.uniform(-0.15, 0.15)
    image = np.asarray(np.clip(image * balance, 0, 1) ** gamma, dtype=np.float32)
    image = (image - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness)
    if random.random() < 0.3 * strength:
        image = image * _shade(image.shape, random)
    return np.asarray(image, dtype=np.float32)


def _hue_rotation(angle: float) -> NDArray[np.float32]:
    """Rotation (3, 3) of colours about the grey axis (Rodrigues)."""
    axis = np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turned = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.asarray(turned, dtype=np.float32)


def _shade(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """A smooth brightness ramp (h, w, 1), 0.5 to 1."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * columns / shape[1] + np.sin(angle) * rows / shape[0]
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    return np.asarray(1 - random.uniform(0, 0.5) * ramp, dtype=np.float32)[..., None]


def _motion_blur(image: FloatImage, random: np.random.Generator) -> FloatImage:
    length, angle = int(random.integers(2, 5)), random.uniform(0, np.pi)
    kernel = np.zeros((9, 9), np.float32)
    reach = length * np.array([np.cos(angle), np.sin(angle)])
    cv2.line(kernel, tuple(np.round(4 - reach / 2).astype(int)), tuple(np.round(4 + reach / 2).astype(int)), 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.float32)


def _erase(image: FloatImage, random: np.random.Generator) -> FloatImage:
    """Fill one to three rectangles with a colour or noise, like things that moved, reflections, or dirt on the lens."""
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(random.integers(1, 4)):
        tall, wide = (int(size * random.uniform(0.05, 0.3)) + 1 for size in (height, width))
        row, column = random.integers(0, height - tall), random.integers(0, width - wide)
        patch = image[row : row + tall, column : column + wide]
        patch[:] = random.random(3, dtype=np.float32)
        if random.random() < 0.5:
            patch += 0.3 * random.standard_normal(patch.shape, dtype=np.float32)
    return image


def _jpeg(image: FloatImage, random: np.random.Generator) -> FloatImage:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(25, 95))]
    _, data = cv2.imencode(".jpg", (255 * image).astype(np.uint8), quality)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.float32) / np.float32(255)
