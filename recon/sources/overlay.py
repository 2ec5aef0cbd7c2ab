"""Text, logos, bars and parts of the vehicle that stay in place in the image while the scene moves.

If a gradient has the same direction in nearly all of a dozen different views, it does not belong to the scene: a
burnt-in clock, a translucent logo, the edge of a bonnet. Only directions count, not values, so the background may shine
through. An area that such edges cut off from the scene, such as a black bar, is masked too, unless it changes about as
much as the scene. Views differ if most parts of the image have changed, so a static camera gives no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.events import Listener, Notice
from recon.core.types import Chunk, Frame, Image, Mask

SIDE = 640  # longest side of the images in which overlays are detected [px]
GLANCE = 160  # the same, to distinguish views; so coarse that a trembling hand makes no new view
WEAK = 10.0  # grey levels per pixel, below which a gradient counts less
CELLS = 8  # along each side, in which two images are compared
TEXTURED, FEWEST_TEXTURED = 0.02, 4  # mean squared direction of a cell with texture, and the least number of such cells
CHANGED = 0.5  # correlation of directions below which a cell shows something else
STEADY = 0.7  # length of the mean direction, 1 if all are the same; at most 0.5 in scenes
EVIDENCE = 12.0  # number of views times the square of that length; chance exceeds it at 6 pixels in a million
MEMORY = 120  # beyond this number of views, the older half counts half
MOST_STEADY = 0.3  # of the edges; if more are steady, the views hardly differ
BLACK = 24  # grey level that bars never exceed
STEADY_RIM = 0.5  # of the rim of a bar
LARGE = 0.002  # of the image; a black area at its border that exceeds this is a bar
FEWEST_PIXELS = 24  # of a text's edges
REACH = 0.012  # of the longest side: gaps between letters, and the distance at which features would still see an edge
QUIET = 0.25  # of the scene's liveliness
FEWEST_LOOKS, MOST_LOOKS = 6, 24  # images in which the program checks whether a part sways
BY_SWAYING = 0.4  # of a part's change, explained by shifts: at most 0.13 in overlays, at least 0.68 in swaying figures

Field = NDArray[np.float32]


def directions(image: Image, side: int) -> Field:
    """Direction of the grey values' gradient (2, h, w) in an RGB image shrunk to that side; short where it is weak."""
    scale = min(1.0, side / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    length = np.maximum(cv2.magnitude(across, down), np.float32(WEAK))
    return np.stack([across / length, down / length])


def differ(first: Field, second: Field) -> bool:
    """Whether most textured parts of two images show different things; False if there is hardly any texture."""
    both, one, other = (
        cv2.resize((a * b).sum(axis=0), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        for a, b in ((first, second), (first, first), (second, second))
    )
    textured = np.minimum(one, other) > TEXTURED
    if textured.sum() < FEWEST_TEXTURED:
        return False
    return bool(np.median((both / np.sqrt(one * other + 1e-12))[textured]) < CHANGED)


@dataclass
class Evidence:
    """What all different views of one size share.

    views: their number, older ones count less. last: the last one, small. total, squares: sums of their directions (2,
    h, w) and squared lengths (h, w). brightest: (h, w) grey levels.
    """

    views: float = 0.0
    last: Field | None = None
    total: Field = field(default_factory=lambda: np.zeros(1, np.float32))
    squares: Field = field(default_factory=lambda: np.zeros(1, np.float32))
    brightest: Image = field(default_factory=lambda: np.zeros(1, np.uint8))

    def look(self, image: Image) -> None:
        """Add an image if its view differs from the last."""
        glance = directions(image, GLANCE)
        if self.last is not None and not differ(self.last, glance):
            return
        seen = directions(image, SIDE)
        grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), seen.shape[:0:-1], interpolation=cv2.INTER_AREA)
        self.last, self.total = glance, self.total + seen
        self.squares = self.squares + seen[0] ** 2 + seen[1] ** 2
        self.brightest = np.maximum(self.brightest, grey)
        self.views += 1
        if self.views > MEMORY:
            self.views /= 2
            self.total *= np.float32(0.5)
            self.squares *= np.float32(0.5)

    def overlay(self) -> Mask | None:
        """Pixels (h, w) at which something stays in place; None while the views are too few or too similar."""
        if self.views < EVIDENCE:
            return None
        steadiness = cv2.magnitude(self.total[0], self.total[1]) / self.views
        steady = steadiness > max(STEADY, np.sqrt(EVIDENCE / self.views))
        edges = np.sqrt(self.squares / self.views) > 0.5
        if steady.sum() > MOST_STEADY * edges.sum():
            return None
        lively = np.maximum(self.squares / self.views - np.square(steadiness), 0)
        return _grown(steady, _bars(self.brightest, steady), lively)


def _bars(brightest: Image, steady: Mask) -> Mask:
    """Black areas at the border of the image that end at a steady edge; a dark scene has no such edge."""
    black = (brightest <= BLACK).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(black, connectivity=4)
    height, width = black.shape
    left, top, right, bottom = stats[:, 0], stats[:, 1], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
    border = (left == 0) | (top == 0) | (right == width) | (bottom == height)
    kept = border & (stats[:, 4] >= LARGE * black.size)
    kept[0] = False  # what is not black
    near_steady = cv2.dilate(steady.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    for number in np.flatnonzero(kept):
        area = (labels == number).astype(np.uint8)
        rim = cv2.dilate(area, np.ones((3, 3), np.uint8)) > area
        kept[number] = not rim.any() or near_steady[rim].mean() > STEADY_RIM
    return np.asarray(kept[labels])


def _grown(steady: Mask, bars: Mask, lively: Field) -> Mask:
    """Steady edges that chance does not explain and black bars, with what they surround or cut off from the scene."""
    radius = max(3, round(REACH * max(steady.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    joined = cv2.dilate((steady | bars).astype(np.uint8), disc)
    count, labels = cv2.connectedComponents(joined)
    pixels = np.bincount(labels[steady | bars], minlength=count)
    found = np.asarray((pixels >= FEWEST_PIXELS)[labels] & (joined > 0), dtype=np.bool_)
    if not found.any():
        return found
    count, pockets = cv2.connectedComponents((~found).astype(np.uint8), connectivity=4)
    total = np.bincount(pockets.ravel(), lively.ravel(), count)
    size = np.maximum(np.bincount(pockets.ravel(), minlength=count), 1)
    total[0] = 0  # what was found
    scene = int(total.argmax())
    quiet = total / size < QUIET * total[scene] / size[scene]
    return np.asarray(found | quiet[pockets])


def without_swaying(overlay: Mask, images: Sequence[Image]) -> Mask:
    """The parts of an overlay (h, w) that stay exactly where they are in some RGB images.

    A person whom the camera follows stays nearly in place, but sways: a small shift explains most of the change there.
    An overlay does not shift, and a background that shines through changes in other ways.
    """
    if len(images) < FEWEST_LOOKS or not overlay.any():
        return overlay
    chosen = images[:: -(-len(images) // MOST_LOOKS)]
    greys = np.stack([_grey(image, overlay.shape[::-1]) for image in chosen])
    mean = greys.mean(axis=0)
    slopes = np.stack([cv2.Sobel(mean, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1))], axis=-1)
    count, labels = cv2.connectedComponents(overlay.astype(np.uint8))
    kept = np.zeros(count, np.bool_)
    for number in range(1, count):
        part = labels == number
        kept[number] = not _sways(slopes[part], greys[:, part] - mean[part])
    return np.asarray(kept[labels])


def _grey(image: Image, size: tuple[int, int]) -> Field:
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 1), dtype=np.float32)


def _sways(slopes: Field, changes: Field) -> bool:
    """Whether shifts of a part explain how its pictures change. slopes: (pixels, 2). changes: (pictures, pixels)."""
    shifts, *_ = np.linalg.lstsq(slopes, changes.T)
    left = float(np.square(changes.T - slopes @ shifts).sum())
    total = float(np.square(changes).sum())
    return total - left > BY_SWAYING * (total + changes.size)  # one grey level is noise


class OverlayFinder:
    """Masks overlays, starting with the first chunk that reveals them."""

    def __init__(self, tell: Listener) -> None:
        self._tell = tell
        self._evidence: dict[tuple[int, ...], Evidence] = {}
        self._found: dict[tuple[int, ...], Mask] = {}
        self._seen = -1

    def leave_out(self, chunk: Chunk) -> Chunk:
        """The chunk with the overlay masked in its frames, as far as the frames read so far reveal it."""
        new = [frame for frame in chunk.frames if frame.index > self._seen]
        self._look(new)
        self._seen = max(self._seen, chunk.frames[-1].index)
        frames = tuple(self._masked(frame) for frame in chunk.frames)
        return chunk if all(map(_same, frames, chunk.frames)) else replace(chunk, frames=frames)

    def _look(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self._evidence.setdefault(frame.image.shape, Evidence()).look(frame.image)
        for shape in {frame.image.shape for frame in frames}:
            overlay = self._evidence[shape].overlay()
            if overlay is not None:
                images = [frame.image for frame in frames if frame.image.shape == shape]
                self._take_over(shape, without_swaying(overlay, images))

    def _take_over(self, shape: tuple[int, ...], overlay: Mask) -> None:
        if overlay.any() and not any(known.any() for known in self._found.values()):
            self._tell(
                Notice(
                    f"Text, a logo or a border that stays in place covers {overlay.mean():.1%} of the image and is "
                    "left out of the map."
                )
            )
        resized = cv2.resize(overlay.astype(np.uint8), shape[1::-1], interpolation=cv2.INTER_NEAREST)
        self._found[shape] = np.asarray(resized, dtype=np.bool_)

    def _masked(self, frame: Frame) -> Frame:
        overlay = self._found.get(frame.image.shape)
        return frame if overlay is None or not overlay.any() else replace(frame, mask=frame.mask & ~overlay)


def _same(first: Frame, second: Frame) -> bool:
    return first is second
