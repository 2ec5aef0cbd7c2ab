"""Two walks through one room and one through a room that looks like it, as the maps of a fleet."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.core.errors import MapError
from recon.fleet.store import FleetStore, Job
from recon.fleet.uploads import Uploads
from recon.lab.synthetic.look_alikes import redecorated
from recon.store.map import open_map
from retrieval.fleet import merge as merging
from retrieval.fleet.embedded_places import EmbeddedPlaces
from retrieval.fleet.locate import FleetLocaliser
from retrieval.fleet.merge import delete_maps, merge_fleet, read_atlas, world_from_map
from retrieval.fleet.server import serve, token_of
from tests.retrieval.fleet.http import Client
from tests.retrieval.maps import MAP_FROM_ROOM, as_frame, make_room_map, true_pose
from tests.retrieval.test_merge import FIRST, OTHER_FROM_ROOM, SECOND, sample_map


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FleetStore:
    """Finished maps named b (of the same room as a, which comes later) and foreign."""
    store = FleetStore(tmp_path_factory.mktemp("fleet"))
    store.extend([Job(name, "run", name) for name in ("b", "foreign")])
    sample_map(store.map_of("b"), SECOND, OTHER_FROM_ROOM)
    make_room_map(store.map_of("foreign"), FIRST[1:], scene=redecorated(1))
    return store


def test_a_fleet_is_merged_step_by_step(store: FleetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MapError, match="no place store yet"):
        FleetLocaliser(store.folder, store.finished_maps())
    first = merge_fleet(store.folder, store.finished_maps(), None)
    assert (first.compared, first.atlas.groups) == (1, ())
    assert first.atlas.apart == ("b", "foreign")  # although their geometry agrees

    store.extend([Job("a", "run", "a")])
    sample_map(store.map_of("a"), FIRST, MAP_FROM_ROOM)
    second = merge_fleet(store.folder, store.finished_maps(), tmp_path / "one")
    assert second.compared == 2  # a with the others, which are not compared again
    (group,) = second.atlas.groups
    assert list(group) == ["a", "b"]
    assert second.atlas.apart == ("foreign",)
    assert second.atlas.refused == ()
    assert group["b"].isclose(MAP_FROM_ROOM @ OTHER_FROM_ROOM.inverse(), atol=0.1)
    atlas = read_atlas(store.folder)
    assert world_from_map(atlas["b"]).isclose(group["b"])
    merged = open_map(tmp_path / "one")
    assert merged.complete
    for frame, position in zip(merged.frames, FIRST + SECOND, strict=True):
        error = true_pose(position).inverse() @ frame.world_from_cam
        assert np.linalg.norm(error.translation) < 0.15

    def compare(*arguments: object) -> None:
        raise AssertionError("nothing is new")

    monkeypatch.setattr(merging, "meetings_of", compare)
    third = merge_fleet(store.folder, store.finished_maps(), None)
    assert third.compared == 0
    assert third.atlas.groups[0]["b"].isclose(group["b"])

    localiser = FleetLocaliser(store.folder, store.finished_maps())
    photo = as_frame(np.asarray(open_map(store.map_of("b")).geometry().__next__()[1].colour))
    found = localiser.locate(photo)
    localiser.close()
    assert found.group == 0
    assert found.location
    assert found.location.world_from_cam
    expected = true_pose(SECOND[0])
    assert np.linalg.norm(found.location.world_from_cam.translation - expected.translation) < 0.2

    picture = io.BytesIO()
    Image.fromarray(photo.image).save(picture, "PNG")
    with serve(store, Uploads(store), "127.0.0.1", 0, 1) as url:
        status, answer = Client(url, token_of(store.folder)).ask("POST", "/locate", picture.getvalue())
    assert (status, answer["map"], answer["group"], answer["located"]) == (200, found.map, 0, True)
    assert np.allclose(answer["world_from_cam"], found.location.world_from_cam.matrix(), atol=1e-6)

    (store.folder / "places" / "atlas.json").write_text(json.dumps({"version": 1, "maps": {"a": 3}}))
    with pytest.raises(MapError, match=r"atlas.json is damaged"):
        read_atlas(store.folder)


@pytest.fixture
def three(tmp_path: Path) -> FleetStore:
    """Finished maps a and b, which meet, and foreign."""
    store = FleetStore(tmp_path / "three")
    store.extend([Job(name, "run", name) for name in ("a", "b", "foreign")])
    sample_map(store.map_of("a"), FIRST, MAP_FROM_ROOM)
    sample_map(store.map_of("b"), SECOND, OTHER_FROM_ROOM)
    make_room_map(store.map_of("foreign"), FIRST[1:], scene=redecorated(1))
    return store


def pairs_in(store: FleetStore) -> list[tuple[str, ...]]:
    """The pairs compared and their meetings, in the order in which they were noted."""
    with closing(sqlite3.connect(store.folder / "places" / "meetings.db")) as database:
        return database.execute("SELECT first, second, meetings FROM pairs ORDER BY rowid").fetchall()


def test_a_cluster_finds_what_one_process_finds(three: FleetStore) -> None:
    here = merge_fleet(three.folder, three.finished_maps(), None)
    found = pairs_in(three)
    assert [pair[:2] for pair in found] == [("a", "b"), ("a", "foreign"), ("b", "foreign")]
    shutil.rmtree(three.folder / "places")
    there = merge_fleet(three.folder, three.finished_maps(), None, address="local")
    assert pairs_in(three) == found
    assert (there.compared, there.atlas.apart) == (here.compared, here.atlas.apart)
    assert there.atlas.groups[0]["b"].isclose(here.atlas.groups[0]["b"], atol=1e-9)
    assert merge_fleet(three.folder, three.finished_maps(), None, address="local").compared == 0


def test_a_deleted_map_is_nowhere_even_after_a_kill(three: FleetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_fleet(three.folder, three.finished_maps(), None)
    photo = as_frame(np.asarray(next(open_map(three.map_of("b")).geometry())[1].colour))

    def kill(*arguments: object) -> None:
        raise KeyboardInterrupt

    for owner, method in ((EmbeddedPlaces, "delete"), (FleetStore, "delete")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, method, kill)
            with pytest.raises(KeyboardInterrupt):
                delete_maps(three.folder, ["b"])
        assert three.finished_maps().keys() == {"a", "b", "foreign"}
        assert merge_fleet(three.folder, three.finished_maps(), None).compared == 2  # b is as if it were new
        assert read_atlas(three.folder).keys() == {"a", "b"}
    with pytest.raises(MapError, match="has no map c"):
        delete_maps(three.folder, ["b", "c"])

    assert delete_maps(three.folder, ["b"]) == 2
    assert three.finished_maps().keys() == {"a", "foreign"}
    assert read_atlas(three.folder) == {}
    assert [pair[:2] for pair in pairs_in(three)] == [("a", "foreign")]
    localiser = FleetLocaliser(three.folder, three.finished_maps())
    assert localiser.locate(photo).map in {"a", "foreign"}
    localiser.close()
    assert merge_fleet(three.folder, three.finished_maps(), None).compared == 0
