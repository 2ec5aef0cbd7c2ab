"""Thinning features for the joint adjustment."""

import numpy as np
import pycolmap
from hypothesis import given
from hypothesis import strategies as st

from recon.sfm.colmap_file import image_id, image_name
from recon.sfm.database import ENOUGH_INLIERS, MatchDatabase
from recon.sfm.selection import choose, select_features


@given(st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_choose_keeps_the_limit_and_only_what_two_pairs_confirm(seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    positions, counts = random.uniform(0, 640, (100, 2)), random.integers(0, 6, 100)
    rows = choose(positions, counts, limit)
    assert len(rows) == min(limit, np.count_nonzero(counts >= 2))
    assert (counts[rows] >= 2).all()
    assert (np.diff(rows) > 0).all()


def test_choose_takes_the_most_matched_of_every_cell_first() -> None:
    corners = np.array([[0, 0], [0, 800], [800, 0], [800, 800]], dtype=float)
    positions = np.concatenate([corners + 1, corners + 2, np.full((20, 2), 3.0)])
    counts = np.concatenate([[5, 5, 5, 5], [4, 4, 4, 4], np.full(20, 9)])
    # Many well matched features are in the first corner's cell, but get only that cell's share.
    assert choose(positions, counts, 4).tolist() == [1, 2, 3, 8]


def test_selection_keeps_matches_and_positions(database: MatchDatabase) -> None:
    frames = database.frames[:6]
    rows = {index: selected[:200] for index, selected in select_features(database, frames, 10**6).items()}
    cache = database.reduced_cache(rows)
    for index in frames:
        found = np.array([point.xy for point in cache.image(image_id(index)).points2D])
        np.testing.assert_allclose(found, database.positions(index)[rows[index]])
    first, second = frames[0], frames[1]
    before = {tuple(row) for row in database.verified_matches((first, second)).tolist()}
    after = cache.correspondence_graph.extract_matches_between_images(image_id(first), image_id(second))
    kept = {(int(rows[first][a]), int(rows[second][b])) for a, b in after}
    expected = {(a, b) for a, b in before if a in rows[first] and b in rows[second]}
    assert kept == expected
    assert 20 < len(kept) < len(before)


def test_selecting_everything_equals_the_full_cache(database: MatchDatabase) -> None:
    frames = database.frames[:5]
    everything = {index: np.arange(len(database.positions(index))) for index in frames}
    reduced, full = database.reduced_cache(everything), _full_cache(database, frames)
    pairs = database.verified_pairs(frames)
    assert pairs
    for pair in pairs:
        ids = image_id(pair[0]), image_id(pair[1])
        np.testing.assert_array_equal(*(_matches(cache, *ids) for cache in (reduced, full)))


def _full_cache(database: MatchDatabase, frames: list[int]) -> pycolmap.DatabaseCache:
    """What COLMAP itself reads from the file."""
    options = pycolmap.DatabaseCacheOptions(min_num_matches=ENOUGH_INLIERS, load_all_images=True)
    options.image_names = set(map(image_name, frames))
    return pycolmap.DatabaseCache.create(database._database, options)


def _matches(cache: pycolmap.DatabaseCache, first: int, second: int) -> np.ndarray:
    return np.asarray(cache.correspondence_graph.extract_matches_between_images(first, second))


def test_the_number_of_observations_does_not_grow_with_the_frames(database: MatchDatabase) -> None:
    for frames in (database.frames[:7], database.frames):
        kept = sum(len(rows) for rows in select_features(database, frames, 1400).values())
        assert 0.9 * 1400 <= kept <= 1400
