"""Where photos were taken, in any map of a fleet: the place store proposes maps, each of which may decline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from recon.core.similarity import Sim3
from recon.core.types import Camera, Frame
from retrieval.fleet.merge import FleetPlaces, read_atlas, world_from_map
from retrieval.localiser import Localiser, Location, open_localiser

ALIKE = 32  # places that are asked for
TRIED = 4  # maps
IN_MEMORY = 4  # maps


@dataclass(frozen=True, eq=False)
class FleetLocation:
    """map: that shows the place, or was closest to it; empty if none looks like the photo. group: of maps in one world,
    -1 if the map is in a world of its own. location: its pose is in the world of the group.
    """

    map: str
    group: int
    location: Location | None


class FleetLocaliser:
    """Locates photos in the finished ``maps`` of a fleet. Raises MapError if the fleet has no place store."""

    def __init__(self, folder: Path, maps: Mapping[str, Path]) -> None:
        self._places, self._maps = FleetPlaces.open(folder), maps
        self._atlas = read_atlas(folder)
        self._opened = lru_cache(IN_MEMORY)(self._open)

    def locate(self, photo: Frame, camera: Camera | None = None) -> FleetLocation:
        """Where a photo was taken: the answer with the most features, of the maps that look most like it."""
        (descriptor,) = self._places.describer.describe([photo.image], [photo.mask])
        found = Counter(place.map for place in self._places.store.search(descriptor, ALIKE))
        names = [name for name, _ in found.most_common() if name in self._maps][:TRIED]
        tried = [(name, self._opened(name).locate(photo, camera)) for name in names]
        if not tried:
            return FleetLocation("", -1, None)
        name, best = max(tried, key=lambda one: (one[1].world_from_cam is not None, one[1].inliers))
        place = self._atlas.get(name)
        if place is None or best.world_from_cam is None:
            return FleetLocation(name, -1, best)
        world = world_from_map(place)
        moved = world @ best.world_from_cam
        pose = Sim3(1.0, moved.rotation, moved.translation)
        location = replace(best, world_from_cam=pose, position_deviation=best.position_deviation * world.scale)
        return FleetLocation(name, place.group, location)

    def close(self) -> None:
        self._places.store.close()

    def _open(self, name: str) -> Localiser:
        return open_localiser(self._maps[name])
