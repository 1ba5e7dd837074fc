"""What both queues go by: which choices there are, what they mean, and what a lease is drawn from. No storage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from rewardmesh.wire.errors import BufferFull, ChoiceRefused, LeaseLost, NothingToUndo, UnknownRater
from services.preference.model import (
    Choice,
    Comparison,
    ComparisonKind,
    GoldPair,
    Group,
    QueueSettings,
    digest_of,
)

__all__ = [
    "GOLD",
    "LATEST_KEPT",
    "MADE_KEPT",
    "REPEAT_AFTER",
    "Draw",
    "Preferred",
    "answered_otherwise",
    "draw_lease",
    "full",
    "gold_comparison_id",
    "lease_lost",
    "no_such_choice",
    "nothing_to_undo",
    "preferred_of",
    "require_acceptable",
    "require_gold",
    "unknown_rater",
]

GOLD: Final = "gold"  # stands for the group of gold; the key of a real one has a slash
REPEAT_AFTER: Final = 10  # choices that lie between a comparison and its repeat, at least
MADE_KEPT: Final = 500  # choices of one rater that can be undone, repeated, or recognised when they are sent again
LATEST_KEPT: Final = 1000  # choices of all raters that an operator can look back on

Preferred = Literal["first", "second", "tie", "both_bad", "skip", "like", "dislike"]

_PAIR_CHOICES: Final = ("left", "right", "tie", "both_bad", "skip")
_SINGLE_CHOICES: Final = ("like", "dislike", "skip")
_ID: Final = re.compile(r"[!-~]{1,500}")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance says about one lease. `pick`, in [0, 1), chooses among gold, or among what could be repeated."""

    wanted: ComparisonKind
    pick: float
    swapped: bool


def draw_lease(settings: QueueSettings, rng: Random) -> Draw:
    """Three numbers each time, whatever becomes of them: sides are independent of what is asked."""
    kind, pick, side = rng.random(), rng.random(), rng.random()
    wanted: ComparisonKind = "question"
    if kind < settings.gold_share:
        wanted = "gold"
    elif kind < settings.gold_share + settings.repeat_share:
        wanted = "repeat"
    return Draw(wanted=wanted, pick=pick, swapped=side < 0.5)


def preferred_of(choice: Choice, *, swapped: bool, single: bool) -> Preferred:
    """The choice in the comparison's own order. Raises ChoiceRefused if it has no such choice."""
    if choice not in (_SINGLE_CHOICES if single else _PAIR_CHOICES):
        raise no_such_choice(choice)
    if choice == "left" or choice == "right":  # noqa: PLR1714 - narrows the type
        return "second" if (choice == "left") == swapped else "first"
    return choice


def gold_comparison_id(gold_id: str) -> str:
    """The comparison that a gold pair is asked as; no question is called like that."""
    return f"{GOLD}:{gold_id}"


def require_acceptable(group: Group, pictures: Sequence[bytes], comparisons: Sequence[Comparison]) -> None:
    """Raises ValueError unless pictures are the group's, in order, and comparisons are questions about them."""
    if group.key != f"{group.run_id}/{group.group_id}":
        raise ValueError(f"{group.key} is not the key of {group.run_id}/{group.group_id}")
    if [picture.digest for picture in group.pictures] != list(map(digest_of, pictures)):
        raise ValueError(f"the pictures are not those that group {group.key} names by their digests")
    for one in comparisons:
        indices = {one.first} if one.second is None else {one.first, one.second}
        if one.kind != "question" or one.group_key != group.key or not _ID.fullmatch(one.comparison_id):
            raise ValueError(f"{one.comparison_id!r} is not a question about group {group.key}")
        if not indices <= set(range(len(pictures))) or one.first == one.second:
            raise ValueError(f"{one.comparison_id} does not compare two pictures of group {group.key}, or show one")
    if len({one.comparison_id for one in comparisons}) != len(comparisons):
        raise ValueError(f"two comparisons of group {group.key} have the same id")


def require_gold(pair: GoldPair, pictures: Sequence[bytes]) -> None:
    """Raises ValueError unless the pictures are the pair's two, in order."""
    if [pair.first, pair.second] != list(map(digest_of, pictures)) or pair.first == pair.second:
        raise ValueError(f"the pictures are not the two that gold pair {pair.gold_id} names by their digests")
    if not _ID.fullmatch(pair.gold_id):
        raise ValueError(f"{pair.gold_id!r} is no id: no spaces, no control characters, not empty")


def full(key: str, need: int, *, in_use: int, budget: int) -> BufferFull:
    """Nothing of the group was kept."""
    said = f"no room for {need} bytes of pictures: {in_use} of {budget} wait for people"
    return BufferFull(said, key, "send it again later, or raise budget_bytes")


def lease_lost(lease_id: str) -> LeaseLost:
    """As a rater may read it."""
    return LeaseLost("this comparison is not yours any more", lease_id, "go on with the next one")


def answered_otherwise(lease_id: str) -> ChoiceRefused:
    """As a rater may read it."""
    return ChoiceRefused("another choice was made here already", lease_id, "undo that one first")


def no_such_choice(choice: str) -> ChoiceRefused:
    """A pair has five choices, a single picture three."""
    return ChoiceRefused("not a choice here", choice, f"pairs: {_PAIR_CHOICES}; single pictures: {_SINGLE_CHOICES}")


def nothing_to_undo(rater_id: str) -> NothingToUndo:
    """As a rater may read it."""
    return NothingToUndo("there is no choice to take back, or it is used already", rater_id, "go on with the next one")


def unknown_rater(rater_id: str) -> UnknownRater:
    """Who comes with an invite is made known by `join`."""
    return UnknownRater("nobody of that id has joined", rater_id, "join first, with an invite")
