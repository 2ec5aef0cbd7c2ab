"""All maps of a fleet in as few worlds as possible: which pairs to compare, where they meet, and how all lie.

The place store proposes pairs of maps; each is verified as by ``recon merge``, here or on a cluster, and the result
kept, so that new maps cost only their own pairs. A comparison has a few submaps of two maps in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recon.core.colmap_log import quiet
from recon.core.errors import MapError
from recon.core.events import Listener, Notice, Progress
from recon.core.files import make_folder, write_atomically
from recon.core.similarity import Sim3
from recon.core.typed_json import read_object, typed
from recon.fleet.driver import Need
from recon.fleet.store import FleetStore
from recon.mapping.atlas import Atlas, Joint, lay_out
from recon.mapping.joining import Bridge
from recon.store.ledger import Ledger
from recon.store.lock import sole_writer
from recon.store.map import ReconstructedMap, open_map, stored_metric
from recon.store.merged import numbered
from retrieval.fleet.ledger import FleetLedger
from retrieval.fleet.place_store import Engine, PlaceStore, open_store
from retrieval.meetings import MapViews, Meeting, Places, described, describer_of, meetings_of
from retrieval.merge import write_placed
from retrieval.vlad import VladDescriber, Vocabulary

VERSION = 1
FOLDER = "places"  # of the store
LOCKED = "merging"  # a folder that is there during a merge; the place store has a lock of its own
VOCABULARY, ATLAS = "vocabulary.npz", "atlas.json"
AGAIN = "Make it again: recon fleet merge STORE"
PARTNERS = 8  # maps that a new one is compared with at most
FEWEST_ALIKE = 3  # frames of a map that look like one of another, or they are not compared
ASKED = 300  # frames of a map that the place store is asked about, spread over it
ALIKE = 10  # places that it answers with
MAPS_TO_LEARN_FROM = 10
COMPARING = Need(cpus=1, memory=1_500_000_000)  # on a cluster


@dataclass(frozen=True, eq=False)
class FleetMerged:
    """compared: new pairs of maps. atlas: where all lie. adjusted, unwritten: as for ``retrieval.merge.Merged``, if a
    map was written.
    """

    compared: int
    atlas: Atlas
    adjusted: bool = False
    unwritten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """Where a map lies: its group, numbered from the largest, and ``world_from_map`` (4, 4)."""

    group: int
    world_from_map: list[list[float]]


class FleetPlaces:
    """The place store of a fleet with its describer."""

    def __init__(self, folder: Path, describer: VladDescriber, store: PlaceStore) -> None:
        self.folder, self.describer, self.store = folder, describer, store

    @classmethod
    def open(cls, folder: Path, maps: Mapping[str, Path] | None = None, engine: Engine | None = None) -> FleetPlaces:
        """The places in a fleet's store. maps: to learn a vocabulary from if there is none.

        Raises MapError if there is none, or if it is damaged.
        """
        own = folder / FOLDER
        path = own / VOCABULARY
        if not path.is_file() and maps:
            make_folder(own)
            chosen = list(maps.values())[:: max(1, len(maps) // MAPS_TO_LEARN_FROM)][:MAPS_TO_LEARN_FROM]
            describer_of(numbered([(open_map(one), Sim3.identity()) for one in chosen])).vocabulary.save(path)
        if not path.is_file():
            raise MapError(f"The maps in {folder} have no place store yet. Make it: recon fleet merge {folder}")
        describer = VladDescriber(Vocabulary.load(path))
        return cls(own, describer, open_store(own, describer.name, describer.dim, engine))

    def places_of(self, name: str) -> Places:
        """The frames of a map, and their descriptors."""
        frames, descriptors = self.store.read(name)
        return frames.tolist(), descriptors


@quiet()
def merge_fleet(
    folder: Path,
    maps: Mapping[str, Path],
    out: Path | None,
    tell: Listener = lambda event: None,
    *,
    adjust: bool = False,
    engine: Engine | None = None,
    address: str | None = None,
) -> FleetMerged:
    """Bring the finished ``maps`` of a fleet into common worlds, and write the largest group into the new folder
    ``out``, if it is given. address: of the Ray cluster that compares pairs of maps; None to compare them here, with
    the same results.

    Where all lie is written into ``folder/places/atlas.json``. Raises MapError for a map that is damaged or without
    depth, OutputError, and ResourceError if the cluster cannot be reached.
    """
    if not maps:
        raise MapError(f"{folder} has no finished map yet. See recon fleet status {folder}")
    with sole_writer(folder / LOCKED, "recon fleet merge"):
        places = FleetPlaces.open(folder, maps, engine)
        ledger = FleetLedger(places.folder)
        try:
            _forget_all_but(maps, places, ledger)
            _register(maps, places, ledger, tell)
            with _comparing(address) as each:
                compared = _compare(maps, places, ledger, tell, each)
            tell(Progress("laying out the maps", 0, 0))
            atlas = _lay_out(maps, places.folder, ledger)
            if out is None or not atlas.groups:
                return FleetMerged(compared, atlas)
            return FleetMerged(compared, atlas, *_write_group(out, atlas.groups[0], maps, ledger, tell, adjust=adjust))
        finally:
            ledger.close()
            places.store.close()


def delete_maps(folder: Path, names: Collection[str]) -> int:
    """Delete maps from the store of a fleet, whose lock the caller holds, with their places; how many finished ones are
    left, which lie as if they had been merged without the others.

    After a kill, the same call deletes the rest. Raises MapError for a name of no map, and OutputError, while maps are
    merged as well.
    """
    store = FleetStore(folder)
    store.require(names)
    with sole_writer(folder / LOCKED, "recon fleet delete"):
        kept = {name: path for name, path in store.finished_maps().items() if name not in names}
        if (folder / FOLDER / VOCABULARY).is_file():
            _keep_only(kept, folder)  # first, so that no place outlives its map
        store.delete(names)
    return len(kept)


def _keep_only(maps: Mapping[str, Path], folder: Path) -> None:
    places = FleetPlaces.open(folder)
    ledger = FleetLedger(places.folder)
    try:
        _forget_all_but(maps, places, ledger)
        _lay_out(maps, places.folder, ledger)
    finally:
        ledger.close()
        places.store.close()


def read_atlas(folder: Path) -> dict[str, Located]:
    """Where the maps of a fleet lie, as of the last merge; empty without one. Raises MapError if that is damaged."""
    path = folder / FOLDER / ATLAS
    try:
        content = read_object(path, VERSION, AGAIN)
    except OSError:
        return {}
    return typed(content.get("maps"), dict[str, Located], path, AGAIN)


def _forget_all_but(maps: Mapping[str, Path], places: FleetPlaces, ledger: FleetLedger) -> None:
    for name in (ledger.maps().keys() | places.store.maps().keys()) - maps.keys():
        ledger.forget(name)  # first: what is not in the ledger is added again, or forgotten again
        places.store.delete(name)


def _register(maps: Mapping[str, Path], places: FleetPlaces, ledger: FleetLedger, tell: Listener) -> None:
    """Bring the place store up to date with the maps."""
    known = ledger.maps()
    digests = {name: _digest(path) for name, path in maps.items()}
    new = [name for name in maps if name not in known or known[name].digest != digests[name]]
    for done, name in enumerate(new):
        tell(Progress("describing the images", done, len(new)))
        found = open_map(maps[name])
        found.require_finished()
        ledger.forget(name)
        (member,) = numbered([(found, Sim3.identity())])
        places.store.add(name, *described(places.describer, member))
        ledger.note(name, digests[name])
    if new:
        places.store.build_index()


def _digest(folder: Path) -> str:
    """Changes whenever the map does."""
    status = Ledger(folder).path.stat()
    return f"{status.st_mtime_ns} {status.st_size}"


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two maps to compare, in order of their names: all that it takes, so that only ``folders`` are read elsewhere.

    last_of: the map all of whose pairs are compared with this one; empty if others follow.
    """

    names: tuple[str, str]
    folders: tuple[Path, Path]
    places: tuple[Places, Places]
    describer: str
    last_of: str


@dataclass(frozen=True, eq=False)
class _Compared:
    """meetings: with the numbers that frames have in their own map. objection: why there can be none; empty if not."""

    names: tuple[str, str]
    last_of: str
    meetings: list[Meeting]
    objection: str = ""


Each = Callable[[Callable[[_Pair], _Compared], Iterable[_Pair]], Iterator[_Compared]]


@contextmanager
def _comparing(address: str | None) -> Iterator[Each]:
    """``map``: of this process, or of the cluster at ``address``."""
    if address is None:
        yield map
        return
    from recon.fleet.ray_cluster import cluster_map  # noqa: PLC0415 - an extra

    with cluster_map(address, COMPARING) as each:
        yield each


def _compare(maps: Mapping[str, Path], places: FleetPlaces, ledger: FleetLedger, tell: Listener, each: Each) -> int:
    """Compare every new map with those that look like it; returns how many pairs were compared."""
    compared = 0
    for found in each(_compared, _new_pairs(maps, places, ledger, tell)):
        if found.objection:
            tell(Notice(found.objection))
        ledger.add(*found.names, found.meetings)
        if found.last_of:
            ledger.note_searched(found.last_of)
        compared += 1
    return compared


def _new_pairs(maps: Mapping[str, Path], places: FleetPlaces, ledger: FleetLedger, tell: Listener) -> Iterator[_Pair]:
    """The pairs to compare, of one new map after the other. Those before may not be in the ledger yet."""
    new = [name for name, known in sorted(ledger.maps().items()) if not known.searched and name in maps]
    begun = set[tuple[str, str]]()
    for done, name in enumerate(new):
        tell(Progress("comparing the maps", done, len(new)))
        found = [_ordered(name, other) for other in partners(places.store, name) if other in maps]
        pairs = [pair for pair in found if pair not in begun and not ledger.has(*pair)]
        begun.update(pairs)
        for row, (first, second) in enumerate(pairs, start=1):
            yield _Pair(
                (first, second),
                (maps[first], maps[second]),
                (places.places_of(first), places.places_of(second)),
                places.describer.name,
                name if row == len(pairs) else "",
            )
        if not pairs:
            ledger.note_searched(name)


def _ordered(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def partners(store: PlaceStore, name: str) -> list[str]:
    """The maps that look most like one, by how many of its frames have one of theirs among the most similar."""
    _, descriptors = store.read(name)
    votes = Counter[str]()
    for row in descriptors[:: max(1, len(descriptors) // ASKED)]:
        votes.update({place.map for place in store.search(row, ALIKE, without=[name])})
    alike = [(count, other) for other, count in votes.items() if count >= min(FEWEST_ALIKE, len(descriptors))]
    return [other for _, other in sorted(alike, key=lambda one: (-one[0], one[1]))[:PARTNERS]]


def _compared(pair: _Pair) -> _Compared:
    """The meetings of two maps. A map without depth meets no other."""
    members = numbered([(open_map(path), Sim3.identity()) for path in pair.folders])
    shift = members[1].first
    try:
        views = MapViews(members[0]), MapViews(members[1])
    except MapError as error:
        return _Compared(pair.names, pair.last_of, [], str(error))
    own, (frames, theirs) = pair.places
    both = own, ([frame + shift for frame in frames], theirs)
    meetings = [_shifted(one, 0, -shift) for one in meetings_of((0, 1), views, both, pair.describer)]
    return _Compared(pair.names, pair.last_of, meetings)


def _shifted(meeting: Meeting, first: int, second: int, members: tuple[int, int] = (0, 1)) -> Meeting:
    """A meeting with other numbers of its frames."""
    hit = replace(meeting.hit, earlier=meeting.hit.earlier + first, frame=meeting.hit.frame + second)
    bridge = replace(meeting.bridge, frames=(hit.earlier, hit.frame)) if meeting.bridge else None
    return replace(meeting, members=members, hit=hit, bridge=bridge)


def _bridges(meetings: Sequence[Meeting]) -> list[Bridge]:
    return [meeting.bridge for meeting in meetings if meeting.bridge]


def _lay_out(maps: Mapping[str, Path], folder: Path, ledger: FleetLedger) -> Atlas:
    """Where the maps lie by the pairs that have been compared, which is written as well."""
    names = sorted(maps, key=lambda name: (stored_metric(maps[name]) is None, name))
    pairs = ((one, other, found) for one, other, found in ledger.pairs() if one in maps and other in maps)
    joints = [joint for one, other, found in pairs if (joint := Joint.of((one, other), _bridges(found)))]
    atlas = lay_out(names, joints)
    _write_atlas(folder / ATLAS, atlas)
    return atlas


def _write_atlas(path: Path, atlas: Atlas) -> None:
    content = {
        "version": VERSION,
        "maps": {
            name: {"group": row, "world_from_map": pose.matrix().tolist()}
            for row, group in enumerate(atlas.groups)
            for name, pose in group.items()
        },
        "apart": list(atlas.apart),
        "refused": [list(joint.maps) for joint in atlas.refused],
    }
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))


def _write_group(
    out: Path, group: Mapping[str, Sim3], maps: Mapping[str, Path], ledger: FleetLedger, tell: Listener, *, adjust: bool
) -> tuple[bool, tuple[str, ...]]:
    opened: list[ReconstructedMap] = [open_map(maps[name]) for name in group]
    firsts = [member.first for member in numbered([(one, Sim3.identity()) for one in opened])]
    row = {name: number for number, name in enumerate(group)}
    meetings = [
        _shifted(meeting, firsts[row[one]], firsts[row[other]], (row[one], row[other]))
        for one, other, found in ledger.pairs()
        if one in row and other in row
        for meeting in found
    ]
    return write_placed(out, opened, list(group.values()), meetings, tell, adjust=adjust)


def world_from_map(located: Located) -> Sim3:
    """The pose of a map in the world of its group."""
    return Sim3.from_matrix(np.array(located.world_from_map))
