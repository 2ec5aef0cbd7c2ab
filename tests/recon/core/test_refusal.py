"""The sentence for frames that give no map."""

from __future__ import annotations

import pytest

from recon.core.refusal import APART, FEATURELESS, STILL, TURNED, TURNTABLE, UNCONNECTED, refusal


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (FEATURELESS, "more light"),
        (APART, "more overlap, so that"),
        (TURNED, "walking sideways"),
        (STILL, "from different places"),
        (TURNTABLE, "--masks"),
        (UNCONNECTED, "sideways motion, more overlap and more light"),
    ],
)
def test_every_reason_has_advice_of_its_own(reason: str, advice: str) -> None:
    sentence = refusal("clip.mp4", 9, [reason] * 6 + [UNCONNECTED] * 3)
    assert sentence.startswith("None of the 9 frames of clip.mp4 could be placed: ")
    assert advice in sentence


def test_two_images_do_not_suffice() -> None:
    assert "three or more" in refusal("photos", 2, [UNCONNECTED, UNCONNECTED])


def test_without_a_reason_the_usual_advice_is_given() -> None:
    assert "sideways motion" in refusal("photos", 3, [])
