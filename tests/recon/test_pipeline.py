"""The pipeline with exact geometry in place of structure from motion: order of events, interruptions, pieces."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from cli.ending import Ending
from cli.run import conclude
from recon.core.errors import ReconstructionError, SettingsError
from recon.core.events import (
    ChunkReconstructed,
    Event,
    Finished,
    FrameRead,
    FrameSkipped,
    FrameTracked,
    Notice,
    PosesCorrected,
    Progress,
)
from recon.core.similarity import Array, Sim3
from recon.core.types import Chunk, ChunkGeometry, SparseModel
from recon.depth.learned import FilledSweep, LearnedSweep
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.stages import open_depth_stage
from recon.evaluate.check import check_folder
from recon.frontend import FRONT_ENDS
from recon.mapping.alignment import fit_similarity
from recon.pipeline import reconstruct, reconstruct_source
from recon.settings import RunSettings
from recon.sources.base import Candidate, picture_name
from recon.sources.live import LiveSource
from recon.store import report
from recon.store.map import open_map
from recon.store.report import RunReport
from recon.store.tracked import TrackedFile
from recon.tracking.afterwards import UNCERTAIN
from tests.support import (
    RADIAL,
    ExactFrontEnd,
    chunk_geometry,
    frame_of,
    placed_frame,
    render,
    true_model,
    true_pose,
)

FRAMES = 10
SETTINGS = RunSettings(chunk=5, overlap=2)  # three chunks: 0-4, 3-7, 6-9


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> type[ExactFrontEnd]:
    """The front end of the runs of one test, which can be given attributes."""
    chosen = type("Chosen", (ExactFrontEnd,), {})
    monkeypatch.setitem(FRONT_ENDS, "sfm", chosen)
    return chosen


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(FRAMES):
        PillowImage.fromarray(render(placed_frame(index))).save(folder / f"{index:04d}.jpg")
    return folder


def run(photos: Path, out: Path, settings: RunSettings = SETTINGS) -> tuple[RunReport, list[Event]]:
    events: list[Event] = []
    return reconstruct(str(photos), out, settings, [events.append]), events


def centres_after_alignment(out: Path) -> tuple[Array, Array]:
    """Camera centres of the map, moved onto the true ones by one similarity, and the true ones."""
    frames = open_map(out).frames
    found = np.array([frame.world_from_cam.translation for frame in frames])
    truth = np.array([true_pose(frame.index).translation for frame in frames])
    return fit_similarity(found, truth, np.ones(len(frames))).apply(found), truth


def median_depth_in_the_true_world() -> float:
    """Median over the frames of the median depth that each sees [m]."""
    geometry = chunk_geometry(range(FRAMES), Sim3.identity())
    return float(np.median([np.median(frame.depth[frame.depth > 0]) for frame in geometry.frames]))


def test_refinement_can_be_turned_off(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.interrupt = "refine"
    finished, events = run(photos, tmp_path / "out", replace(SETTINGS, refine="none"))
    assert not finished.interrupted
    assert finished.frames_placed == FRAMES
    assert not any(isinstance(event, Progress) and event.stage == "bundle adjustment" for event in events)


def test_events_arrive_in_order(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.refined = staticmethod(true_model)
    _, events = run(photos, tmp_path / "out")
    kinds = [type(event).__name__ for event in events]
    assert isinstance(events[-1], Finished)
    assert kinds.count("Finished") == kinds.count("PosesCorrected") == 1
    for position, event in enumerate(events):
        if isinstance(event, ChunkReconstructed):
            read = [earlier.frame.index for earlier in events[:position] if isinstance(earlier, FrameRead)]
            assert {frame.index for frame in event.frames} <= set(read)
    new = [frame.index for event in events if isinstance(event, ChunkReconstructed) for frame in event.frames]
    assert new == list(range(FRAMES))  # every frame is new once
    (corrected,) = (event for event in events if isinstance(event, PosesCorrected))
    assert [frame.index for frame in corrected.frames] == list(range(FRAMES))
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert stages[0] == "frames"
    assert stages.index("bundle adjustment") < kinds.index("PosesCorrected")
    assert events[-1] == Finished(tmp_path / "out", FRAMES, FRAMES)


def test_progress_counts_the_frames_up_to_all(photos: Path, tmp_path: Path) -> None:
    _, events = run(photos, tmp_path / "out")
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "frames"]
    assert [event.done for event in progress] == [5, 8, 10]
    assert {event.total for event in progress} == {FRAMES}


def test_chunks_in_separate_frames_become_one_map(photos: Path, tmp_path: Path) -> None:
    found, _ = run(photos, tmp_path / "out")
    assert (found.frames_placed, found.interrupted) == (FRAMES, False)
    np.testing.assert_allclose(*centres_after_alignment(tmp_path / "out"), atol=2e-3)
    assert [(chunk.first, chunk.last, chunk.placed) for chunk in found.chunks] == [(0, 4, 5), (3, 7, 5), (6, 9, 4)]
    assert max(chunk.residual for chunk in found.chunks) < 1e-3
    assert found == report.read(tmp_path / "out" / "report.json")


def test_the_joint_adjustment_decides_where_frames_lie(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.refined = staticmethod(true_model)
    run(photos, tmp_path / "out")
    reconstruction = open_map(tmp_path / "out")
    unit = median_depth_in_the_true_world()
    for frame in reconstruction.frames:
        centre = true_pose(frame.index).translation
        np.testing.assert_allclose(unit * frame.world_from_cam.translation, centre, atol=4e-3)
        # Stored depth keeps the unit of its chunk, and the frame's scale compensates.
    for frame, geometry in reconstruction.geometry():
        rows, columns = np.nonzero(geometry.depth)
        pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1)
        points_cam = pixels @ np.linalg.inv(geometry.intrinsics).T * geometry.depth[rows, columns, None]
        np.testing.assert_allclose(unit * frame.world_from_cam.apply(points_cam)[:, 2], 4.0, rtol=5e-3)
    seen = [frame.world_from_cam.scale * np.median(found.depth) for frame, found in reconstruction.geometry()]
    assert np.median(seen) == pytest.approx(1.0, rel=1e-2)
    assert len(reconstruction.points.positions) > 100


def test_frames_that_the_adjustment_drops_are_reported(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.refined = staticmethod(
        lambda poses: true_model({index: pose for index, pose in poses.items() if index != 4})
    )
    found, _ = run(photos, tmp_path / "out")
    assert found.frames_placed == FRAMES - 1
    assert [(frame.index, frame.name) for frame in found.skipped] == [(4, "0004.jpg")]
    assert len((tmp_path / "out" / "poses.txt").read_text().splitlines()) == 1 + FRAMES - 1


def test_unplaced_frames_are_named_and_the_rest_is_kept(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.missing = frozenset({2, 9})
    found, _ = run(photos, tmp_path / "out")
    assert found.frames_placed == FRAMES - 2
    assert [frame.index for frame in found.skipped] == [2, 9]
    assert all(frame.reason for frame in found.skipped)
    assert open_map(tmp_path / "out").skipped == found.skipped


def test_unconnected_chunks_are_reported_and_the_larger_part_is_the_map(
    photos: Path, tmp_path: Path, front_end
) -> None:
    front_end.missing = frozenset({3, 4})  # the overlap of the first two chunks
    found, events = run(photos, tmp_path / "out")
    assert [frame.index for frame in open_map(tmp_path / "out").frames] == [5, 6, 7, 8, 9]
    assert [frame.index for frame in found.skipped] == [0, 1, 2, 3, 4]
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    assert "0003.jpg to 0007.jpg could not be connected" in notice
    assert found.notices == (notice,)


def test_an_unreadable_image_is_left_out_and_reported(photos: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "photos"
    mixed.mkdir()
    for path in photos.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "0005.jpg").write_bytes((photos / "0005.jpg").read_bytes()[:300])
    (mixed / "0007.jpg").write_bytes(b"")
    found, events = run(mixed, tmp_path / "out")
    assert (found.frames_read, found.frames_placed) == (FRAMES - 2, FRAMES - 2)
    assert [frame.index for frame in found.skipped] == [5, 7]
    assert found.skipped[1].reason == "the file is empty"
    assert [event.frame for event in events if isinstance(event, FrameSkipped)] == list(found.skipped)


@pytest.mark.parametrize(("moment", "placed"), [("chunk 1", 5), ("chunk 2", 8), ("refine", 10)])
def test_ctrl_c_keeps_the_chunks_before_it(photos: Path, tmp_path: Path, front_end, moment: str, placed: int) -> None:
    front_end.interrupt = moment
    found, events = run(photos, tmp_path / "out")
    assert found.interrupted
    assert found.frames_placed == placed
    assert report.read(tmp_path / "out" / "report.json").interrupted
    reconstruction = open_map(tmp_path / "out")
    assert not reconstruction.complete
    assert [frame.index for frame in reconstruction.frames] == list(range(placed))
    assert {frame.reason for frame in reconstruction.skipped} <= {"was read, but the run ended before its turn"}
    assert len(reconstruction.skipped) == found.frames_read - placed
    np.testing.assert_allclose(*centres_after_alignment(tmp_path / "out"), atol=2e-3)
    for name in ("poses.txt", "cloud.ply", "colmap/sparse/0/images.bin"):
        assert (tmp_path / "out" / name).is_file()
    assert not list((tmp_path / "out").rglob("*.part"))
    assert isinstance(events[-1], Finished)


def test_ctrl_c_before_anything_is_finished_leaves_nothing(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.interrupt = "chunk 0"
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        reconstruct(str(photos), tmp_path / "out", SETTINGS, [events.append])
    assert events[-1] == Notice("Interrupted before any frames had a place: nothing is kept.")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_files_are_written_keeps_the_map(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recon.exports.ply._vertices", interrupted)
    found, _ = run(photos, tmp_path / "out")
    assert found.interrupted
    assert found.notices[-1] == "Interrupted while writing: recon export makes the files that are missing."
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["colmap", "map", "poses.txt", "report.json"]
    assert open_map(tmp_path / "out").complete


def test_no_geometry_at_all_is_an_error_and_leaves_nothing(photos: Path, tmp_path: Path, front_end) -> None:
    front_end.missing = frozenset(range(FRAMES))
    with pytest.raises(ReconstructionError, match=r"None of the 10 frames of .* could be placed"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_depth_is_filled_by_the_bundled_network_if_its_weights_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    filled = open_depth_stage("filled", events.append)
    assert isinstance(filled, FilledSweep)
    assert isinstance(filled.first, PlaneSweep)
    assert isinstance(filled.second, LearnedSweep)
    assert isinstance(open_depth_stage("classical", events.append), PlaneSweep)
    assert events == []
    monkeypatch.setattr("recon.depth.weights.BUNDLED", Path("nowhere.safetensors"))
    assert isinstance(open_depth_stage("filled", events.append), PlaneSweep)
    (notice,) = events
    assert isinstance(notice, Notice)
    assert "nowhere.safetensors is missing" in notice.text


def test_impossible_poses_are_refused_and_nothing_is_left(photos: Path, tmp_path: Path, front_end) -> None:
    def almost_nothing(poses: Mapping[int, Array]) -> SparseModel:
        model = true_model(poses)
        few = model.points.point_ids < 3
        rows = {name: getattr(model.points, name)[few] for name in ("point_ids", "frame_indices", "pixels")}
        return replace(model, points=replace(model.points, **rows))

    front_end.refined = staticmethod(almost_nothing)
    with pytest.raises(ReconstructionError, match="cannot belong to a real scene: half of the frames see"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_doubts_are_listed_first(photos: Path, tmp_path: Path, front_end, capsys) -> None:
    def blurred(poses: Mapping[int, Array]) -> SparseModel:
        model = true_model(poses)
        pixels = model.points.pixels.copy()
        pixels[::2] += 40.0
        pixels[1::2] -= 40.0
        return replace(model, points=replace(model.points, pixels=pixels))

    front_end.refined = staticmethod(blurred)
    found, _ = run(photos, tmp_path / "out")
    (suspicion,) = found.suspicions
    assert "of the image width from where they should be" in suspicion
    conclude(found, tmp_path / "out", Ending())
    assert capsys.readouterr().out.splitlines()[1].split() == ["DOUBTFUL", *f"{suspicion}.".split()]
    (item,) = (item for item in check_folder(tmp_path / "out").items if item.name == "sanity")
    assert not item.ok
    assert suspicion in item.sentence


def test_frames_that_lie_upon_one_another_and_show_different_things_are_doubted(
    photos: Path, tmp_path: Path, front_end
) -> None:
    exact = front_end.reconstruct

    def folded(self: ExactFrontEnd, chunk: Chunk) -> ChunkGeometry:
        found = exact(self, chunk)
        frames = (replace(frame, colour=255 - frame.colour) if frame.index % 2 else frame for frame in found.frames)
        return replace(found, frames=tuple(frames))

    front_end.refined, front_end.reconstruct = staticmethod(true_model), folded
    found, _ = run(photos, tmp_path / "out")
    (suspicion,) = found.suspicions
    assert "lie upon one another but show different things" in suspicion
    items = {item.name: item for item in check_folder(tmp_path / "out").items}
    assert not items["folds"].ok
    assert suspicion in items["folds"].sentence
    assert suspicion in items["sanity"].sentence


def test_a_map_of_one_submap_gives_its_doubts_in_words(photos: Path, tmp_path: Path, front_end, capsys) -> None:
    found, _ = run(photos, tmp_path / "out")
    chunks = [replace(chunk, warnings=("it is blurred", "the scale jumps")) for chunk in found.chunks]
    told = replace(found, chunks=tuple(chunks[:1]), suspicions=("the scale jumps",))
    conclude(told, tmp_path / "out", Ending())
    first, second, third = capsys.readouterr().out.splitlines()[1:4]
    assert first.split() == ["DOUBTFUL", "the", "scale", "jumps."]
    assert second.split() == ["doubtful", "it", "is", "blurred."]
    assert third.split()[0] == "frames"
    conclude(replace(found, chunks=tuple(chunks)), tmp_path / "out", Ending())
    assert f"doubtful     {len(chunks)} of {len(chunks)} submaps; see recon loops" in capsys.readouterr().out


def test_the_loss_of_a_part_stands_first(photos: Path, tmp_path: Path, front_end, capsys) -> None:
    """As of the second of two scenes in one folder."""
    front_end.missing = frozenset({1, 7, 8, 9})
    found, _ = run(photos, tmp_path / "out", replace(SETTINGS, refine="none"))
    assert found.frames_placed == FRAMES - 4
    conclude(found, tmp_path / "out", Ending())
    first, second, *others = capsys.readouterr().out.splitlines()[1:]
    reason = "has too little in common with the rest of the map"
    assert first == f"  NOT PLACED   4 of 10 frames, the first 0001.jpg, the last 0009.jpg: {reason}."
    assert second == "  frames       6 of 10 placed"
    assert not any(reason in line for line in others)
    for count, told in ((11, ()), (10, (found.skipped[:2],))):
        few = replace(found, frames_read=2 * count, skipped=found.skipped[:2])
        assert few.losses == told


def test_a_resumed_map_keeps_its_unit_and_frame(photos: Path, tmp_path: Path, front_end) -> None:
    first = tmp_path / "first"
    first.mkdir()
    for index in range(7):
        shutil.copy(photos / f"{index:04d}.jpg", first)
    front_end.refined = staticmethod(true_model)
    run(first, tmp_path / "out")
    before = {frame.index: frame.world_from_cam.translation for frame in open_map(tmp_path / "out").frames}
    for index in range(7, FRAMES):
        shutil.copy(photos / f"{index:04d}.jpg", first)
    front_end.refined = staticmethod(elsewhere)
    run(first, tmp_path / "out", replace(SETTINGS, resume=True))
    after = {frame.index: frame.world_from_cam.translation for frame in open_map(tmp_path / "out").frames}
    assert len(after) == FRAMES
    for index, centre in before.items():
        np.testing.assert_allclose(after[index], centre, atol=2e-3)
    assert not (tmp_path / "out" / "map" / "finished.json").exists()


def elsewhere(poses: Mapping[int, Array]) -> SparseModel:
    """The exact model, moved, turned and 1000 times as large."""
    model, change = true_model(poses), Sim3(1e3, np.diag([1.0, -1, -1]), np.array([7.0, 8, 9]))
    moved = {index: change @ Sim3.from_matrix(pose).inverse() for index, pose in model.cam_from_model.items()}
    rigid = {index: Sim3(1.0, pose.rotation, pose.translation).inverse().matrix() for index, pose in moved.items()}
    points = replace(model.points, positions=change.apply(model.points.positions))
    return replace(model, cam_from_model=rigid, points=points)


def test_doubts_of_the_front_end_head_the_result(photos: Path, tmp_path: Path, front_end) -> None:
    def doubting(
        self: ExactFrontEnd, folder: Path, settings: object, tell: Callable[[Event], None], *_: object
    ) -> None:
        ExactFrontEnd.__init__(self, folder)
        tell(Notice("two motions."))
        tell(Notice("it is unclear which one is the scene's.", doubtful=True))

    front_end.__init__, front_end.refined = doubting, staticmethod(true_model)
    found = reconstruct(str(photos), tmp_path / "out", SETTINGS)
    assert found.suspicions == ("it is unclear which one is the scene's",)
    assert report.read(tmp_path / "out" / "report.json").suspicions == found.suspicions


def test_a_registered_front_end_is_chosen_by_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front_end
) -> None:
    elsewhere_made = type("Tiny", (ExactFrontEnd,), {"unadjusted": "it never adjusts"})
    monkeypatch.setitem(FRONT_ENDS, "tiny", elsewhere_made)
    front_end.interrupt = "chunk 0"  # the usual one is not used
    found, _ = run(photos, tmp_path / "out", replace(SETTINGS, front_end="tiny"))
    assert (found.frames_placed, found.suspicions) == (FRAMES, ("it never adjusts",))
    assert report.read(tmp_path / "out" / "report.json").settings.front_end == "tiny"


def test_a_front_end_that_is_not_registered_is_refused_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no front end tyni\. Choose one of sfm, network"):
        run(photos, tmp_path / "out", replace(SETTINGS, front_end="tyni"))
    assert not (tmp_path / "out").exists()


class EverySecondFrame:
    """A feed of a camera of whose frames 0, 1, 2, ... only the even ones reach the reconstruction in time."""

    kind, sizes, patient = "camera", ((RADIAL.width, RADIAL.height),), False

    def items(self, stop: threading.Event) -> Iterator[Candidate]:
        for index in range(0, 2 * FRAMES, 2):
            frame = replace(frame_of(index), name=picture_name(index), image=render(placed_frame(index)))
            yield Candidate(frame, lambda: None, 0.5 * index, 0.5 * index)

    def file_of(self, index: int) -> None:
        return None

    def again(self) -> Iterator[Candidate]:
        return iter(())


def test_frames_of_a_camera_that_the_map_lacks_get_the_poses_that_the_tracker_said(tmp_path: Path, front_end) -> None:
    front_end.refined = staticmethod(true_model)
    out, before = tmp_path / "out", Sim3(0.5, Rotation.from_rotvec([0.4, 0, 1]).as_matrix(), np.array([1.0, 2, 3]))

    def track(event: Event) -> None:
        """Of frame 7 the tracker knows nothing, and of the frames 9 and up it says something wrong."""
        if isinstance(event, FrameRead) and event.frame.index == 0:
            file = TrackedFile(out)
            for index in range(2 * FRAMES):
                said = before @ true_pose(index)
                pose = Sim3(1.0, said.rotation, said.translation + (index > 8) * np.array([0.0, 0, 9])).matrix()
                known = "lost" if index == 7 else "tracking"
                file.add(
                    FrameTracked(index, 0.5 * index, known, None if index == 7 else pose, RADIAL, 99, -1, 0.0, 20.0)
                )
            file.close()

    settings = replace(SETTINGS, tracking=False, source=replace(SETTINGS.source, keyframes="all"))
    source = LiveSource("camera", EverySecondFrame(), settings.source)
    done = reconstruct_source("camera", source, out, settings, listeners=[track])
    assert (done.frames_placed, done.passed_over, done.passed_over_placed) == (FRAMES, FRAMES, FRAMES - 3)
    made = open_map(out)
    true = np.array([true_pose(frame.index).translation for frame in made.frames])
    here = fit_similarity(np.array([frame.world_from_cam.translation for frame in made.frames]), true, np.ones(FRAMES))
    assert [frame.index for frame in made.between] == [1, 3, 5, 11, 13, 15, 17]
    assert [(frame.index, frame.name, frame.reason) for frame in made.skipped] == [
        (index, picture_name(index), UNCERTAIN) for index in (7, 9, 19)
    ]
    for frame in made.between:  # the joint adjustment ends in the true world here, but the map keeps its first unit
        assert np.allclose(here.apply(frame.world_from_cam.translation), true_pose(frame.index).translation, atol=1e-6)
