"""Two walks through one room and one through a room that looks like it, as the maps of a fleet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.core.errors import MapError
from recon.core.similarity import Sim3
from recon.fleet.store import FleetStore, Job
from recon.fleet.uploads import Uploads
from recon.lab.synthetic.look_alikes import redecorated
from recon.store.map import open_map
from retrieval.fleet import merge as merging
from retrieval.fleet.locate import FleetLocaliser
from retrieval.fleet.merge import merge_fleet, read_atlas, world_from_map
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
    del_maps = {name: path for name, path in store.finished_maps().items() if name != "b"}
    assert merge_fleet(store.folder, del_maps, None).atlas.groups == ()  # a deleted map is forgotten
    assert isinstance(group["a"], Sim3)
