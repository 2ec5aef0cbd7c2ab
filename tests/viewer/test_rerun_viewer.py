import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rerun as rr
from rerun.chunk import Chunk, RrdReader

import viewer
from recon.core.errors import DependencyError, OutputError
from recon.core.events import CameraView, Event, Finished, LoopClosed
from recon.core.places import LoopRecord
from recon.exports.ply import CloudPoints, write_points
from recon.store.map import images_folder
from tests.viewer import scene
from viewer import launch, rerun_viewer
from viewer.mailbox import MOST_WAITING, Letter

CHUNKS = 3
FRAMES = CHUNKS * scene.CHUNK


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "new" / viewer.RECORDING
    scene.write_originals(images_folder(path.parent), CHUNKS)
    record_all(path)
    return path


def record_all(path: Path) -> None:
    with viewer.record(path, strict=True) as listener:
        for event in scene.events(CHUNKS):
            listener(event)
            wait_until_idle(listener)


def wait_until_idle(listener: viewer.RerunViewer) -> None:
    """Give the viewer's thread the time that a real run gives it, so that nothing is replaced."""
    give_up = time.monotonic() + 60
    while listener.waiting and time.monotonic() < give_up:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def chunks(recording: Path) -> list[Chunk]:
    return list(RrdReader(recording).stream().to_chunks())


def column(chunks: list[Chunk], entity: str, name: str) -> list[tuple[int | None, object]]:
    """(frame, value) of a component in the order in which it was logged; the frame of static data is None."""
    rows = []
    for chunk in chunks:
        batch = chunk.to_record_batch()
        if chunk.entity_path != entity or name not in batch.schema.names:
            continue
        frames = [None] * chunk.num_rows if chunk.is_static else batch.column("frame").to_pylist()
        ids = [bytes(row) for row in batch.column("rerun.controls.RowId").to_pylist()]
        rows += zip(ids, frames, batch.column(name).to_pylist(), strict=True)
    return [(frame, value) for _, frame, value in sorted(rows, key=lambda row: row[0]) if value is not None]


def submap_transforms(chunks: list[Chunk], number: int) -> list[tuple[int | None, np.ndarray]]:
    """(frame, 4 x 4 parent-from-child matrix) in logging order."""
    entity = f"/world/submaps/{number}"
    columns = [column(chunks, entity, f"Transform3D:{part}") for part in ("mat3x3", "scale", "translation")]
    matrices = []
    for (at, rotation), (_, scale), (_, translation) in zip(*columns, strict=True):
        matrix = np.eye(4)
        matrix[:3, :3] = scale[0][0] * np.reshape(rotation[0], (3, 3)).T  # Rerun stores columns
        matrix[:3, 3] = translation[0]
        matrices.append((at, matrix))
    return matrices


def test_entities_and_how_often_each_is_logged(chunks: list[Chunk]) -> None:
    rows = Counter[str]()
    for chunk in chunks:
        rows[chunk.entity_path] += chunk.num_rows
    assert set(rows) == {
        "/__properties",
        "/log",
        "/places/before",
        "/places/now",
        "/plots/lag",
        "/plots/memory",
        "/plots/pace",
        "/plots/residual",
        "/plots/speed",
        "/plots/tracked",
        "/tracking",
        "/world",
        "/world/local/cameras",
        "/world/local/points",
        "/world/camera",
        "/world/camera/confidence",
        "/world/camera/depth",
        "/world/camera/image",
        "/world/cameras",
        "/world/loops",
        "/world/now",
        "/world/now/trail",
        "/world/points",
        "/world/trajectory",
        *(f"/world/submaps/{number}" for number in range(CHUNKS)),
        *(f"/world/submaps/{number}/points" for number in range(CHUNKS)),
    }
    assert rows["/world/camera/image"] == FRAMES
    assert rows["/world/camera/confidence"] == FRAMES
    assert rows["/plots/memory"] == FRAMES
    assert (rows["/plots/lag"], rows["/plots/pace"]) == (CHUNKS, CHUNKS - 1)
    assert [rows[f"/world/submaps/{number}/points"] for number in range(CHUNKS)] == [1] * CHUNKS
    assert [rows[f"/world/submaps/{number}"] for number in range(CHUNKS)] == [2] * CHUNKS


def test_both_timelines_carry_the_frames_own_time(chunks: list[Chunk]) -> None:
    instants = set()
    for chunk in chunks:
        if chunk.entity_path == "/world/camera/image":
            batch = chunk.to_record_batch()
            seconds = [value.total_seconds() for value in batch.column("time").to_pylist()]
            instants |= set(zip(batch.column("frame").to_pylist(), seconds, strict=True))
    assert instants == {(index, scene.SECONDS * index) for index in range(FRAMES)}


def test_submaps_are_placed_and_then_moved_by_the_correction(chunks: list[Chunk]) -> None:
    for number in range(CHUNKS):
        (first, before), (again, after) = submap_transforms(chunks, number)
        assert first == again == scene.CHUNK * number
        placed = scene.world_from_chunk(number)
        np.testing.assert_allclose(before, placed.matrix(), atol=1e-6)
        np.testing.assert_allclose(after, (scene.CORRECTION @ placed).matrix(), atol=1e-6)


def test_points_lie_on_the_wall_with_the_colour_of_their_pixel(chunks: list[Chunk]) -> None:
    for number in range(CHUNKS):
        entity = f"/world/submaps/{number}/points"
        points = np.array(column(chunks, entity, "Points3D:positions")[0][1])
        colours = np.array(column(chunks, entity, "Points3D:colors")[0][1], dtype=np.uint32)
        assert len(points) == len(colours)
        of_one_frame = scene.WIDTH * (scene.HEIGHT - 1)
        assert 0.8 * of_one_frame < len(points) < 2.2 * of_one_frame  # three frames of the same wall
        in_world = scene.world_from_chunk(number).apply(points)
        np.testing.assert_allclose(in_world[:, 2], scene.WALL, atol=1e-5)
        row = in_world[:, 1] / scene.WALL * scene.FOCAL + scene.HEIGHT / 2 - 0.5
        np.testing.assert_allclose((colours >> 16) & 255, np.round(5 * row))


def test_camera_is_rigid_and_its_depth_is_in_world_units(chunks: list[Chunk]) -> None:
    poses = column(chunks, "/world/camera", "Transform3D:translation")
    assert [frame for frame, _ in poses] == 2 * list(range(FRAMES))
    for index, (_, translation) in enumerate(poses[:FRAMES]):
        np.testing.assert_allclose(translation[0], scene.true_centre(index), atol=1e-6)
    for index, (_, translation) in enumerate(poses[FRAMES:]):
        np.testing.assert_allclose(translation[0], scene.CORRECTION.apply(scene.true_centre(index)), atol=1e-5)
    scales = column(chunks, "/world/camera", "Transform3D:scale")
    assert all(not value for _, value in scales)
    units = [value[0] for _, value in column(chunks, "/world/camera/depth", "EncodedDepthImage:meter")]
    assert rerun_viewer.DEPTH_STEPS / units[0] == pytest.approx(scene.WALL, rel=1e-6)
    assert rerun_viewer.DEPTH_STEPS / units[-1] == pytest.approx(scene.WALL * scene.CORRECTION.scale, rel=1e-6)


def test_path_is_static_and_follows_the_correction(chunks: list[Chunk]) -> None:
    logged = column(chunks, "/world/trajectory", "LineStrips3D:strips")
    assert {frame for frame, _ in logged} == {None}
    segments = np.array(logged[-1][1])
    assert segments.shape == (FRAMES - 1, 2, 3)
    ends = scene.CORRECTION.apply(np.array([scene.true_centre(index + 1) for index in range(FRAMES - 1)]))
    np.testing.assert_allclose(segments[:, 1], ends, atol=1e-5)
    assert len(column(chunks, "/world/cameras", "LineStrips3D:strips")[-1][1]) == FRAMES
    assert len(column(chunks, "/world/points", "Points3D:positions")[-1][1]) == 3


def test_world_axes_are_right_down_forward(chunks: list[Chunk]) -> None:
    ((at, axes),) = column(chunks, "/world", "ViewCoordinates:xyz")
    assert at is None
    right, down, forward = 3, 2, 5  # numbers of Rerun's ViewDir
    assert axes[0] == [right, down, forward]


def test_the_log_shows_stages_skipped_frames_notices_and_the_end(chunks: list[Chunk]) -> None:
    lines = [value[0] for _, value in column(chunks, "/log", "TextLog:text")]
    assert lines == [
        "Stage: reading",
        "8.png shows the place of 1.png: similarity 0.70, 55 features agree",
        "99.png left out: too blurred",
        "Working size lowered to 64.",
        "Finished: 9 of 10 frames placed",
    ]
    levels = [value[0] for _, value in column(chunks, "/log", "TextLog:level")]
    assert levels == ["INFO", "INFO", "WARN", "INFO", "INFO"]


def test_recording_has_a_layout_and_passes_reruns_own_check(recording: Path) -> None:
    reader = RrdReader(recording)
    assert (len(reader.recordings()), len(reader.blueprints())) == (1, 2)  # with the local map, with the first submap
    check = [sys.executable, "-m", "rerun_cli", "rrd", "verify", str(recording)]
    assert subprocess.run(check, env={"CI": "1"}, capture_output=True, check=False).returncode == 0


def test_same_events_draw_the_same_points(tmp_path: Path, chunks: list[Chunk]) -> None:
    with viewer.record(tmp_path / "again.rrd", strict=True) as listener:
        listener(scene.chunk_event(0))
    again = list(RrdReader(tmp_path / "again.rrd").stream().to_chunks())
    name = ("/world/submaps/0/points", "Points3D:positions")
    assert column(again, *name)[0][1] == column(chunks, *name)[0][1]


def test_leaving_the_block_ends_a_recording_without_finished_event(tmp_path: Path) -> None:
    path = tmp_path / "cut.rrd"
    with pytest.raises(KeyboardInterrupt), viewer.record(path, strict=True) as listener:
        listener(scene.chunk_event(0))
        raise KeyboardInterrupt
    listener(scene.chunk_event(1))
    entities = {chunk.entity_path for chunk in RrdReader(path).stream().to_chunks()}
    assert "/world/submaps/0/points" in entities
    assert "/world/submaps/1/points" not in entities


def broken(listener: viewer.RerunViewer, event: Event) -> None:
    raise ValueError("no such archetype")


def test_the_finished_cloud_replaces_the_points_of_the_submaps(tmp_path: Path) -> None:
    cloud = CloudPoints(np.random.default_rng(0).random((500, 3)), np.full((500, 3), 90), np.ones(500))
    with (tmp_path / "cloud.ply").open("wb") as file:
        write_points(file, replace(cloud, normals=np.tile([0.0, 0, -1], (500, 1))))
    path = tmp_path / viewer.RECORDING
    with viewer.record(path, strict=True) as listener:
        for event in scene.events(1):
            listener(Finished(tmp_path, 3, 3) if isinstance(event, Finished) else event)
            wait_until_idle(listener)
    logged = list(RrdReader(path).stream().to_chunks())
    [(at, positions)] = column(logged, "/world/cloud", "Points3D:positions")
    last = scene.CHUNK - 1
    assert at == last
    assert 0.97 * 500 < len(positions) <= 500
    assert column(logged, "/world/submaps/0/points", "Clear:is_recursive") == [(last, [False])]
    assert len(RrdReader(path).blueprints()) == 3  # Rerun opens the last one


def test_a_fault_is_logged_once_and_turns_the_viewer_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(viewer.RerunViewer, "_log_chunk", broken)
    with viewer.record(tmp_path / "a.rrd") as listener, caplog.at_level(logging.ERROR):
        for event in scene.events(2):
            listener(event)
    assert [record.message for record in caplog.records] == [
        "The viewer failed (ValueError: no such archetype) and is now off; the run continues without it."
    ]
    entities = {chunk.entity_path for chunk in RrdReader(tmp_path / "a.rrd").stream().to_chunks()}
    assert "/plots/memory" in entities
    assert "/world/camera" not in entities


def test_a_fault_inside_rerun_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun_viewer, "transform", lambda pose: rr.Transform3D(translation="nowhere"))
    with pytest.raises(ValueError, match="nowhere"), viewer.record(tmp_path / "a.rrd", strict=True) as listener:
        listener(scene.chunk_event(0))


def test_unwritable_recording_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot create"):
        viewer.record(tmp_path / "file" / "a.rrd")
    with pytest.raises(OutputError, match="Cannot write"):
        viewer.record(tmp_path)


def test_live_without_a_display_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_display", lambda: False)
    with pytest.raises(DependencyError, match="no display to open a window on"):
        viewer.live(tmp_path)


def test_a_closed_or_hanging_window_does_not_delay_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = launch.free_port()
    window = launch.start_rerun("--serve-grpc", "--port", str(port), own_session=True)
    assert launch.comes_up(window, port)
    monkeypatch.setattr(rerun_viewer, "open_window", lambda: f"rerun+http://{launch.LOOPBACK}:{port}/proxy")
    monkeypatch.setattr(rerun_viewer, "SCREEN_PATIENCE", 2.0)
    shown = viewer.live(tmp_path)
    slowest = 0.0
    with viewer.record(tmp_path / viewer.RECORDING, strict=True) as recorded:
        for number, event in enumerate(scene.events(CHUNKS)):
            if number == 5:
                window.kill()
                window.wait()
            start = time.monotonic()
            shown(event)
            slowest = max(slowest, time.monotonic() - start)
            recorded(event)
            wait_until_idle(recorded)
    assert slowest < 10.0  # the patience at the end included
    rows = column(
        list(RrdReader(tmp_path / viewer.RECORDING).stream().to_chunks()), "/world/camera/image", "EncodedImage:blob"
    )
    assert len(rows) == FRAMES


def test_a_slow_viewer_shows_the_newest_and_never_delays_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled, go_on = [], threading.Event()

    def handle(listener: viewer.RerunViewer, letter: Letter) -> None:
        go_on.wait(60)
        handled.append(letter.event)

    monkeypatch.setattr(viewer.RerunViewer, "_handle", handle)
    corrections = [scene.correction_event(1) for _ in range(50)]
    with viewer.record(tmp_path / "a.rrd", strict=True) as listener:
        for number, correction in enumerate(corrections):
            listener(scene.chunk_event(number))
            listener(correction)
        go_on.set()
    assert [event for event in handled if event in corrections][-1] is corrections[-1]
    assert len(handled) <= 1 + MOST_WAITING["submap"] + 1
    log = column(list(RrdReader(tmp_path / "a.rrd").stream().to_chunks()), "/log", "TextLog:text")
    assert "submaps not shown: the viewer was too slow" in log[-1][1][0]


def test_loop_joins_the_two_frames_and_follows_the_correction(chunks: list[Chunk]) -> None:
    before, after = (np.array(value) for _, value in column(chunks, "/world/loops", "LineStrips3D:strips"))
    ends = np.array([[scene.true_centre(1), scene.true_centre(8)]])
    np.testing.assert_allclose(before, ends, atol=1e-6)
    np.testing.assert_allclose(after, scene.CORRECTION.apply(ends[0])[None], atol=1e-5)


def test_of_loops_that_are_closed_at_once_the_surest_shows_its_images(tmp_path: Path) -> None:
    scene.write_originals(images_folder(tmp_path), 3)
    with viewer.record(tmp_path / viewer.RECORDING, strict=True) as listener:
        for number in range(3):
            listener(scene.chunk_event(number))
        with listener._mailbox._changed:  # the viewer waits until all of them are there
            for frame, inliers in ((6, 40), (7, 90), (8, 60)):
                listener(LoopClosed(LoopRecord(frame, 1, 0, 2, 0.7, inliers, 0.002, 1.0, 0.1, "accepted", "")))
    chunks = list(RrdReader(tmp_path / viewer.RECORDING).stream().to_chunks())
    assert [at for at, _ in column(chunks, "/places/now", "EncodedImage:blob")] == [7]
    (edges,) = [value for _, value in column(chunks, "/world/loops", "LineStrips3D:strips")]
    assert len(edges) == 3


def test_places_show_the_images_of_both_frames_where_the_loop_was_found(chunks: list[Chunk]) -> None:
    for entity, index in (("/places/now", 8), ("/places/before", 1)):
        ((at, blob),) = column(chunks, entity, "EncodedImage:blob")
        assert at == 8
        image = cv2.imdecode(np.array(blob[0], dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image.shape == (scene.HEIGHT, scene.WIDTH, 3)
        assert abs(int(image[..., 2].mean()) - scene.original_colour(index)[2]) < 4


def test_confidence_is_an_image_of_every_frame(chunks: list[Chunk]) -> None:
    blobs = column(chunks, "/world/camera/confidence", "EncodedImage:blob")
    assert [at for at, _ in blobs] == list(range(FRAMES))
    image = cv2.imdecode(np.array(blobs[0][1][0], dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image.shape == (scene.HEIGHT, scene.WIDTH)
    assert image[0].mean() < 40 < 240 < image[10:].mean()


def test_the_tracked_camera_its_trail_and_the_state_are_shown_at_capture(chunks: list[Chunk]) -> None:
    trails = column(chunks, "/world/now/trail", "LineStrips3D:strips")
    assert [at for at, _ in trails] == [FRAMES, FRAMES + 1, FRAMES + 2]
    assert np.allclose(trails[-1][1][0], [scene.true_centre(index) for index in range(FRAMES, FRAMES + 3)])
    assert [value for _, value in column(chunks, "/tracking", "TextDocument:text")] == [
        ["# tracking"], ["# weak"], ["# lost"],
    ]  # fmt: skip
    assert [at for at, _ in column(chunks, "/world/now", "Clear:is_recursive")] == [FRAMES + 3]


def test_the_local_map_is_shown_where_the_finished_one_is_not_yet(chunks: list[Chunk]) -> None:
    points = column(chunks, "/world/local/points", "Points3D:positions")
    assert [at for at, _ in points] == [1, FRAMES - 1]
    assert np.allclose(points[0][1], np.eye(3) - 1)
    assert np.allclose(points[1][1], np.eye(3))
    frusta = column(chunks, "/world/local/cameras", "LineStrips3D:strips")
    assert [len(strips) for _, strips in frusta] == [2, 2]


def test_a_piece_of_the_tracker_s_own_is_not_shown_in_a_finished_map(tmp_path: Path) -> None:
    with viewer.record(tmp_path / "a.rrd", strict=True) as listener:
        listener(scene.chunk_event(0))
        listener(scene.local_map(scene.CHUNK, -2))
        listener(replace(next(scene.tracked_events(scene.CHUNK)), piece=-2))
    chunks = list(RrdReader(tmp_path / "a.rrd").stream().to_chunks())
    assert not column(chunks, "/world/local/points", "Points3D:positions")
    assert not column(chunks, "/world/now", "LineStrips3D:strips")
    assert column(chunks, "/tracking", "TextDocument:text")[0][1] == ["# tracking\n\nnot yet in the map"]


def local_depth_recorded(path: Path, *events: Event) -> list[Chunk]:
    with viewer.record(path, strict=True) as listener:
        for event in events:
            listener(event)
            wait_until_idle(listener)
    return list(RrdReader(path).stream().to_chunks())


def test_dense_points_of_the_local_map_follow_their_keyframes_until_the_finished_map_has_them(tmp_path: Path) -> None:
    grown = scene.local_map(0, -1)
    turned = grown.world_from_cam.copy()
    turned[:, :3, 3] += 0.3
    later = replace(grown, index=3, keyframes=np.array([1, 3]), world_from_cam=turned[::-1], unit=2.0)
    chunks = local_depth_recorded(
        tmp_path / "a.rrd",
        scene.local_depth(1),  # the viewer was too slow for the keyframe itself
        grown,
        scene.local_depth(0),
        replace(grown, index=2),
        later,
    )
    points = column(chunks, "/world/local/depth/1", "Points3D:positions")
    assert [at for at, _ in points] == [1]
    assert np.allclose(points[0][1], scene.local_depth(1).positions)
    places = column(chunks, "/world/local/depth/1", "Transform3D:translation")
    assert [at for at, _ in places] == [1, 3]
    assert np.allclose([place[0] for _, place in places], [scene.true_centre(1), scene.true_centre(1) + 0.3])
    assert [scale[0] for _, scale in column(chunks, "/world/local/depth/1", "Transform3D:scale")] == [[1] * 3, [2] * 3]
    assert [at for at, _ in column(chunks, "/world/local/depth/0", "Clear:is_recursive")] == [3]


def test_dense_points_of_another_lens_vanish(tmp_path: Path) -> None:
    grown = scene.local_map(0, -1)
    focal, *rest = grown.camera.params
    longer = replace(grown, index=2, camera=replace(grown.camera, params=(1.05 * focal, *rest)))
    chunks = local_depth_recorded(tmp_path / "a.rrd", grown, scene.local_depth(1), longer)
    assert [at for at, _ in column(chunks, "/world/local/depth/1", "Clear:is_recursive")] == [2]


def test_what_the_camera_sees_is_shown_with_its_corners(tmp_path: Path) -> None:
    image = np.full((24, 32, 3), 77, np.uint8)
    corners = np.array([[3.5, 4.5], [20.0, 10.0]])
    chunks = local_depth_recorded(tmp_path / "a.rrd", CameraView(5, 0.5, image, corners))
    shown = cv2.imdecode(np.array(column(chunks, "/now", "EncodedImage:blob")[0][1][0], np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(shown.astype(int) - image).max() < 4
    assert np.allclose(column(chunks, "/now/corners", "Points2D:positions")[0][1], corners)


def test_points_of_all_submaps_keep_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun_viewer, "POINT_BUDGET", 2_000)
    monkeypatch.setattr(rerun_viewer, "SUBMAP_SHARE", 0.25)
    with viewer.record(tmp_path / "a.rrd", strict=True) as listener:
        for number in range(6):
            listener(scene.chunk_event(number))
            wait_until_idle(listener)
    chunks = list(RrdReader(tmp_path / "a.rrd").stream().to_chunks())
    counts = [len(column(chunks, f"/world/submaps/{number}/points", "Points3D:positions")[0][1]) for number in range(6)]
    assert sum(counts) <= 2_000
    assert counts == sorted(counts, reverse=True)
    assert 350 < counts[0] <= 500
    assert counts[-1] > 60


def test_heavy_packages_are_imported_only_where_needed() -> None:
    code = (
        "import sys, recon.core.events, recon.store.map\n"
        "assert not {'viewer', 'rerun', 'torch'} & set(sys.modules)\n"
        "import viewer\n"
        "assert not {'torch', 'open3d', 'pycolmap'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
