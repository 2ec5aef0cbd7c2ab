from pathlib import Path

import numpy as np
import pytest
from evo.tools.file_interface import read_euroc_csv_trajectory, read_kitti_poses_file, read_tum_trajectory_file
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.errors import OutputError, SourceError
from recon.core.similarity import Sim3
from recon.core.types import PlacedFrame, SparsePoints
from recon.exports.trajectory import read_tum, write_euroc, write_kitti, write_tum
from recon.store.map import ReconstructedMap
from tests.support import RADIAL, make_map

lengths = st.floats(-1e4, 1e4, allow_subnormal=False)
quaternions = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda values: np.linalg.norm(values) > 0.1)
poses = st.builds(
    lambda scale, quaternion, x, y, z: Sim3(scale, Rotation.from_quat(quaternion).as_matrix(), np.array([x, y, z])),
    st.floats(1e-3, 1e3), quaternions, lengths, lengths, lengths,
)  # fmt: skip
times = st.lists(st.integers(0, 2 * 10**9), min_size=1, max_size=8, unique=True).map(sorted)


@st.composite
def maps(draw: st.DrawFn) -> ReconstructedMap:
    frames = tuple(
        PlacedFrame(row, time / 1024, f"{row}.jpg", RADIAL, draw(poses)) for row, time in enumerate(draw(times))
    )
    return ReconstructedMap(Path("nowhere"), frames, (), SparsePoints.empty(), complete=True)


def rigid(reconstruction: ReconstructedMap) -> np.ndarray:
    matrices = np.tile(np.eye(4), (len(reconstruction.frames), 1, 1))
    for matrix, frame in zip(matrices, reconstruction.frames, strict=True):
        matrix[:3, :3] = frame.world_from_cam.rotation
        matrix[:3, 3] = frame.world_from_cam.translation
    return matrices


@settings(max_examples=30, deadline=None)
@given(maps())
def test_evo_reads_the_rigid_poses_of_both_formats(tmp_path_factory, reconstruction):
    folder = tmp_path_factory.mktemp("trajectory")
    write_tum(reconstruction, folder / "poses.txt")
    write_kitti(reconstruction, folder / "kitti.txt")
    expected = rigid(reconstruction)
    tum = read_tum_trajectory_file(folder / "poses.txt")
    np.testing.assert_allclose(tum.timestamps, [frame.timestamp for frame in reconstruction.frames], atol=1e-9)
    np.testing.assert_allclose(tum.poses_se3, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(read_kitti_poses_file(folder / "kitti.txt").poses_se3, expected, rtol=1e-9, atol=1e-9)


def test_both_formats_have_a_row_for_frames_between_the_keyframes(tmp_path: Path) -> None:
    frames = [PlacedFrame(index, float(index), f"{index}.jpg", RADIAL, shifted(index)) for index in range(4)]
    keyframes, others = (frames[0], frames[3]), (frames[1], frames[2])
    none = SparsePoints.empty()
    write_kitti(ReconstructedMap(tmp_path, keyframes, (), none, complete=True, between=others), tmp_path / "kitti.txt")
    assert read_kitti_poses_file(tmp_path / "kitti.txt").positions_xyz[:, 0].tolist() == [0, 1, 2, 3]


def shifted(distance: float) -> Sim3:
    return Sim3(1.0, np.eye(3), np.array([distance, 0.0, 0.0]))


@settings(max_examples=30, deadline=None)
@given(maps())
def test_tum_round_trip_with_positive_w(tmp_path_factory, reconstruction):
    path = tmp_path_factory.mktemp("trajectory") / "poses.txt"
    write_tum(reconstruction, path)
    trajectory = read_tum(path)
    np.testing.assert_allclose(trajectory.timestamps, [frame.timestamp for frame in reconstruction.frames], atol=1e-9)
    np.testing.assert_allclose(trajectory.world_from_cam, rigid(reconstruction), rtol=1e-9, atol=1e-9)
    assert (np.loadtxt(path, ndmin=2)[:, 7] >= 0).all()


def test_every_placed_frame_has_a_row(tmp_path):
    reconstruction = make_map(tmp_path)
    write_tum(reconstruction, tmp_path / "poses.txt")
    rows = np.loadtxt(tmp_path / "poses.txt")
    assert rows.shape == (6, 8)
    np.testing.assert_allclose(rows[:, 0], [0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_comments_blank_lines_and_wide_spaces_are_accepted(tmp_path):
    path = tmp_path / "poses.txt"
    path.write_text("# a comment\n\n0 1 2 3 0 0 0 2\n1.5\t4  5 6 0 0 0 1\n")
    trajectory = read_tum(path)
    np.testing.assert_allclose(trajectory.timestamps, [0, 1.5])
    np.testing.assert_allclose(trajectory.world_from_cam[0], [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("second_line", "reason"),
    [
        ("1 2 3 4", "4 columns, expected 8"),
        ("1 2 3 4 0 0 0 1 9", "9 columns, expected 8"),
        ("1 2 x 4 0 0 0 1", "'x'"),
        ("1 2 nan 4 0 0 0 1", "finite"),
        ("1 2 3 4 0 0 0 0", "quaternion is zero"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, second_line, reason):
    path = tmp_path / "reference.txt"
    path.write_text(f"0 0 0 0 0 0 0 1\n{second_line}\n")
    with pytest.raises(SourceError, match=f"reference.txt, line 2: .*{reason}"):
        read_tum(path)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe\x00\x01\n"])
def test_a_file_without_poses_is_refused(tmp_path, content):
    path = tmp_path / "reference.txt"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"reference\.txt"):
        read_tum(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.txt"):
        read_tum(tmp_path / "nothing.txt")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    reconstruction = make_map(tmp_path)
    with pytest.raises(OutputError, match="nowhere"):
        write_tum(reconstruction, tmp_path / "nowhere" / "poses.txt")


@settings(max_examples=10, deadline=None)
@given(maps())
def test_evo_reads_the_rows_of_euroc(tmp_path_factory, reconstruction):
    path = tmp_path_factory.mktemp("trajectory") / "euroc.csv"
    write_euroc(reconstruction, path)
    found = read_euroc_csv_trajectory(path)
    np.testing.assert_allclose(found.timestamps, [frame.timestamp for frame in reconstruction.frames], atol=2e-9)
    np.testing.assert_allclose(found.poses_se3, rigid(reconstruction), rtol=1e-9, atol=1e-9)


def test_times_of_euroc_are_whole_nanoseconds(tmp_path: Path) -> None:
    frames = (PlacedFrame(0, 1.403636579763, "0.jpg", RADIAL, shifted(2)),)
    write_euroc(ReconstructedMap(tmp_path, frames, (), SparsePoints.empty(), complete=True), tmp_path / "euroc.csv")
    header, row = (tmp_path / "euroc.csv").read_text().splitlines()
    assert header.startswith("#timestamp [ns], p_RS_R_x [m]")
    assert row == "1403636580,2,0,0,1,0,0,0"
