"""``recon eval`` on a small exact map; test_run.py evaluates runs of the whole pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from recon.core.events import FrameTracked
from recon.core.places import LoopRecord
from recon.exports.trajectory import rigid_trajectory, write_trajectory, write_tum
from recon.settings import RunSettings
from recon.store.map import MapStore, open_map
from recon.store.report import RunReport, write
from recon.store.tracked import TrackedFile
from tests.cli.conftest import Recon
from tests.support import make_map


@pytest.fixture
def video_run(tmp_path: Path) -> Path:
    """A run of a video with frames 0, 2, ... 10 at a tenth of a second each, and a reference by frame numbers."""
    reconstruction = make_map(tmp_path / "out")
    write_tum(reconstruction, tmp_path / "out" / "poses.txt")
    write_trajectory(rigid_trajectory(reconstruction, by_index=True), tmp_path / "reference.txt")
    return tmp_path / "out"


def test_a_reference_by_frame_numbers(recon: Recon, video_run: Path) -> None:
    outcome = recon("eval", video_run, "--reference", video_run.parent / "reference.txt", "--by", "frame")
    assert outcome.code == 0
    assert "  matched poses         6 of 6\n" in outcome.out
    assert "  scale                 1\n" in outcome.out


def test_by_time_it_is_refused_with_both_time_ranges(recon: Recon, video_run: Path) -> None:
    outcome = recon("eval", video_run, "--reference", video_run.parent / "reference.txt")
    assert outcome.code == 2
    assert f"1 rows of {video_run} (time 0 to 0.5) match" in outcome.err
    assert "(time 0 to 10)" in outcome.err
    assert not (video_run / "evaluation.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--reference", "nothing.txt"), "Cannot read the trajectory nothing.txt: No such file or directory."),
        (("--reference", "nothing.txt", "--intrinsics", "1,1,1,1"), "add --depth"),
    ],
)
def test_a_wrong_reference_is_reported(recon: Recon, video_run: Path, options: tuple[str, ...], words: str) -> None:
    outcome = recon("eval", video_run, *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_poses_as_said_at_capture(recon: Recon, video_run: Path) -> None:
    """Frames that were lost do not count, nor those in another piece of the map."""
    reference = rigid_trajectory(open_map(video_run), by_index=True)
    file = TrackedFile(video_run)
    for row, (index, pose) in enumerate(zip(reference.indices, reference.world_from_cam, strict=True)):
        state, said, piece = ("lost", None, 0) if row == 2 else ("tracking", pose, int(row == 3))
        event = FrameTracked(int(index), 0.1 * row, state, said, None, 99, piece, 0.01, 20.0 + row)
        file.add(event, 70.0 if row == 4 else None)
    file.close()
    options = ("--reference", video_run.parent / "reference.txt", "--by", "frame", "--at-capture")
    outcome = recon("eval", video_run, *options)
    assert outcome.code == 0, outcome.err
    assert "  matched poses         4 of 6\n" in outcome.out
    assert "  scale                 1\n" in outcome.out
    assert "  with a pose           5 of 6 images, the first after 0.0 s\n" in outcome.out
    assert "  image to pose         22 ms (95%: 25)\n" in outcome.out
    assert "  keyframe to map       70 ms (95%: 70), 1 keyframes of the local map\n" in outcome.out
    assert "  another piece         1 poses, cannot be compared\n" in outcome.out
    outcome = recon("eval", video_run, *options, "--loops")
    assert (outcome.code, "omit --at-capture" in outcome.err) == (2, True)
    (video_run / "tracked.csv").write_text("frame,time,tx\n1,2,three\n")
    outcome = recon("eval", video_run, *options)
    assert (outcome.code, "is damaged" in outcome.err) == (2, True)
    (video_run / "tracked.csv").unlink()
    outcome = recon("eval", video_run, *options)
    assert (outcome.code, "Only recon live writes it." in outcome.err) == (2, True)


def test_loops_are_judged_and_drawn(recon: Recon, video_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.evaluate.loops.GAP", 6)
    line = LoopRecord(8, 0, 0, 1, 0.7, 120, 0.004, 2.5, 0.6, "accepted", "")
    report = RunReport("x", RunSettings(), {}, 6, 6, (), (), (), 1.0, 1, (), interrupted=False, loops=(line,))
    write(report, video_run / "report.json")
    outcome = recon("eval", video_run, "--reference", video_run.parent / "reference.txt", "--by", "frame", "--loops")
    assert outcome.code == 0, outcome.err
    assert "  loops accepted        1, 1 of them right (precision 100.0%)\n" in outcome.out
    assert "  revisits found        100.0% of" in outcome.out
    assert (video_run / "loops.png").stat().st_size > 1000


@pytest.mark.parametrize("by", ["frame", "time"])
def test_frames_without_depth_do_not_change_the_figures_for_loops(
    recon: Recon, video_run: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr("recon.evaluate.loops.GAP", 6)
    loop = LoopRecord(8, 0, 0, 1, 0.7, 120, 0.004, 2.5, 0.6, "accepted", "")
    report = RunReport("x", RunSettings(), {}, 6, 6, (), (), (), 1.0, 1, (), interrupted=False, loops=(loop,))
    write(report, video_run / "report.json")
    whole = open_map(video_run)
    between = tuple(
        replace(frame, index=frame.index + 1, timestamp=frame.timestamp + 0.05, name=f"{frame.index + 1}.jpg")
        for frame in whole.frames[:3]
    )
    MapStore(video_run).write_places(whole.frames, whole.skipped, whole.points, complete=True, between=between)
    write_tum(open_map(video_run), video_run / "poses.txt")
    reference = video_run.parent / "reference.txt"
    write_trajectory(rigid_trajectory(open_map(video_run), by_index=by == "frame"), reference)
    outcome = recon("eval", video_run, "--reference", reference, "--by", by, "--loops")
    assert outcome.code == 0, outcome.err
    assert "  matched poses         9 of 9\n" in outcome.out
    assert "  loops accepted        1, 1 of them right (precision 100.0%)\n" in outcome.out
    assert "  revisits found        100.0% of 6 pairs of frames\n" in outcome.out
