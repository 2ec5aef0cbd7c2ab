"""Which pairs of frames are matched."""

from hypothesis import given
from hypothesis import strategies as st

from recon.sfm.pairs import most_alike, pairs_around, window_pairs


def test_pairs_within_a_window() -> None:
    assert window_pairs([3, 5, 8, 9], (1, 3)) == [(3, 5), (5, 8), (8, 9), (3, 9)]


def test_pairs_around_are_within_reach_and_new() -> None:
    assert pairs_around([(0, 10)], 2, 12) == [(0, 8), (2, 8), (2, 10)]
    assert pairs_around([(0, 10)], 0, 12) == []


def test_every_frame_is_matched_with_those_most_like_it() -> None:
    counts = {(0, 1): 9, (0, 2): 8, (0, 3): 7, (1, 2): 6, (1, 3): 5, (2, 3): 4}
    assert most_alike(counts, 1, 1) == [(0, 1), (0, 2), (0, 3)]  # the best of 1, 2 and 3 is 0
    assert most_alike(counts, 2, 1) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    assert most_alike(counts, 3, 1) == list(counts)


def test_neighbours_leave_room_for_another_visit() -> None:
    others = {(frame, 100 * frame + step): 99 for frame in (20, 21, 22, 50) for step in (0, 10)}  # leave them no need
    counts = {(0, 20): 90, (0, 21): 80, (0, 22): 70, (0, 50): 10} | others
    assert most_alike(counts, 2, 1) == [(0, 20), (0, 21), *others]
    assert most_alike(counts, 2, 4) == [(0, 20), (0, 50), *others]


@given(
    st.dictionaries(st.tuples(st.integers(0, 9), st.integers(10, 19)), st.integers(6, 300), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_pairs_are_bounded_and_every_frame_keeps_its_best(counts: dict[tuple[int, int], int], most: int) -> None:
    kept = most_alike(counts, most)
    frames = {index for pair in counts for index in pair}
    assert len(kept) == len(set(kept)) <= most * len(frames)
    for frame in frames:
        others = [counts[pair] for pair in counts if frame in pair]
        assert max(others) == max(counts[pair] for pair in kept if frame in pair)
