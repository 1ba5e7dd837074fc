"""What is known of raters: shares of what there was, and nothing where there was nothing."""

from __future__ import annotations

import pytest

from services.preference.model import Rater
from services.preference.reliability import reliability
from tests.unit.services.preference.answering import answer


def test_a_rater_of_whom_nothing_is_known() -> None:
    (one,) = reliability([Rater(rater_id="ada", invite_id="i1", joined=0.0)], [])
    unknown = (one.gold_rate, one.self_consistency, one.per_minute, one.median_look_s, one.left_share)
    assert unknown == (None,) * 5


def test_gold_repeats_pace_look_and_sides() -> None:
    counts = {"num_choices": 5, "num_gold": 4, "num_gold_right": 3, "num_repeats": 2, "num_repeats_same": 1}
    ada = Rater(rater_id="ada", invite_id="i1", joined=0.0, name="Ada", **counts)
    bo = Rater(rater_id="bo", invite_id="i1", joined=0.0, paused=True, why_paused="gold")
    times = [0.0, 4.0, 10.0, 1000.0, 1006.0]  # the long gap is a break
    said = ["left", "left", "right", "left", "tie"]
    answers = [
        answer(0, 1, "tie", rater="ada", at=at, choice=choice, look_s=look_s)
        for look_s, at, choice in zip((1.0, 2.0, 9.0, 3.0, 4.0), times, said, strict=True)
    ]
    found = reliability([ada, bo], reversed(answers))
    assert [one.rater_id for one in found] == ["ada", "bo"]
    assert (found[0].gold_rate, found[0].self_consistency) == (0.75, 0.5)
    assert found[0].per_minute == pytest.approx(60 * 3 / 16)
    assert found[0].median_look_s == 3.0
    assert found[0].left_share == 0.75
    assert (found[1].paused, found[1].why_paused, found[1].per_minute) == (True, "gold", None)
