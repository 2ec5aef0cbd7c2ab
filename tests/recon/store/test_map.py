import errno
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from recon.core.errors import MapError, OutputError
from recon.core.files import write_atomically
from recon.core.similarity import Sim3
from recon.core.types import (
    Camera,
    ChunkGeometry,
    FrameGeometry,
    PlacedFrame,
    SkippedFrame,
    SparsePoints,
    Submap,
)
from recon.store.archive import load_arrays
from recon.store.ledger import Ledger
from recon.store.map import MapStore, frames_in, open_map
from tests.support import make_map

CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, -0.01))
WIDE_CAMERA = Camera("PINHOLE", 800, 480, (400.0, 401.0, 400.0, 240.0))
POINTS = SparsePoints(
    positions=np.array([[0.1, 0.2, 3.0], [1.0, -2.0, 5.5]]),
    colours=np.array([[1, 2, 3], [250, 0, 9]], dtype=np.uint8),
    point_ids=np.array([0, 0, 1]),
    frame_indices=np.array([3, 4, 3]),
    pixels=np.array([[10.5, 20.5], [11.0, 21.0], [300.0, 2.25]]),
)


def geometry(index: int, camera: Camera = CAMERA) -> FrameGeometry:
    rng = np.random.default_rng(index)
    cam_from_chunk = np.eye(4)
    cam_from_chunk[:3, 3] = rng.normal(size=3)
    return FrameGeometry(
        index=index,
        cam_from_chunk=cam_from_chunk,
        camera=camera,
        intrinsics=camera.matrix_at(8, 6),
        depth=rng.uniform(0.5, 60, (6, 8)).astype(np.float32),
        confidence=rng.uniform(0, 1, (6, 8)).astype(np.float32),
        colour=rng.integers(0, 256, (6, 8, 3), dtype=np.uint8),
    )


def placed(index: int, camera: Camera = CAMERA) -> PlacedFrame:
    world_from_cam = Sim3(1.5, np.eye(3), np.array([index, 0.25, -1.0]))
    return PlacedFrame(index, index / 30, f"{index:06d}.jpg", camera, world_from_cam)


def submap(number: int, frames: list[FrameGeometry]) -> Submap:
    return Submap(number, ChunkGeometry(tuple(frames), SparsePoints.empty()), Sim3.identity(), 0.0)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A finished map of frames 3, 4 and 5, the middle one in the overlap of two submaps."""
    store = MapStore(tmp_path / "run")
    store.write_submap(submap(0, [geometry(3), geometry(4)]), {3, 4})
    store.write_submap(submap(1, [geometry(4), geometry(5, WIDE_CAMERA)]), {5})
    frames = (placed(3), placed(4), placed(5, WIDE_CAMERA))
    store.write_places(frames, (SkippedFrame(6, "6.jpg", "the file is empty"),), POINTS, complete=True)
    return tmp_path / "run"


def test_poses_are_restored_exactly(stored: Path) -> None:
    back = open_map(stored)
    expected = [placed(3), placed(4), placed(5, WIDE_CAMERA)]
    assert [(f.index, f.timestamp, f.name, f.camera) for f in back.frames] == [
        (f.index, f.timestamp, f.name, f.camera) for f in expected
    ]
    for found, frame in zip(back.frames, expected, strict=True):
        assert found.world_from_cam.isclose(frame.world_from_cam, atol=1e-12)
    assert back.skipped == (SkippedFrame(6, "6.jpg", "the file is empty"),)
    assert back.complete
    for name in ("positions", "colours", "point_ids", "frame_indices", "pixels"):
        assert_array_equal(getattr(back.points, name), getattr(POINTS, name))


def test_geometry_is_restored_within_its_stored_precision(stored: Path) -> None:
    found = list(open_map(stored).geometry())
    assert [frame.index for frame, _ in found] == [3, 4, 5]
    for (frame, back), expected in zip(found, [geometry(3), geometry(4), geometry(5, WIDE_CAMERA)], strict=True):
        assert back.index == frame.index
        assert back.camera == expected.camera
        np.testing.assert_allclose(back.depth, expected.depth, rtol=2**-11)
        np.testing.assert_allclose(back.confidence, expected.confidence, atol=0.5 / 63 + 0.5 / 255)
        assert back.depth.dtype == back.confidence.dtype == np.float32
        np.testing.assert_allclose(back.colour, expected.colour, atol=20)  # noise is the worst case of JPEG
        assert_array_equal(back.cam_from_chunk, expected.cam_from_chunk)
        assert_array_equal(back.intrinsics, expected.intrinsics)


def test_depth_has_the_lens_that_the_frame_has_now(stored: Path) -> None:
    """The joint adjustment may have changed it since the chunk was stored."""
    focal, column, row, *distortion = CAMERA.params
    now = replace(CAMERA, params=(1.068 * focal, column + CAMERA.width / 8, row - CAMERA.height / 12, *distortion))
    MapStore(stored).write_places((placed(3, now),), (), SparsePoints.empty(), complete=True)
    ((_, back),) = open_map(stored).geometry()
    before = geometry(3).intrinsics
    expected = before * [[1.068, 1, 1], [1, 1.068, 1], [1, 1, 1]] + [[0, 0, 1], [0, 0, -0.5], [0, 0, 0]]
    np.testing.assert_allclose(back.intrinsics, expected, atol=1e-12)


def test_geometry_omits_unplaced_frames(stored: Path) -> None:
    MapStore(stored).write_places((placed(4),), (), SparsePoints.empty(), complete=False)
    back = open_map(stored)
    assert [frame.index for frame, _ in back.geometry()] == [4]
    assert not back.complete
    assert back.points.positions.shape == (0, 3)


def test_a_submap_without_new_frames_is_stored(tmp_path: Path) -> None:
    store = MapStore(tmp_path)
    store.write_submap(submap(0, [geometry(0)]), set())
    store.write_places((placed(0),), (), SparsePoints.empty(), complete=True)
    assert list(open_map(tmp_path).geometry()) == []


def test_no_map(tmp_path: Path) -> None:
    with pytest.raises(MapError, match="contains no map"):
        open_map(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_points_are_named(stored: Path, share: float) -> None:
    cut(stored / "map" / "points.npz", share)
    with pytest.raises(MapError, match=r"points\.npz is missing or damaged"):
        open_map(stored)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_submap_is_named(stored: Path, share: float) -> None:
    cut(stored / "map" / "submap_0001.npz", share)
    frames = open_map(stored).geometry()
    assert [next(frames)[0].index, next(frames)[0].index] == [3, 4]
    with pytest.raises(MapError, match=r"submap_0001\.npz is missing or damaged"):
        next(frames)


def test_flipped_bytes_in_a_submap_are_found(stored: Path) -> None:
    path = stored / "map" / "submap_0000.npz"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    path.write_bytes(content)
    with pytest.raises(MapError, match=r"submap_0000\.npz is missing or damaged"):
        list(open_map(stored).geometry())


def test_missing_array_is_named(stored: Path) -> None:
    np.savez(stored / "map" / "points.npz", positions=np.zeros((0, 3)))
    with pytest.raises(MapError, match=r"points\.npz lacks the array 'colours'"):
        open_map(stored)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\5\6" + bytes(18), b"\x80\x04N.", b"\x93NUMPY\1\0"])
def test_a_damaged_file_is_not_loaded_unsafely(stored: Path, content: bytes) -> None:
    """NumPy's own message recommends allow_pickle, which would run code in the file."""
    for name, read in (
        ("points", lambda: open_map(stored)),
        ("submap_0000", lambda: list(open_map(stored).geometry())),
    ):
        path = stored / "map" / f"{name}.npz"
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(MapError, match=rf"{name}\.npz (is missing or damaged|lacks the array)") as refused:
            read()
        assert "pickle" not in str(refused.value)
        path.write_bytes(whole)


def test_objects_are_not_loaded(stored: Path) -> None:
    np.savez(stored / "map" / "points.npz", positions=np.array([{}, []], dtype=object))
    with pytest.raises(
        MapError, match=r"points\.npz is missing or damaged: it is not a complete archive of plain arrays"
    ):
        open_map(stored)


def test_a_submap_of_another_version_is_refused(stored: Path) -> None:
    path = stored / "map" / "submap_0001.npz"
    np.savez(path, **(load_arrays(path) | {"version": np.int64(4)}))
    with pytest.raises(MapError, match=r"submap_0001\.npz has version 4, this program reads 3"):
        list(open_map(stored).geometry())


def test_files_of_version_1_are_read(stored: Path) -> None:
    """As written by NumPy alone, without Zstandard."""
    for path in (stored / "map").glob("*.npz"):
        arrays = load_arrays(path)
        if "version" in arrays:
            arrays["version"] = np.int64(1)
        np.savez_compressed(path, **arrays)
    test_poses_are_restored_exactly(stored)
    test_geometry_is_restored_within_its_stored_precision(stored)


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot create .*file.*Not a directory"):
        MapStore(tmp_path / "file" / "run")


def test_a_file_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write .*a\.txt: Not a directory"):
        write_atomically(tmp_path / "file" / "a.txt", lambda file: file.write(b"new"))


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.txt: No space left on device"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_keeps_the_old_file(stored: Path) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"half of the n")
        raise KeyboardInterrupt

    for stem in ("points", "submap_0000", "submap_0002"):
        with pytest.raises(KeyboardInterrupt):
            Ledger(stored).write_file(stem, write)
    test_poses_are_restored_exactly(stored)
    assert [frame.index for frame, _ in open_map(stored).geometry()] == [3, 4, 5]


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_the_depth_of_some_frames_is_read_without_that_of_others(tmp_path: Path) -> None:
    made = make_map(tmp_path)
    whole = {frame.index: geometry.depth for frame, geometry in made.geometry()}
    last = made.frames[-1].index
    first, second = made.submap_files
    [(frame, geometry)] = made.geometry({last})
    assert frame.index == last
    assert np.array_equal(geometry.depth, whole[last])
    assert last not in frames_in(first)
    assert sorted(frames_in(first) + frames_in(second)) == sorted(whole)
