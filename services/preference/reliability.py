"""How far a rater can be relied on: gold, repeats, pace and sides. What the operator's page and `raters` show.

Pausing a rater below the set gold rate is the queue's; here is only what is known of them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from rewardmesh.wire.messages import Count, Message, Number
from services.preference.model import Answer, Rater

__all__ = ["Reliability", "pace", "reliability"]

#: Longer between two choices is a break, and no part of the pace.
BREAK_S: Final = 120.0


class Reliability(Message):
    """What is known of one rater; None where nothing is known yet."""

    rater_id: str
    name: str
    invite_id: str
    paused: bool
    why_paused: str
    num_choices: Count
    gold_rate: Number | None
    """The share of gold comparisons answered as known; of `num_gold`."""
    num_gold: Count
    self_consistency: Number | None
    """The share of repeated comparisons answered as before; of `num_repeats`."""
    num_repeats: Count
    per_minute: Number | None
    """Choices a minute over the latest ones, breaks left out."""
    median_look_s: Number | None
    left_share: Number | None
    """Of the choices for a side, how many were for the left one: sides are drawn evenly, so it is near a half."""


def reliability(raters: Iterable[Rater], latest: Iterable[Answer]) -> list[Reliability]:
    """Each rater, in order, with the pace and the sides of their choices among the latest of all."""
    by_rater: dict[str, list[Answer]] = defaultdict(list)
    for one in latest:
        by_rater[one.rater_id].append(one)
    return [_of(rater, by_rater[rater.rater_id]) for rater in raters]


def pace(answers: Sequence[Answer]) -> float | None:
    """Choices a minute of one rater, breaks left out; None below two choices without a break between."""
    times = sorted(one.at for one in answers)
    gaps = [later - earlier for earlier, later in pairwise(times) if later - earlier <= BREAK_S]
    return 60 * len(gaps) / sum(gaps) if gaps and sum(gaps) > 0 else None


def _of(rater: Rater, answers: Sequence[Answer]) -> Reliability:
    sides = [one.choice == "left" for one in answers if one.choice in {"left", "right"}]
    return Reliability(
        rater_id=rater.rater_id,
        name=rater.name,
        invite_id=rater.invite_id,
        paused=rater.paused,
        why_paused=rater.why_paused,
        num_choices=rater.num_choices,
        gold_rate=_share(rater.num_gold_right, rater.num_gold),
        num_gold=rater.num_gold,
        self_consistency=_share(rater.num_repeats_same, rater.num_repeats),
        num_repeats=rater.num_repeats,
        per_minute=pace(answers),
        median_look_s=statistics.median(one.look_s for one in answers) if answers else None,
        left_share=_share(sum(sides), len(sides)),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
