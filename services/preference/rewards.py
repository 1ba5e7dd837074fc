"""Choices become a reward a picture, within its group; and how far people agree.

Pairs. Bradley–Terry: p(a is preferred over b) = sigmoid(strength_a - strength_b), fitted by choix at the most probable
strengths under a normal prior of variance PRIOR_VARIANCE around 0. A tie is half a win for each, and so is *both bad*:
it says as much about the two beside one another, that neither is better. *Skip* says nothing. The reward is
sigmoid(strength): how probably this picture is preferred over one of mean strength in its group. The prior keeps it
inside (0, 1) for a picture that always won, and strengths of a group that falls into parts that nobody compared each
around their own mean.

Singles. The share of likes with one like and one dislike added: (likes + 1) / (likes + dislikes + 2).

What does not count as a reward stays out: gold, repeats, and answers of raters who were paused. A picture of which
nobody said anything has no reward (None), which is never 0.

Owns neither storage nor posting. Decision 0021.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import choix
import krippendorff
import numpy as np

from services.preference.model import Answer

__all__ = ["PRIOR_VARIANCE", "GroupRewards", "PictureReward", "agreement", "judge", "strengths"]

PRIOR_VARIANCE: Final = 2.0
_PAIRED: Final = ("first", "second", "tie", "both_bad")
_SINGLE: Final = ("like", "dislike")
_MIRRORED: Final = {"first": "second", "second": "first"}


@dataclass(frozen=True, kw_only=True)
class PictureReward:
    """A reward in [0, 1], and on how many answers about this picture it rests, of how many raters."""

    reward: float
    num_answers: int
    num_raters: int


@dataclass(frozen=True, kw_only=True)
class GroupRewards:
    """A group's rewards in the order of its pictures; None for a picture of which nobody said anything.

    `alpha` is the group's agreement, None where no comparison has two answers. The counts are those of all that said
    something.
    """

    pictures: tuple[PictureReward | None, ...]
    num_answers: int
    num_raters: int
    alpha: float | None


def judge(num_pictures: int, answers: Iterable[Answer]) -> GroupRewards:
    """The rewards of a group of `num_pictures`, from all of its answers, in any order."""
    said = [one for one in answers if _says_something(one)]
    pairs = [one for one in said if one.second is not None]
    rewards = _liked(num_pictures, said) if not pairs else 1 / (1 + np.exp(-strengths(num_pictures, pairs)))
    about: dict[int, list[Answer]] = defaultdict(list)
    for one in pairs or said:
        about[one.first].append(one)
        if one.second is not None:
            about[one.second].append(one)
    return GroupRewards(
        pictures=tuple(
            PictureReward(
                reward=float(rewards[picture]), num_answers=len(about[picture]), num_raters=_raters(about[picture])
            )
            if picture in about
            else None
            for picture in range(num_pictures)
        ),
        num_answers=len(said),
        num_raters=_raters(said),
        alpha=agreement(said),
    )


def strengths(num_pictures: int, pairs: Sequence[Answer]) -> np.ndarray:
    """Bradley–Terry strengths [num_pictures] of answers about pairs; they sum to 0. Free of the answers' order."""
    wins: list[tuple[int, int]] = []
    for one in pairs:
        assert one.second is not None
        won, lost = (one.second, one.first) if one.preferred == "second" else (one.first, one.second)
        wins += [(won, lost), (lost, won) if one.preferred in {"tie", "both_bad"} else (won, lost)]
    # Each answer is two half wins, so the prior counts twice too; choix's `alpha` is 1 / (2 · variance).
    return np.asarray(choix.opt_pairwise(num_pictures, sorted(wins), alpha=1.0 / PRIOR_VARIANCE, tol=1e-12))


def agreement(answers: Iterable[Answer]) -> float | None:
    """Krippendorff's alpha (nominal) over comparisons that two or more answered: 1 is agreement, 0 is chance.

    Which picture of a pair is called first is arbitrary, so each comparison counts in both orders: else many pairs
    whose first picture won would look like raters who always say the same. None where no comparison has two answers,
    or where nothing but one word was ever said ("tie", "like"): then chance would agree as well.
    """
    by_comparison: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in answers:
        if _says_something(one):
            by_comparison[one.group_key, one.comparison_id][one.preferred] += 1
    units = [counts for counts in by_comparison.values() if counts.total() > 1]
    units += [Counter({_MIRRORED.get(said, said): n for said, n in counts.items()}) for counts in units]
    values = sorted({said for counts in units for said in counts})
    if len(values) < 2:
        return None
    table = np.array([[counts[said] for said in values] for counts in units])
    return float(krippendorff.alpha(value_counts=table, value_domain=values, level_of_measurement="nominal"))


def _liked(num_pictures: int, singles: Sequence[Answer]) -> np.ndarray:
    likes, dislikes = np.ones(num_pictures), np.ones(num_pictures)
    for one in singles:
        (likes if one.preferred == "like" else dislikes)[one.first] += 1
    return likes / (likes + dislikes)


def _says_something(one: Answer) -> bool:
    known = _SINGLE if one.second is None else _PAIRED
    return one.counts and one.kind == "question" and one.preferred in known


def _raters(answers: Iterable[Answer]) -> int:
    return len({one.rater_id for one in answers})
