"""``recon scale`` on a small exact map; tests/recon/metric tests the scales."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open3d
import pytest

from recon.exports.ply import read_points
from recon.exports.trajectory import read_tum
from recon.store.map import open_map
from tests.cli.conftest import Recon
from tests.support import make_map


def test_a_map_and_its_outputs_get_metres(recon: Recon, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = make_map(folder)
    (folder / "recording.rrd").write_bytes(b"")
    centres = np.array([frame.world_from_cam.translation for frame in made.frames])
    known = f"{made.frames[0].name} {made.frames[5].name} {2 * np.linalg.norm(centres[5] - centres[0])}"
    lengths = ["--length", known, "--length", "-1,0,4 1,0,4 4.02", "--length", "0,0,4 0,1,4 5"]
    outcome = recon("scale", folder, *lengths)
    assert (outcome.code, outcome.err) == (
        0,
        "note: still of the old map: recording.rrd. recon export writes exports again.\n",
    )
    heading, first, second, wrong, last = outcome.out.splitlines()
    assert heading.split() == ["observation", "known", "map", "error"]
    assert first.startswith("image_0000.jpg to image_0010.jpg")
    assert second.split() == ["-1,0,4", "to", "1,0,4", "4.020", "m", "4.010", "m", "-0.010", "m"]
    assert wrong.endswith("-2.995 m  left out")
    assert last == "The map is in metres: one old map unit is 2.00499 m. Error: 0.01 m (RMS); 2 of 3 observations used."
    stated = "metres (error 0.01 m, by 2 known lengths or positions)"
    assert (folder / "poses.txt").read_text().splitlines()[1] == f"# {stated}"
    assert np.allclose(read_tum(folder / "poses.txt").world_from_cam[:, :3, 3], 2.00498 * centres, atol=1e-4)
    assert f"comment {stated}\n".encode() in (folder / "cloud.ply").read_bytes()[:300]
    cloud = np.asarray(open3d.io.read_point_cloud(str(folder / "cloud.ply")).points)
    assert np.median(cloud[:, 2]) == pytest.approx(2.00498 * 4, rel=2e-3)
    assert np.array_equal(read_points(folder / "cloud.ply").positions, cloud)
    assert recon("export", folder, "--to", "nerfstudio").code == 0
    transforms = json.loads((folder / "nerfstudio" / "transforms.json").read_text())
    assert transforms["metric"]["observations"] == 2
    assert open_map(folder).metric is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "No length or position of the map is known in metres."),
        (("--length", "0,0,0 1,0,0"), '--length takes "A B METRES"'),
        (("--gps",), "0 images of"),
        (("--positions", "nothing.csv"), "Cannot read the positions in nothing.csv"),
        (("--level",), "Which way is up in "),
        (("--level", "--gps"), "--positions, --gps and --track already determine the axes of the map."),
    ],
)
def test_what_gives_no_metres_is_refused(recon: Recon, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    make_map(tmp_path / "run")
    before = (tmp_path / "run" / "map" / "map.db").read_bytes()
    outcome = recon("scale", tmp_path / "run", *options)
    assert outcome.code == 2
    assert outcome.err.startswith(f"recon: {words}")
    assert len(outcome.err.splitlines()) == 1
    assert (tmp_path / "run" / "map" / "map.db").read_bytes() == before
    assert recon("scale", tmp_path / "nothing").err.endswith("nothing does not exist. Give the folder of a run.\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--length", "0,0,0 1,0,0 1e300"), "which cannot be right"),
        (("--length", "0,0,0 1,0,0 1e-320"), "which cannot be right"),
        (("--length", "0,0,0 1,0,0 1m"), "the last one a number"),
        (("--positions", "utm.csv"), "too far for the single precision of clouds"),
    ],
)
def test_a_scale_that_would_ruin_the_map_is_refused(
    recon: Recon, tmp_path: Path, options: tuple[str, str], words: str
) -> None:
    folder = tmp_path / "run"
    made = make_map(folder)
    rows = [
        [frame.name, *(frame.world_from_cam.translation + np.array([5e5, 5.4e6, 300])).tolist()]
        for frame in made.frames
    ]
    table = "\ufefffilename,x,y,z\n" + "\n".join(",".join(map(str, row)) for row in rows)
    (tmp_path / "utm.csv").write_text(table, encoding="utf-8")
    before = (folder / "map" / "map.db").read_bytes()
    name, value = options
    outcome = recon("scale", folder, name, tmp_path / value if value.endswith(".csv") else value)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err
    assert (folder / "map" / "map.db").read_bytes() == before


def test_damaged_depth_is_found_before_anything_moves(recon: Recon, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_map(folder)
    submap = folder / "map" / "submap_0001.npz"
    submap.write_bytes(submap.read_bytes()[:1000])
    before = (folder / "map" / "map.db").read_bytes()
    outcome = recon("scale", folder, "--length", "0,0,0 1,0,0 2")
    assert outcome.code == 2
    assert submap.name in outcome.err
    assert (folder / "map" / "map.db").read_bytes() == before


def test_ctrl_c_leaves_a_sound_map_and_says_which(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    make_map(folder)
    (folder / "tracked.csv").write_bytes(b"")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for place, sentence in (
        ("move_map", "Interrupted: the map is as it was.\n"),
        (
            "write_outputs",
            f"Interrupted. The map has changed; write its outputs with: recon check {folder} --repair\n",
        ),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"recon.metric.scale.{place}", interrupted)
            outcome = recon("scale", folder, "--length", "0,0,0 1,0,0 2")
        assert (outcome.code, outcome.err) == (130, sentence)
    assert open_map(folder).metric is not None
    assert recon("export", folder, "--to", "kitti").code == 0
    assert recon("check", folder, "--repair").code == 0
    outcome = recon("scale", folder, "--length", "0,0,0 1,0,0 3")
    assert "still of the old map: tracked.csv, poses_kitti.txt." in outcome.err
    outcome = recon("check", folder)
    assert outcome.code == 1
    (failed,) = (line for line in outcome.out.splitlines() if "FAILED" in line)
    assert "poses_kitti.txt is of another state of the map, such as before a scale. Delete it" in failed
