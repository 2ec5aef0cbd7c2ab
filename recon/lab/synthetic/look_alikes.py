"""Rooms that look like the sample's and are not: pictures of them must not be located in a map of the sample. And the
sample's room after three things in it have been moved.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from recon.lab.synthetic.sample import furnished_room
from recon.lab.synthetic.scenes import Scene, yaw_rotation

SHELL = 8  # solids of the room itself: walls, floor, ceiling, lamp, rug, skirting
FAR = 0.7  # metres by which a thing is moved, at most
SEEDS = 1 << 30
MOVED_FRAMES = 53  # of the walk after the move, so that it sees the room from other places
# Solids of the vase, the plant and the stool, and how far each is moved [m].
MOVED = (((21, 22), (-0.2, -0.35, 0.0)), ((41, 42), (-4.9, -4.0, 0.0)), ((46,), (0.1, -1.2, 0.0)))


def redecorated(seed: int) -> Scene:
    """The same room and things, patterns and colours, but no texture is the same: another room of the same hotel."""
    room = furnished_room()
    return replace(room, seed=_other_seeds(room, seed))


def rearranged(seed: int) -> Scene:
    """The same things, each moved and turned on its own, in a room with other walls, floor and ceiling: the same
    furniture elsewhere. A view filled by a single thing cannot be told from the sample's."""
    room, generator = furnished_room(), torch.Generator().manual_seed(seed)
    moved = len(room.shapes) - SHELL
    shift = FAR * (2 * torch.rand((1, moved, 3), generator=generator) - 1) * torch.tensor([1.0, 1.0, 0.2])
    turn = yaw_rotation(0.6 * (2 * torch.rand((1, moved), generator=generator) - 1))
    centre, rotation, seeds = room.centre.clone(), room.world_from_solid.clone(), room.seed.clone()
    centre[:, SHELL:] += shift
    rotation[:, SHELL:] = turn @ rotation[:, SHELL:]
    seeds[:, :SHELL] = _other_seeds(room, seed)[:, :SHELL]
    return replace(room, centre=centre, world_from_solid=rotation, seed=seeds)


def tidied() -> Scene:
    """The sample's room with three things in other places: on the table, in another corner, along a wall."""
    room = furnished_room()
    centre = room.centre.clone()
    for solids, shift in MOVED:
        centre[:, list(solids)] += torch.tensor(shift)
    return replace(room, centre=centre)


def _other_seeds(room: Scene, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(SEEDS, room.seed.shape, generator=generator, dtype=torch.int32)
