"""What the queue in memory knows, and what follows from it: places, leases, and what a rater can be asked next."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from services.preference.model import Answer, Comparison, ComparisonKind, GoldPair, Group, Presentation, Rater
from services.preference.rules import GOLD, REPEAT_AFTER, gold_comparison_id

__all__ = ["Asked", "Kept", "Lease", "Made", "State"]

_T = TypeVar("_T")


@dataclass
class Kept:
    """A group; its `place` among those of its state is the order in which they came to it."""

    group: Group
    pictures: list[bytes]
    comparisons: dict[str, Comparison]
    num_raters: int
    state: Literal["open", "closed", "settled"] = "open"
    place: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.pictures))

    def num_counting(self, comparison_id: str) -> int:
        return sum(one.counts and one.comparison_id == comparison_id for one in self.answers)

    def unanswered(self) -> list[str]:
        return [one for one in self.comparisons if self.num_counting(one) < self.num_raters]

    def asked(self, comparison: Comparison, *, kind: ComparisonKind, counts: bool) -> Asked:
        pictures, second = self.group.pictures, comparison.second
        return Asked(
            kind=kind,
            comparison=comparison,
            prompt=self.group.prompt,
            first=pictures[comparison.first].digest,
            second=None if second is None else pictures[second].digest,
            counts=counts,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A comparison, ready to be shown. `counts`: it takes one of the places of its question."""

    kind: ComparisonKind
    comparison: Comparison
    prompt: str
    first: str
    second: str | None
    counts: bool

    @property
    def key(self) -> str:
        return self.comparison.group_key


@dataclass(frozen=True)
class Lease:
    """What is asked, and as one rater sees it."""

    asked: Asked
    shown: Presentation


@dataclass
class Made:
    """A choice that was made, whatever became of it."""

    lease: Lease
    choice_id: str
    undone: bool = False


@dataclass
class State:
    """All that is known. Nothing is stored that could be counted."""

    groups: dict[str, Kept] = field(default_factory=dict)
    num_moved: int = 0
    gold: dict[str, tuple[GoldPair, list[bytes]]] = field(default_factory=dict)
    gold_answers: list[Answer] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    raters: dict[str, Rater] = field(default_factory=dict)
    made: dict[str, list[Made]] = field(default_factory=lambda: defaultdict(list))
    latest: list[Answer] = field(default_factory=list)
    paused: bool = False

    def in_state(self, state: str) -> list[Kept]:
        return sorted((kept for kept in self.groups.values() if kept.state == state), key=lambda kept: kept.place)

    def move(self, kept: Kept, state: Literal["closed", "settled"]) -> None:
        self.num_moved += 1
        kept.state, kept.place = state, self.num_moved

    def bytes_in_use(self) -> int:
        return sum(kept.num_bytes for kept in self.groups.values() if kept.state != "settled")

    def answers_of(self, key: str) -> list[Answer]:
        """The list itself, so that it can be changed; of a group that is gone, an empty one."""
        if key == GOLD:
            return self.gold_answers
        return self.groups[key].answers if key in self.groups else []

    def sweep(self, now: float) -> None:
        self.leases = {lease_id: lease for lease_id, lease in self.leases.items() if lease.shown.expires > now}

    def held(self, rater_id: str) -> list[Lease]:
        return [lease for lease in self.leases.values() if lease.shown.rater_id == rater_id]

    def drop_leases(self, key: str, *kinds: ComparisonKind) -> None:
        for lease_id, lease in list(self.leases.items()):
            if lease.asked.key == key and lease.asked.kind in kinds:
                del self.leases[lease_id]

    def met(self, rater_id: str, kind: ComparisonKind) -> set[tuple[str, str]]:
        """What a rater holds or has answered, of a kind: keys of groups and ids of comparisons."""
        held = {(one.asked.key, one.shown.comparison_id) for one in self.held(rater_id) if one.asked.kind == kind}
        all_answers = (self.gold_answers, *(kept.answers for kept in self.groups.values()))
        return held | {
            (one.group_key, one.comparison_id)
            for answers in all_answers
            for one in answers
            if (one.rater_id, one.kind) == (rater_id, kind)
        }

    def answered(self, rater_id: str, key: str, comparison_id: str) -> Answer | None:
        """What the rater answered to a question, if it is still there."""
        wanted = ("question", rater_id, comparison_id)
        found = (one for one in self.answers_of(key) if (one.kind, one.rater_id, one.comparison_id) == wanted)
        return next(found, None)

    def question_for(self, rater_id: str, now: float) -> Asked | None:
        """The first of the group that is due first, with a place left, that this rater has not met."""
        met = self.met(rater_id, "question")
        held = Counter((one.asked.key, one.shown.comparison_id) for one in self.leases.values() if one.asked.counts)
        candidates = sorted(
            (kept.group.until, f"{kept.group.key} {one}", kept.group.key, one)
            for kept in self.in_state("open")
            if kept.group.until > now
            for one in kept.comparisons
        )
        for *_, key, one in candidates:
            kept = self.groups[key]
            if (key, one) not in met and kept.num_counting(one) + held[key, one] < kept.num_raters:
                return kept.asked(kept.comparisons[one], kind="question", counts=True)
        return None

    def gold_for(self, rater_id: str, pick: float) -> Asked | None:
        """The first that this rater has not met, from the one picked on."""
        for pair in _from([pair for pair, _ in self.gold.values()], pick):
            comparison_id = gold_comparison_id(pair.gold_id)
            if (GOLD, comparison_id) not in self.met(rater_id, "gold"):
                comparison = Comparison(comparison_id=comparison_id, group_key=GOLD, kind="gold", first=0, second=1)
                sides = {"first": pair.first, "second": pair.second}
                return Asked(kind="gold", comparison=comparison, prompt=pair.prompt, counts=False, **sides)
        return None

    def repeat_for(self, rater_id: str, pick: float) -> Asked | None:
        """The first that can be repeated, from the one picked on: long enough ago, still standing, not repeated yet."""
        for one in _from(self.made[rater_id][:-REPEAT_AFTER], pick):
            asked = one.lease.asked
            key, comparison_id = asked.key, asked.comparison.comparison_id
            stands = asked.kind == "question" and not one.undone and self.answered(rater_id, key, comparison_id)
            if stands and (key, comparison_id) not in self.met(rater_id, "repeat"):
                return self.groups[key].asked(asked.comparison, kind="repeat", counts=False)
        return None


def _from(all_of_them: Sequence[_T], pick: float) -> list[_T]:
    """All, beginning with the one that was picked, and around."""
    start = int(pick * len(all_of_them))
    return [*all_of_them[start:], *all_of_them[:start]]
