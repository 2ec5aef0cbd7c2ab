"""Pose encodings and what they stand for."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.network.pose_encoding import (
    encoding_from_matrices,
    matrices_from_encoding,
    quaternion_from_rotation,
    rotation_from_quaternion,
    unproject,
    world_from_cam,
)

components = st.floats(-2, 2, allow_nan=False).map(lambda x: round(x, 3))
quaternions = st.tuples(*[components] * 4).filter(lambda q: sum(x * x for x in q) > 1e-2)


@given(quaternions, st.floats(0.1, 5))
def test_rotations_are_scipys_whatever_the_length(quaternion: tuple[float, ...], length: float) -> None:
    expected = Rotation.from_quat(quaternion).as_matrix()
    scaled = torch.tensor(quaternion, dtype=torch.float64) * length
    np.testing.assert_allclose(rotation_from_quaternion(scaled), expected, atol=1e-12)


@given(quaternions)
def test_quaternions_survive_up_to_sign_and_length(quaternion: tuple[float, ...]) -> None:
    rotation = Rotation.from_quat(quaternion)
    found = quaternion_from_rotation(torch.from_numpy(rotation.as_matrix()))
    assert found[3] >= 0
    np.testing.assert_allclose(np.abs(found.numpy() @ rotation.as_quat()), 1, atol=1e-12)
    np.testing.assert_allclose(rotation_from_quaternion(found), rotation.as_matrix(), atol=1e-12)


@given(quaternions, st.tuples(components, components, components), st.tuples(*[st.floats(0.2, 2.5)] * 2))
def test_encodings_survive(
    quaternion: tuple[float, ...], translation: tuple[float, ...], fields: tuple[float, float]
) -> None:
    unit = np.array(quaternion) / np.linalg.norm(quaternion)
    unit = -unit if unit[3] < 0 else unit
    encoding = torch.tensor([*translation, *unit, *fields], dtype=torch.float64)
    pose, intrinsics = matrices_from_encoding(encoding, (60, 80))
    np.testing.assert_allclose(intrinsics[1, 1], 30 / np.tan(fields[0] / 2))
    np.testing.assert_allclose(intrinsics[:2, 2], [40, 30])
    back = encoding_from_matrices(pose, intrinsics, (60, 80))
    np.testing.assert_allclose(back[[0, 1, 2, 7, 8]], encoding[[0, 1, 2, 7, 8]], atol=1e-12)
    np.testing.assert_allclose(float((back[3:7] @ encoding[3:7]).abs()), 1, atol=1e-12)


def test_a_field_of_view_of_zero_has_a_finite_focal_length() -> None:
    encoding = torch.tensor([0, 0, 0, 0, 0, 0, 1.0, 0, 0])
    _, intrinsics = matrices_from_encoding(encoding, (60, 80))
    assert torch.isfinite(intrinsics).all()


def test_points_project_back_to_their_pixels() -> None:
    encoding = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.2, -0.1, 0.9, 1.0, 1.2], dtype=torch.float64)
    pose, intrinsics = matrices_from_encoding(encoding, (6, 8))
    depth = torch.linspace(0, 3, 48, dtype=torch.float64).view(6, 8)
    points = unproject(depth, pose, intrinsics)
    in_camera = points.points_world @ pose[:, :3].T + pose[:, 3]
    np.testing.assert_allclose(in_camera, points.points_cam, atol=1e-12)
    projected = points.points_cam @ intrinsics.T
    np.testing.assert_allclose(projected[1:, :, 0] / projected[1:, :, 2], np.tile(np.arange(8.0), (5, 1)))
    assert not points.valid[0, 0]
    assert points.valid[1:].all()


def test_inverse_pose() -> None:
    pose, _ = matrices_from_encoding(torch.tensor([1.0, 2, 3, 0.1, 0.2, 0.3, 1, 1, 1], dtype=torch.float64), (6, 8))
    full = torch.cat([pose, torch.tensor([[0, 0, 0, 1.0]], dtype=torch.float64)])
    np.testing.assert_allclose(world_from_cam(pose) @ full, np.eye(4), atol=1e-12)
