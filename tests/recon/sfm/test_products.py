"""Products of descriptors: integers and single precision give the same, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.sfm.products import fastest_product, in_floats, in_integers

Size = st.integers(1, 300)


def random_bytes(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 128), dtype=np.uint8)


@given(Size, Size, st.integers(0, 2**32 - 1))
def test_products_are_exact_either_way(first_rows: int, second_rows: int, seed: int) -> None:
    first, second = random_bytes(first_rows, seed), random_bytes(second_rows, seed + 1)
    exact = first.astype(np.int64) @ second.astype(np.int64).T
    for product in (in_floats, in_integers):
        found = product(first, second, np.empty((first_rows, second_rows), np.int32))
        assert np.array_equal(found, exact)


@pytest.mark.parametrize("product", [in_floats, in_integers])
def test_the_largest_products_are_exact_too(product: object) -> None:
    assert callable(product)
    largest, odd = np.full((1, 128), 255, np.uint8), np.full((1, 128), 255, np.uint8)
    odd[0, 0] = 254
    found = product(np.concatenate([largest, odd]), largest, np.empty((2, 1), np.int32))
    assert found.tolist() == [[128 * 255 * 255], [128 * 255 * 255 - 255]]


@pytest.mark.parametrize(("has_vnni", "expected"), [(True, in_integers), (False, in_floats)])
def test_integers_are_used_where_the_processor_has_instructions_for_them(
    monkeypatch: pytest.MonkeyPatch, has_vnni: bool, expected: object
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: has_vnni)
    assert fastest_product() is expected
