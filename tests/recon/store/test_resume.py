"""Resumed runs: after a kill, with a grown folder, with another source; and the ones that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.errors import MapError, OutputError, ReconError, SettingsError, SourceError
from recon.core.events import ChunkReconstructed, Event, FrameRead
from recon.core.refusal import Hindrance, Unplaced
from recon.core.similarity import Sim3
from recon.core.types import Camera, Chunk, ChunkGeometry, Frame, PlacedFrame
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.journal import read_journal
from recon.store.map import ReconstructedMap, open_map
from recon.store.report import RunReport
from tests.support import RADIAL, ExactFrontEnd, change_ledger, placed_frame, render, true_model

FRAMES = 10
SETTINGS = RunSettings(chunk=5, overlap=2)  # three chunks: 0-4, 3-7, 6-9
AGAIN = replace(SETTINGS, resume=True)


class Killed(BaseException):
    """Like SIGKILL, it gives the program no notice."""


class Watched(ExactFrontEnd):
    """Records the chunks that it has to reconstruct."""

    ending = Killed
    asked: ClassVar[list[int]]

    def reconstruct(self, chunk: Chunk) -> ChunkGeometry:
        self.asked.append(chunk.index)
        return super().reconstruct(chunk)


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    chosen = type("Chosen", (Watched,), {"asked": []})
    monkeypatch.setitem(FRONT_ENDS, "sfm", chosen)
    return chosen


def write_photos(folder: Path, indices: range) -> Path:
    """Pictures of the walk, numbered from 0 in every folder."""
    folder.mkdir(exist_ok=True)
    for number, index in enumerate(indices):
        PillowImage.fromarray(render(placed_frame(index))).save(folder / f"{number:04d}.jpg")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", range(FRAMES))


def run(photos: Path, out: Path, settings: RunSettings = AGAIN) -> tuple[RunReport, list[Event]]:
    events: list[Event] = []
    return reconstruct(str(photos), out, settings, [events.append]), events


def killed(photos: Path, out: Path, front_end: type[Watched], moment: str, settings: RunSettings = SETTINGS) -> None:
    """A killed run; afterwards the front end works, and has recorded no chunk."""
    front_end.interrupt = moment
    with pytest.raises(Killed):
        run(photos, out, settings)
    front_end.interrupt = ""
    front_end.asked.clear()


def expect_same_map(out: Path, other: Path) -> None:
    """Assert equality up to the precision of stored depth, on which the unit of the map depends."""
    ours, theirs = (open_map(folder).frames for folder in (out, other))
    assert [(f.index, f.timestamp, f.name, f.camera) for f in ours] == [
        (f.index, f.timestamp, f.name, f.camera) for f in theirs
    ]
    for a, b in zip(ours, theirs, strict=True):
        assert a.world_from_cam.isclose(b.world_from_cam, atol=2e-3)


@pytest.mark.parametrize(
    ("moment", "left"), [("chunk 0", [0, 1, 2]), ("chunk 1", [1, 2]), ("chunk 2", [2]), ("refine", [])]
)
def test_a_killed_run_resumes_where_it_stopped(
    photos: Path, tmp_path: Path, front_end: type[Watched], moment: str, left: list[int]
) -> None:
    run(photos, tmp_path / "whole", SETTINGS)
    killed(photos, tmp_path / "out", front_end, moment)
    found, events = run(photos, tmp_path / "out")
    assert front_end.asked == left
    assert bool(found.notices) == (moment != "chunk 0")
    assert (found.frames_read, found.frames_placed, found.interrupted) == (FRAMES, FRAMES, False)
    assert [(chunk.first, chunk.last, chunk.placed) for chunk in found.chunks] == [(0, 4, 5), (3, 7, 5), (6, 9, 4)]
    assert open_map(tmp_path / "out").complete
    expect_same_map(tmp_path / "out", tmp_path / "whole")
    # A viewer sees the whole map: replayed chunks send the same events as new ones.
    assert [event.frame.index for event in events if isinstance(event, FrameRead)] == list(range(FRAMES))
    new = [frame.index for event in events if isinstance(event, ChunkReconstructed) for frame in event.frames]
    assert new == list(range(FRAMES))
    assert not (tmp_path / "out" / "map" / "incoming").exists()
    for name in ("poses.txt", "cloud.ply", "colmap/sparse/0/images.bin", "report.json"):
        assert (tmp_path / "out" / name).is_file()


def test_a_run_may_be_killed_repeatedly(photos: Path, tmp_path: Path, front_end: type[Watched]) -> None:
    run(photos, tmp_path / "whole", SETTINGS)
    killed(photos, tmp_path / "out", front_end, "chunk 1")
    killed(photos, tmp_path / "out", front_end, "chunk 2", AGAIN)
    run(photos, tmp_path / "out")
    assert front_end.asked == [2]
    expect_same_map(tmp_path / "out", tmp_path / "whole")


def test_unplaced_frames_keep_their_reasons(photos: Path, tmp_path: Path, front_end: type[Watched]) -> None:
    front_end.missing = frozenset({2})
    whole, _ = run(photos, tmp_path / "whole", SETTINGS)
    killed(photos, tmp_path / "out", front_end, "chunk 2")
    found, _ = run(photos, tmp_path / "out")
    assert found.skipped == whole.skipped
    assert [frame.index for frame in found.skipped] == [2]


def test_a_run_ended_by_ctrl_c_can_be_resumed(photos: Path, tmp_path: Path, front_end: type[Watched]) -> None:
    front_end.interrupt, front_end.ending = "chunk 2", KeyboardInterrupt
    first, _ = run(photos, tmp_path / "out", SETTINGS)
    assert (first.interrupted, first.frames_placed) == (True, 8)
    front_end.interrupt = ""
    found, _ = run(photos, tmp_path / "out")
    assert (found.interrupted, found.frames_placed) == (False, FRAMES)


def test_ctrl_c_while_the_map_is_restored_leaves_it_unchanged(photos: Path, tmp_path: Path, front_end) -> None:
    run(photos, tmp_path / "out", SETTINGS)
    before = (tmp_path / "out" / "map" / "map.db").read_bytes()

    def interrupted(event: Event) -> None:
        if isinstance(event, ChunkReconstructed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(str(photos), tmp_path / "out", AGAIN, [interrupted])
    assert (tmp_path / "out" / "map" / "map.db").read_bytes() == before
    assert run(photos, tmp_path / "out")[0].frames_placed == FRAMES


def test_a_folder_that_has_grown(photos: Path, tmp_path: Path, front_end: type[Watched]) -> None:
    run(photos, tmp_path / "out", SETTINGS)
    front_end.asked.clear()
    write_photos(photos, range(FRAMES + 2))
    found, _ = run(photos, tmp_path / "out")
    assert front_end.asked == [3]
    assert (found.frames_placed, found.chunks[-1].first, found.chunks[-1].last) == (FRAMES + 2, 8, 11)


@pytest.mark.parametrize("moment", ["", "chunk 3", "chunk 4"])
def test_another_source_extends_the_map(photos: Path, tmp_path: Path, front_end: type[Watched], moment: str) -> None:
    """Uninterrupted, or also killed and resumed."""
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    more = write_photos(tmp_path / "more", range(FRAMES, FRAMES + 5))
    front_end.asked.clear()
    other = RunSettings(SourceOptions(size=128), chunk=4, overlap=1, resume=True)  # 9-12, 12-14
    if moment:
        killed(more, out, front_end, moment, other)
    found, _ = run(more, out, other)
    assert front_end.asked == {"": [3, 4], "chunk 3": [3, 4], "chunk 4": [4]}[moment]
    assert found.frames_placed == FRAMES + 5
    assert f"the frames of {more} follow from number {FRAMES}." in found.notices[0]
    assert [(chunk.first, chunk.last) for chunk in found.chunks[2:]] == [(6, 9), (9, 12), (12, 14)]
    new = open_map(out).frames[FRAMES:]
    assert [(frame.index, frame.timestamp, frame.name) for frame in new] == [
        (FRAMES + number, float(FRAMES + number), f"{FRAMES + number:06d}_{number:04d}.jpg") for number in range(5)
    ]
    for number, frame in enumerate(new):
        assert (open_map(out).images / frame.name).read_bytes() == (more / f"{number:04d}.jpg").read_bytes()
    assert not (out / "map" / "incoming").exists()


def test_masks_of_an_earlier_source_apply_when_another_follows(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, Frame] = {}

    class Watchful(ExactFrontEnd):
        def recall(self, chunk: Chunk, *_: object) -> None:
            seen.update({frame.index: frame for frame in chunk.frames})

    monkeypatch.setitem(FRONT_ENDS, "sfm", Watchful)
    masks = tmp_path / "masks"
    mask = write_mask(masks, photos / "0003.jpg")
    run(photos, tmp_path / "out", replace(SETTINGS, source=SourceOptions(masks=masks)))
    shutil.rmtree(masks)
    run(write_photos(tmp_path / "more", range(FRAMES, 2 * FRAMES)), tmp_path / "out")
    assert [index for index, frame in seen.items() if not frame.mask.all()] == [3]
    assert seen[3].mask.tolist() == (mask > 0).tolist()

    (tmp_path / "out" / "map" / "masks" / "000003.png").write_bytes(b"no image")
    with pytest.raises(MapError, match=r"masks/000003\.png is damaged .* Delete it to use its image whole"):
        run(write_photos(tmp_path / "most", range(FRAMES)), tmp_path / "out")


def write_mask(folder: Path, photo: Path, share: float = 0.5) -> np.ndarray:
    """The mask of a photo, black in this share of its rows."""
    folder.mkdir(exist_ok=True)
    height, width = np.asarray(PillowImage.open(photo)).shape[:2]
    mask = np.full((height, width), 255, np.uint8)
    mask[: round(share * height)] = 0
    PillowImage.fromarray(mask).save(folder / f"{photo.stem}.png")
    return mask


@pytest.mark.parametrize("where", ["masks/", "./masks", "../{parent}/masks", "{tmp_path}/masks", "moved"])
def test_masks_are_known_by_what_they_hold(
    photos: Path, tmp_path: Path, front_end: type[Watched], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mask(tmp_path / "masks", photos / "0003.jpg")
    out = tmp_path / "out"
    killed(photos, out, front_end, "chunk 2", replace(SETTINGS, source=SourceOptions(masks=Path("masks"))))
    shutil.copytree("masks", "moved")
    write_mask(tmp_path / "moved", photos / "0004.jpg")  # of a frame that is mapped without
    write_mask(tmp_path / "moved", photos / "0009.jpg")  # of one that is not mapped yet
    given = Path(where.format(parent=tmp_path.name, tmp_path=tmp_path))
    found, _ = run(photos, out, replace(AGAIN, source=SourceOptions(masks=given)))
    assert (found.frames_placed, front_end.asked) == (FRAMES, [2])


@pytest.mark.parametrize("change", ["edited", "removed", "none"])
def test_other_masks_of_mapped_frames_are_refused(
    photos: Path, tmp_path: Path, front_end: type[Watched], change: str
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    for name in ("0003.jpg", "0009.jpg"):
        write_mask(masks, photos / name)
    killed(photos, out, front_end, "chunk 2", replace(SETTINGS, source=SourceOptions(masks=masks)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if change == "edited":
        write_mask(masks, photos / "0003.jpg", 0.4)
    else:
        (masks / "0003.png").unlink()
    why = {"none": "was made with --masks given, not without --masks"}.get(
        change, "A mask has changed since the run in .*: that of 0003.jpg is different. Restore the source"
    )
    source = SourceOptions() if change == "none" else SourceOptions(masks=masks)
    with pytest.raises((SourceError, SettingsError), match=why):
        run(photos, out, replace(AGAIN, source=source))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert front_end.asked == []


def test_a_source_that_shows_nothing_of_the_map_is_a_separate_piece(
    photos: Path, tmp_path: Path, front_end: type[Watched]
) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    front_end.missing = frozenset({8, 9})  # repeated by the first new chunk
    more = write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3))
    found, _ = run(more, out)
    assert any("could not be connected with the frames before" in notice for notice in found.notices)
    assert found.frames_placed == FRAMES
    assert [frame.index for frame in found.skipped] == [10, 11, 12]
    assert {frame.reason for frame in found.skipped} == {"has too little in common with the rest of the map"}
    # The joint adjustment places them in the end.
    front_end.refined = staticmethod(lambda _: true_model({index: np.eye(4) for index in range(FRAMES + 3)}))
    assert run(more, out)[0].frames_placed == FRAMES + 3
    scales = {frame.index: frame.world_from_cam.scale for frame in open_map(out).frames}
    assert scales[12] / scales[0] == pytest.approx(1 / 4, rel=5e-3)  # a chunk's unit is 1 + its number


class Anywhere:
    """Gives every passed-over frame some pose."""

    def __init__(self, _: ReconstructedMap) -> None:
        pass

    def place(self, frame: Frame) -> PlacedFrame:
        return PlacedFrame(frame.index, frame.timestamp, frame.name, RADIAL, Sim3.identity())


def write_twice(folder: Path, numbers: range) -> Path:
    """Pictures of the walk, each of them twice."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        PillowImage.fromarray(render(placed_frame(number // 2))).save(folder / f"{number:04d}.jpg")
    return folder


def mapped(out: Path) -> tuple[list[int], list[int]]:
    """Indices of the frames of a map, and of those between them."""
    whole = open_map(out)
    return [frame.index for frame in whole.frames], [frame.index for frame in whole.between]


@pytest.fixture
def long_from_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.settings.FEW_FRAMES", 15)
    monkeypatch.setattr("recon.mapping.between.FrameLocaliser", Anywhere)


@pytest.mark.usefixtures("long_from_16")
@pytest.mark.parametrize("moment", ["chunk 2", ""])
def test_a_resumed_run_maps_the_keyframes_of_an_uninterrupted_one(
    tmp_path: Path, front_end: type[Watched], moment: str
) -> None:
    photos = write_twice(tmp_path / "photos", range(20))
    whole, _ = run(photos, tmp_path / "whole", SETTINGS)
    assert whole.settings.source.keyframes == "select"
    if moment:
        killed(photos, tmp_path / "out", front_end, moment)
    else:
        run(photos, tmp_path / "out", SETTINGS)
    found, _ = run(photos, tmp_path / "out")
    assert mapped(tmp_path / "out") == mapped(tmp_path / "whole")
    assert (len(mapped(tmp_path / "whole")[0]), found.frames_read, found.passed_over) == (10, 10, 10)


@pytest.mark.usefixtures("long_from_16")
@pytest.mark.parametrize("before", [15, 17])
def test_a_folder_that_grows_past_the_limit_keeps_its_choices(
    tmp_path: Path, front_end: type[Watched], before: int
) -> None:
    photos, out = write_twice(tmp_path / "photos", range(before)), tmp_path / "out"
    first, _ = run(photos, out, SETTINGS)
    kept, _ = mapped(out)
    write_twice(photos, range(20))
    found, _ = run(photos, out)
    frames, between = mapped(out)
    assert found.settings.source.keyframes == first.settings.source.keyframes == ("all" if before < 16 else "select")
    assert frames[: len(kept)] == kept
    assert sorted(frames + between) == list(range(20))
    assert len(frames) == (20 if before < 16 else 10)
    run(photos, out)
    assert mapped(out) == (frames, between)
    with pytest.raises(SettingsError, match="was made with --keyframes"):
        run(photos, out, replace(AGAIN, source=SourceOptions(keyframes="select" if before < 16 else "all")))


@pytest.mark.parametrize("gone", [False, True])
def test_frames_that_an_earlier_source_passed_over_get_new_poses_if_it_still_exists(
    tmp_path: Path, front_end: type[Watched], monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    monkeypatch.setattr("recon.mapping.between.FrameLocaliser", Anywhere)
    twice, out = write_twice(tmp_path / "twice", range(FRAMES)), tmp_path / "out"
    run(twice, out, replace(SETTINGS, source=SourceOptions(keyframes="select")))
    assert [frame.index for frame in open_map(out).between] == [1, 2, 5, 7, 9]
    more = write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3))
    killed(more, out, front_end, "refine", AGAIN)
    if gone:
        shutil.rmtree(twice)
    found, _ = run(more, out)
    whole = open_map(out)
    assert [frame.index for frame in whole.frames] == [0, 3, 4, 6, 8, 10, 11, 12]
    assert [frame.index for frame in whole.between] == ([] if gone else [1, 2, 5, 7, 9])
    assert [frame.index for frame in whole.skipped] == ([1, 2, 5, 7, 9] if gone else [])
    assert found.passed_over == 5


def test_unreadable_frames_of_an_earlier_source_stay_listed(photos: Path, tmp_path: Path) -> None:
    (photos / "0004.jpg").write_bytes(b"")
    run(photos, tmp_path / "out", SETTINGS)
    found, _ = run(write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3)), tmp_path / "out")
    assert [(frame.index, frame.name) for frame in found.skipped] == [(4, "0004.jpg")]
    assert (found.frames_read, found.frames_placed) == (FRAMES + 2, FRAMES + 2)


def shrink(photos: Path, out: Path) -> None:
    (photos / "0009.jpg").unlink()


def shrink_to_two_chunks(photos: Path, out: Path) -> None:
    for index in (8, 9):
        (photos / f"{index:04d}.jpg").unlink()


def exchange(photos: Path, out: Path) -> None:
    PillowImage.new("RGB", (80, 60)).save(photos / "0003.jpg")


def damage(name: str) -> Callable[[Path, Path], None]:
    return lambda photos, out: (out / "map" / name).write_bytes((out / "map" / name).read_bytes()[:300])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (shrink, SourceError, "it has fewer frames, and 0009.jpg is gone"),
        (shrink_to_two_chunks, SourceError, "it has fewer frames, and 0008.jpg is gone"),
        (exchange, SourceError, "photos/0003.jpg is not the file of frame 3 of the map"),
        (damage("map.db"), MapError, "map.db is damaged"),
        (damage("submap_0001.npz"), MapError, "submap_0001.npz is missing or damaged"),
    ],
)
def test_a_changed_source_is_refused_and_nothing_is_lost(
    photos: Path, tmp_path: Path, change: Callable[[Path, Path], None], error: type[ReconError], words: str
) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    change(photos, out)
    kept = {path: path.read_bytes() for path in (out / "map").iterdir()}
    with pytest.raises(error, match=words):
        run(photos, out)
    assert {path: path.read_bytes() for path in (out / "map").iterdir() if path.is_file()} == kept


def test_nothing_to_resume(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No run to resume in .*: .*map\.db is missing"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (replace(AGAIN, chunk=6), "with --chunk 5, not with --chunk 6"),
        (replace(AGAIN, source=SourceOptions(every=2)), "with --every 1, not with --every 2"),
        (replace(AGAIN, camera_model="OPENCV"), "with --camera-model radial, not with --camera-model opencv"),
        (
            replace(AGAIN, camera_model="OPENCV", intrinsics=Camera("OPENCV", 8, 6, (9, 9, 4, 3, 0.1, 0, 0, 0))),
            "without --intrinsics, not with --intrinsics 9,9,4,3,0.1,0,0,0",
        ),
        (replace(AGAIN, source=SourceOptions(cameras="one")), "with --cameras auto, not with --cameras one"),
        (replace(AGAIN, source=SourceOptions(max_frames=9)), "without --max-frames, not with --max-frames 9"),
        (replace(AGAIN, depth="classical"), "with --depth filled, not with --depth classical"),
        (replace(AGAIN, quality="fast"), "with --quality normal, not with --quality fast"),
        (replace(AGAIN, features="sift"), "with --features auto, not with --features sift"),
    ],
)
def test_other_settings_are_refused(photos: Path, tmp_path: Path, settings: RunSettings, words: str) -> None:
    run(photos, tmp_path / "out", SETTINGS)
    with pytest.raises(SettingsError, match=words):
        run(photos, tmp_path / "out", settings)


def test_only_the_last_source_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", SETTINGS)
    run(write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3)), tmp_path / "out")
    with pytest.raises(SettingsError, match=r"already has frames of .*photos, followed by those of .*more"):
        run(photos, tmp_path / "out")


def test_a_source_without_a_finished_chunk_is_forgotten(photos: Path, tmp_path: Path, front_end: type[Watched]) -> None:
    killed(photos, tmp_path / "out", front_end, "chunk 1")
    killed(write_photos(tmp_path / "more", range(3)), tmp_path / "out", front_end, "chunk 1", AGAIN)
    assert run(photos, tmp_path / "out")[0].frames_placed == FRAMES


def test_contradictory_options() -> None:
    with pytest.raises(SettingsError, match="--overwrite would delete"):
        replace(AGAIN, overwrite=True)


def test_an_image_of_an_earlier_source_is_needed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, SETTINGS)
    (out / "colmap" / "images" / "0002.jpg").unlink()
    with pytest.raises(MapError, match=r"0002.jpg cannot be read"):
        run(write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3)), out)


def test_what_lies_where_an_original_belongs_is_kept_and_named(
    photos: Path, tmp_path: Path, front_end: type[Watched]
) -> None:
    out = tmp_path / "out"
    killed(photos, out, front_end, "chunk 1")
    (taken,) = [path for path in out.rglob("0007.jpg*") if path.is_file()] or [out / "colmap" / "images" / "0007.jpg"]
    taken.unlink(missing_ok=True)
    taken.mkdir()
    (taken / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"^Cannot write .*0007\.jpg: .*Move away what is there, and resume again\.$"):
        run(photos, out)
    assert (taken / "mine.txt").read_text() == "kept"
    shutil.rmtree(taken)
    assert run(photos, out)[0].frames_placed == FRAMES


def test_the_journal_records_the_source_of_every_frame(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", SETTINGS)
    run(write_photos(tmp_path / "more", range(FRAMES, FRAMES + 3)), tmp_path / "out")
    journal = read_journal(tmp_path / "out")
    assert [(Path(part.source).name, part.first, part.start) for part in journal.parts] == [
        ("photos", 0, 0.0),
        ("more", FRAMES, FRAMES),
    ]
    chunk = journal.finished[1]
    assert [frame.index for frame in chunk.frames] == [3, 4, 5, 6, 7]
    np.testing.assert_allclose(np.array(chunk.placed[0].cam_from_chunk)[3], [0, 0, 0, 1])


def test_a_run_of_another_front_end_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front_end: type[Watched]
) -> None:
    monkeypatch.setitem(FRONT_ENDS, "other", type("Other", (front_end,), {}))
    run(photos, tmp_path / "out", SETTINGS)
    with pytest.raises(SettingsError, match="by the front end sfm, not other"):
        run(photos, tmp_path / "out", replace(AGAIN, front_end="other"))


def test_a_front_end_without_memory_cannot_be_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = ("unadjusted", "prepare", "reconstruct", "refine", "explain_nothing", "close")
    forgetful = type("Forgetful", (), {"__init__": ExactFrontEnd.__init__, "missing": frozenset(), "interrupt": "",
                                       "refined": ExactFrontEnd.refined,
                                       **{name: ExactFrontEnd.__dict__[name] for name in members}})  # fmt: skip
    monkeypatch.setitem(FRONT_ENDS, "forgetful", forgetful)
    first, _ = run(photos, tmp_path / "out", replace(SETTINGS, front_end="forgetful"))
    assert first.frames_placed == FRAMES
    with pytest.raises(SettingsError, match="the front end forgetful and cannot be resumed"):
        run(photos, tmp_path / "out", replace(AGAIN, front_end="forgetful"))


def test_reasons_of_older_journals_are_identified_by_their_text(
    photos: Path, tmp_path: Path, front_end: type[Watched]
) -> None:
    out = tmp_path / "out"
    front_end.missing = frozenset({2})
    run(photos, out, SETTINGS)
    change_ledger(out, "chunks", lambda rows: rows[0].update(unplaced={"2": "the camera stood still"}))
    found, _ = run(photos, out)
    assert [(frame.index, frame.reason) for frame in found.skipped] == [(2, "the camera stood still")]
    assert Unplaced.from_text("the camera stood still") == Hindrance.STILL.unplaced
    assert Unplaced.from_text("fog") == Unplaced("fog", Hindrance.OTHER)
