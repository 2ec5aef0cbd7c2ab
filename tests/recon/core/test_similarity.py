import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3

coordinates = st.floats(-10, 10)
vectors = st.tuples(coordinates, coordinates, coordinates).map(np.array)
rotations = st.tuples(*[st.floats(-np.pi, np.pi)] * 3).map(lambda v: Rotation.from_rotvec(v).as_matrix())
similarities = st.builds(Sim3, st.floats(0.1, 10), rotations, vectors)

QUARTER_TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def test_apply_scales_rotates_then_translates() -> None:
    b_from_a = Sim3(2, QUARTER_TURN, np.array([10.0, 0, 0]))
    assert_allclose(b_from_a.apply(np.array([[1.0, 0, 3], [0, 1, 0]])), [[10, 2, 6], [8, 0, 0]])


def test_apply_keeps_the_leading_shape() -> None:
    assert Sim3.identity().apply(np.zeros((4, 5, 3))).shape == (4, 5, 3)


@given(similarities, similarities, vectors)
def test_product_applies_the_right_one_first(c_from_b: Sim3, b_from_a: Sim3, point: Array) -> None:
    assert_allclose((c_from_b @ b_from_a).apply(point), c_from_b.apply(b_from_a.apply(point)), atol=1e-9)


@given(similarities, similarities, similarities)
def test_product_is_associative(a: Sim3, b: Sim3, c: Sim3) -> None:
    assert ((a @ b) @ c).isclose(a @ (b @ c))


@given(similarities)
def test_identity_is_neutral(b_from_a: Sim3) -> None:
    assert (Sim3.identity() @ b_from_a).isclose(b_from_a)
    assert (b_from_a @ Sim3.identity()).isclose(b_from_a)


@given(similarities)
def test_inverse_undoes(b_from_a: Sim3) -> None:
    assert (b_from_a.inverse() @ b_from_a).isclose(Sim3.identity())
    assert (b_from_a @ b_from_a.inverse()).isclose(Sim3.identity())


@given(similarities, similarities)
def test_matrix_is_a_homomorphism_and_returns(b_from_a: Sim3, a_from_z: Sim3) -> None:
    assert_allclose((b_from_a @ a_from_z).matrix(), b_from_a.matrix() @ a_from_z.matrix(), atol=1e-9)
    assert Sim3.from_matrix(b_from_a.matrix()).isclose(b_from_a)


@pytest.mark.parametrize(
    ("scale", "rotation", "translation", "reason"),
    [
        (0.0, np.eye(3), np.zeros(3), "positive scale"),
        (-1.0, np.eye(3), np.zeros(3), "positive scale"),
        (np.nan, np.eye(3), np.zeros(3), "positive scale"),
        (np.inf, np.eye(3), np.zeros(3), "positive scale"),
        (1.0, np.eye(3), np.array([0, np.nan, 0]), "finite"),
        (1.0, np.diag([1.0, 1, -1]), np.zeros(3), "determinant 1"),
        (1.0, 2 * np.eye(3), np.zeros(3), "orthonormal"),
        (1.0, np.full((3, 3), np.nan), np.zeros(3), "orthonormal"),
        (1.0, np.eye(2), np.zeros(3), "shapes"),
        (1.0, np.eye(3), np.zeros((3, 1)), "shapes"),
    ],
)
def test_invalid_similarities_are_refused(scale: float, rotation: Array, translation: Array, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sim3(scale, rotation, translation)


@pytest.mark.parametrize("linear", [np.diag([1.0, 2, 3]), np.diag([1.0, 1, -1])])
def test_from_matrix_refuses_shear_and_mirror(linear: Array) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    with pytest.raises(ValueError, match="Sim3 needs"):
        Sim3.from_matrix(matrix)


def test_arrays_are_copied_and_frozen() -> None:
    translation = np.zeros(3)
    transform = Sim3(1, np.eye(3), translation)
    translation[0] = 5
    assert transform.translation[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        transform.rotation[0, 0] = 2
