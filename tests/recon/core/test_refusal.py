"""The message for frames that give no map."""

from __future__ import annotations

import pytest

from recon.core.refusal import Hindrance, refusal


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (Hindrance.FEATURELESS, "more light"),
        (Hindrance.APART, "more overlap, so that"),
        (Hindrance.TURNED, "walking sideways"),
        (Hindrance.STILL, "from different places"),
        (Hindrance.TURNTABLE, "--masks"),
        (Hindrance.UNCONNECTED, "sideways motion, more overlap and more light"),
    ],
)
def test_every_reason_has_its_own_advice(reason: Hindrance, advice: str) -> None:
    sentence = refusal("clip.mp4", 9, [reason] * 6 + [Hindrance.UNCONNECTED] * 3)
    assert sentence.startswith("None of the 9 frames of clip.mp4 could be placed: ")
    assert advice in sentence


def test_two_images_are_not_enough() -> None:
    assert "three or more" in refusal("photos", 2, [Hindrance.UNCONNECTED, Hindrance.UNCONNECTED])


def test_without_a_reason_the_usual_advice_is_given() -> None:
    assert "sideways motion" in refusal("photos", 3, [])
