"""Which pairs of frames become candidates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.candidates import Background, CandidateSettings, Hit, find_hits, strongest, supported
from retrieval.describer import Descriptors, normalised
from retrieval.index import PlaceIndex

SETTINGS = CandidateSettings(gap=20, window=5, support=3)
hits = st.lists(
    st.builds(Hit, st.integers(100, 160), st.integers(0, 60), st.floats(0, 1, width=32)), max_size=40, unique=True
)


def walk_with_return(seed: int = 0) -> Descriptors:
    """80 consecutive places with similar neighbours, then places 10 to 29 again."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(85, 32))
    smooth = np.array([steps[place : place + 6].sum(axis=0) for place in range(80)])
    again = smooth[10:30] + 0.5 * rng.normal(size=(20, 32))
    return normalised(np.concatenate([smooth, again]))


def test_similarity_is_a_lower_bound_and_not_a_distance() -> None:
    # Confusing the two would match the least similar frames.
    background = Background.learn(np.random.default_rng(0).normal(0.1, 0.05, 5000))
    assert background.threshold(4) > background.threshold(2) > background.median
    assert abs(background.threshold(2) - 0.2) < 0.01
    descriptors = walk_with_return()
    index = PlaceIndex("test", 32)
    index.add(range(100), descriptors)
    threshold = 0.7
    found = find_hits(index, range(80, 100), descriptors[80:], threshold, SETTINGS)
    assert found
    assert all(descriptors[hit.frame] @ descriptors[hit.earlier] >= threshold - 1e-6 for hit in found)
    assert all(hit.similarity >= threshold for hit in found)


def test_few_revisits_do_not_raise_the_threshold() -> None:
    rng = np.random.default_rng(1)
    others, same = rng.normal(0.1, 0.05, 4000), rng.normal(0.8, 0.05, 200)
    with_revisits = Background.learn(np.concatenate([others, same])).threshold(2)
    assert abs(with_revisits - Background.learn(others).threshold(2)) < 0.02


def test_a_return_is_found_and_the_way_there_is_not() -> None:
    descriptors = walk_with_return()
    index = PlaceIndex("test", 32)
    index.add(range(100), descriptors)
    similarities = (descriptors @ descriptors.T)[np.triu_indices(100, SETTINGS.gap)]
    threshold = Background.learn(similarities).threshold(3)
    found = strongest(supported(find_hits(index, range(100), descriptors, threshold, SETTINGS), SETTINGS), SETTINGS)
    assert found
    assert all(abs(hit.frame - 70 - hit.earlier) <= 3 for hit in found)


def test_frames_nearer_than_the_gap_and_later_ones_are_no_candidates() -> None:
    same = np.repeat(normalised(np.ones((1, 8))), 60, axis=0)
    index = PlaceIndex("test", 8)
    index.add(range(60), same)
    found = find_hits(index, [10, 30], same[:2], 0.5, SETTINGS)
    assert {hit.frame for hit in found} == {30}
    assert all(hit.earlier <= 10 for hit in found)


def test_an_isolated_hit_is_dropped_and_a_row_of_hits_kept_in_either_direction() -> None:
    forwards = [Hit(100 + k, 10 + k, 0.8) for k in range(3)]
    backwards = [Hit(140 + k, 60 - k, 0.8) for k in range(3)]
    lonely = Hit(120, 40, 0.99)
    twice_in_one_frame = [Hit(160, 20, 0.9), Hit(160, 22, 0.9)]
    kept = supported([*forwards, *backwards, lonely, *twice_in_one_frame], SETTINGS)
    assert kept == [*forwards, *backwards]


@given(hits)
def test_chosen_hits_are_apart_and_no_better_hit_is_omitted(found: list[Hit]) -> None:
    chosen = strongest(found, SETTINGS)
    assert len(chosen) <= SETTINGS.per_submap

    def clash(a: Hit, b: Hit) -> bool:
        return abs(a.frame - b.frame) <= SETTINGS.window and abs(a.earlier - b.earlier) <= SETTINGS.window

    assert not any(clash(a, b) for i, a in enumerate(chosen) for b in chosen[:i])
    if len(chosen) < SETTINGS.per_submap:
        for hit in found:
            assert any(clash(hit, other) and other.similarity >= hit.similarity for other in chosen)
