"""A street of houses, trees, parked cars and lamps, for places seen by day and by night. It runs along x, metres."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recon.lab.synthetic.sample import Palette, Vector, blob, box, upright
from recon.lab.synthetic.scenes import Scene, Solid, scene_from_solids
from recon.lab.synthetic.textures import Pattern

ROAD, FRONTS = 3.0, 6.8  # half widths: of the road, and between the houses
MARGIN = 90.0  # of street beyond both ends
LAMP_EVERY, LAMP_HEIGHT = 24.0, 5.0
SUN = (-300.0, -400.0, 600.0)
STOREY = 2.9
LIT = 0.35  # share of the windows that are lit by night

Span = tuple[float, float]
Surface = tuple[Pattern, float, Palette]  # and the size of its elements

FACADES: tuple[Surface, ...] = (
    (Pattern.BRICKS, 0.5, ("9c5844", "b4745c", "7c4434", "c8c0b4")),
    (Pattern.BRICKS, 0.6, ("b8a88c", "cabb9c", "a09070", "e0d8c8")),
    (Pattern.PLASTER, 1.6, ("d8cfb8", "c4b898", "b0a488", "f0ead8")),
    (Pattern.PLASTER, 1.2, ("a8b4bc", "90a0aa", "808c98", "d8dee0")),
    (Pattern.PLASTER, 2.0, ("c89c80", "b4846c", "a07058", "e8d0c0")),
    (Pattern.TILES, 0.7, ("b0aca4", "98948c", "a8a098", "6c6862")),
    (Pattern.WOOD, 0.3, ("8c7458", "705a42", "7c664c", "a48c6c")),
    (Pattern.TERRAZZO, 0.5, ("9c9890", "848078", "b8b0a4", "6c665e")),
)
GLASS: Palette = ("3c4a58", "566878", "28323e", "d8d4cc")
PANES: Surface = (Pattern.TILES, 0.45, GLASS)
SIGNS: tuple[Surface, ...] = tuple(
    (Pattern.POSTER, 0.3, palette)
    for palette in (
        ("b83830", "f0e8d0", "283858", "f0c850"),
        ("28583c", "e8e0c0", "c89838", "f4f0e4"),
        ("284878", "f0f0ec", "d86040", "c8ccd0"),
    )
)
DOORS: tuple[Surface, ...] = tuple(
    (Pattern.WOOD, 0.25, palette)
    for palette in (
        ("5a3a24", "6c4a30", "4c3020", "80583a"),
        ("2c4c44", "38584e", "24403a", "4c6c60"),
        ("742c28", "843a34", "602420", "985048"),
    )
)
HEDGE: Surface = (Pattern.TERRAZZO, 0.25, ("3c6030", "587c40", "2c4824", "7c9850"))
CARS: tuple[Palette, ...] = tuple(
    (paint, paint, paint, paint) for paint in ("8c2824", "c8ccd0", "28323c", "34507c", "d8d4c8", "5c6460")
)
ASPHALT: Palette = ("565656", "4a4a4c", "606060", "707070")
PAVING: Palette = ("8c8880", "7c7870", "989088", "605c56")
BARK: Palette = ("5c4a38", "4a3a2c", "6c5844", "7c6850")
LEAVES = HEDGE[2]
IRON: Palette = ("30343a", "282c30", "3c4046", "484c52")


@dataclass(frozen=True, eq=False)
class Street:
    """scene: a batch of one. lamps: (n, 3), where light comes from by night. glowing: (solids,), which shine by night:
    lit windows and the heads of lamps. parked: (solids,), 0 for what stays, 1 for cars of the day, 2 for those of the
    night.
    """

    scene: Scene
    lamps: Tensor
    glowing: Tensor
    parked: Tensor


@dataclass(frozen=True)
class _Facade:
    """The front of a house at y = ``front``, on one side of the street: -1 right, 1 left."""

    side: int
    front: float

    def block(self, along: Span, behind: Span, up: Span, surface: Surface) -> Solid:
        """A box by where it begins and ends along the street, behind the front, and upwards."""
        (near, far), (pattern, cell, palette) = sorted(self.front + self.side * depth for depth in behind), surface
        return box((along[0], near, up[0]), (along[1], far, up[1]), pattern, palette, cell)

    def plate(self, middle: float, foot: float, size: Span, surface: Surface) -> Solid:
        """A window, door or sign of a width and a height, a little before the wall."""
        wide, tall = size
        return self.block((middle - wide / 2, middle + wide / 2), (-0.06, 0.04), (foot, foot + tall), surface)


@dataclass(frozen=True)
class _Part:
    solid: Solid
    glowing: bool = False
    parked: int = 0


def street(seed: int, length: float) -> Street:
    """A street with houses from MARGIN before x = 0 to MARGIN beyond ``length``, every one of its own."""
    random = np.random.default_rng(seed)
    parts = list(_ground(length))
    for side in (-1, 1):
        parts += _houses(random, side, length)
        parts += _trees(random, side, length)
        for parked in (1, 2):
            parts += _cars(random, side, length, parked)
    lamps = [(x, (-1) ** n * (ROAD + 0.5), LAMP_HEIGHT) for n, x in enumerate(_along(length, LAMP_EVERY))]
    parts += [part for lamp in lamps for part in _lamp(lamp)]
    scene = scene_from_solids([part.solid for part in parts], SUN)
    seeds = torch.from_numpy(random.integers(1 << 30, size=(1, len(parts)), dtype=np.int32))
    return Street(
        replace(scene, seed=seeds, ambient=torch.tensor([0.55]), light_radius=torch.tensor([0.0])),
        torch.tensor(lamps) + torch.tensor([0.0, 0.0, -0.3]),
        torch.tensor([part.glowing for part in parts]),
        torch.tensor([part.parked for part in parts]),
    )


def part_of(scene: Scene, kept: Tensor) -> Scene:
    """The scene with only the solids (solids,) that are kept."""
    rows = kept.nonzero()[:, 0]
    per_solid = ("centre", "world_from_solid", "half_size", "pattern", "seed", "cell", "palette")
    chosen = {name: getattr(scene, name)[:, rows] for name in per_solid}
    return replace(scene, shapes=tuple(scene.shapes[row] for row in rows.tolist()), **chosen)


def _along(length: float, step: float) -> list[float]:
    return np.arange(-MARGIN, length + MARGIN, step).tolist()


def _ground(length: float) -> Iterator[_Part]:
    low, high = -MARGIN, length + MARGIN
    yield _Part(box((low, -ROAD, -0.3), (high, ROAD, 0.0), Pattern.PLASTER, ASPHALT, 0.9))
    for side in (-1, 1):
        near, far = sorted((side * ROAD, side * (FRONTS + 12)))
        yield _Part(box((low, near, -0.3), (high, far, 0.12), Pattern.TILES, PAVING, 0.6))


def _houses(random: np.random.Generator, side: int, length: float) -> Iterator[_Part]:
    x = -MARGIN
    while x < length + MARGIN:
        wide, storeys = float(random.uniform(7, 14)), int(random.integers(1, 5))
        yield from _house(random, side, x, wide, storeys)
        x += wide
        if random.random() < 0.3:
            gap = float(random.uniform(2, 5))
            tall = float(random.uniform(0.9, 2.0))
            yield _Part(_Facade(side, side * FRONTS).block((x, x + gap), (0.5, 1.1), (0.0, tall), HEDGE))
            x += gap


def _house(random: np.random.Generator, side: int, x: float, wide: float, storeys: int) -> Iterator[_Part]:
    facade = _Facade(side, side * (FRONTS + float(random.choice((0.0, 0.0, 0.6, 1.4)))))
    height = STOREY * storeys + float(random.uniform(0.3, 1.2))
    yield _Part(facade.block((x, x + wide), (0.0, 9.0), (0.0, height), _own(random, FACADES)))
    pattern, _, palette = _own(random, FACADES)
    cornice = (x - 0.1, x + wide + 0.1), (-0.25, 9.0), (height, height + 0.35)
    yield _Part(facade.block(*cornice, (pattern, 1.0, palette)))
    columns = max(2, int(wide / random.uniform(2.4, 3.6)))
    door, shop = int(random.integers(columns)), bool(random.random() < 0.4)
    size = (float(random.uniform(0.8, 1.5)), float(random.uniform(1.1, 1.8)))
    for column in range(columns):
        middle = x + wide * (column + 0.5) / columns
        for storey in range(storeys):
            if storey == 0 and column == door:
                yield _Part(facade.plate(middle, 0.12, (1.0, 2.1), _own(random, DOORS)))
            elif not (storey == 0 and shop):
                lit = bool(random.random() < LIT)
                yield _Part(facade.plate(middle, STOREY * storey + 0.8, size, PANES), glowing=lit)
    if shop:
        pattern, cell, palette = _own(random, SIGNS)
        yield _Part(facade.plate(x + wide / 2, 2.45, (0.8 * wide, 0.6), (pattern, cell, palette)))
        middle = x + wide * (0.3 if door * 2 > columns else 0.7)
        yield _Part(facade.plate(middle, 0.5, (0.4 * wide, 1.7), (pattern, 2 * cell, palette)), glowing=True)


def _own(random: np.random.Generator, surfaces: Sequence[Surface]) -> Surface:
    """One of the surfaces with colours and a size of its own."""
    pattern, cell, palette = surfaces[int(random.integers(len(surfaces)))]
    tint = random.uniform(0.75, 1.15) * random.uniform(0.9, 1.1, 3)
    tinted = [
        np.clip(tint * list(bytes.fromhex(colour)), 0, 255).astype(np.uint8).tobytes().hex() for colour in palette
    ]
    return pattern, cell * float(random.uniform(0.6, 1.5)), (tinted[0], tinted[1], tinted[2], tinted[3])


def _trees(random: np.random.Generator, side: int, length: float) -> Iterator[_Part]:
    for x in _along(length, 13.0):
        if random.random() < 0.45:
            place = (x + float(random.uniform(-4, 4)), side * (ROAD + 0.7), 0.1)
            trunk, crown = float(random.uniform(1.8, 3.0)), float(random.uniform(0.9, 1.7))
            yield _Part(upright(place, (0.14, trunk), Pattern.WOOD, BARK, 0.1))
            for _ in range(3):
                offset = random.uniform(-0.5, 0.5, 3) * crown
                centre = (place[0] + float(offset[0]), place[1] + float(offset[1]), trunk + crown + float(offset[2]))
                size = (crown, crown, crown * float(random.uniform(0.7, 1.1)))
                yield _Part(blob(centre, size, Pattern.TERRAZZO, LEAVES, 0.35))


def _cars(random: np.random.Generator, side: int, length: float, parked: int) -> Iterator[_Part]:
    for x in _along(length, 6.5):
        if random.random() < 0.3:
            start, lane, paint = x + float(random.uniform(-0.7, 0.7)), side * (FRONTS - 1.6), CARS[random.integers(6)]
            low, high = lane - 0.85, lane + 0.85
            body = box((start, low, 0.25), (start + 4.2, high, 0.85), Pattern.PLASTER, paint, 3.0)
            cabin = box((start + 0.9, low + 0.1, 0.85), (start + 3.3, high - 0.1, 1.4), Pattern.PLASTER, GLASS, 1.5)
            wheels = box((start + 0.5, low + 0.02, 0.0), (start + 3.7, high - 0.02, 0.3), Pattern.PLASTER, IRON, 1.0)
            yield from (_Part(solid, parked=parked) for solid in (body, cabin, wheels))


def _lamp(head: Vector) -> Iterator[_Part]:
    x, y, height = head
    yield _Part(upright((x, y, 0.0), (0.07, height), Pattern.PLASTER, IRON, 0.5))
    yield _Part(blob((x, y, height), (0.22, 0.22, 0.16), Pattern.PLASTER, ("f0e8d0",) * 4, 1.0), glowing=True)


def headings(yaw: Tensor) -> Tensor:
    """Unit vectors (n, 3) at angles (n,) from the street's direction [radians]."""
    return torch.stack([yaw.cos(), yaw.sin(), torch.full_like(yaw, math.sin(0.04))], 1)
