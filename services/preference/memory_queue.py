"""The queue in one process, without a server: the plain model that `redis_queue` is tested against.

The same behaviour, held by one contract suite; nothing survives the process. Nothing is counted on the way: what
follows from groups, answers and leases is looked up in all of them, which is slow for many and easy to believe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random, SystemRandom
from typing import Literal
from uuid import uuid4

from services.preference.memory_state import Asked, Kept, Lease, Made, State
from services.preference.model import (
    Answer,
    Choice,
    Comparison,
    GoldPair,
    Group,
    Nothing,
    Presentation,
    QueueDepth,
    QueueSettings,
    Rater,
    Saved,
)
from services.preference.rules import (
    LATEST_KEPT,
    MADE_KEPT,
    answered_otherwise,
    draw_lease,
    full,
    gold_comparison_id,
    lease_lost,
    nothing_to_undo,
    preferred_of,
    require_acceptable,
    require_gold,
    unknown_rater,
)

__all__ = ["MemoryQueue"]


class MemoryQueue:
    """`services.preference.queue.PreferenceQueue` in memory. `clock` gives unix seconds. One event loop only."""

    def __init__(
        self, settings: QueueSettings | None = None, clock: Callable[[], float] = time.time, rng: Random | None = None
    ) -> None:
        self._settings = settings or QueueSettings()
        self._clock, self._rng = clock, rng or SystemRandom()
        self._state = State()
        self._gold_before: dict[str, tuple[int, int]] = {}  # of raters who were let work again: answers, right ones

    @property
    def settings(self) -> QueueSettings:
        return self._settings

    async def accept(self, group: Group, pictures: Sequence[bytes], comparisons: Sequence[Comparison]) -> bool:
        require_acceptable(group, pictures, comparisons)
        if group.key in self._state.groups:
            return False
        by_id = {one.comparison_id: one for one in comparisons}
        kept = Kept(group, list(pictures), by_id, self._settings.raters_per_comparison)
        in_use, budget = self._state.bytes_in_use(), self._settings.budget_bytes
        if in_use + kept.num_bytes > budget:
            raise full(group.key, kept.num_bytes, in_use=in_use, budget=budget)
        self._state.groups[group.key] = kept
        return True

    async def lease(self, rater_id: str) -> Presentation | Nothing:
        draw = draw_lease(self._settings, self._rng)
        state = self._swept()
        if state.paused:
            return Nothing(reason="paused")
        if self._known(rater_id).paused:
            return Nothing(reason="rater_paused")
        if len(state.held(rater_id)) >= self._settings.max_leases:
            return Nothing(reason="too_many_leases")
        question = state.question_for(rater_id, self._clock())
        if question is None:
            return Nothing(reason="empty")
        instead = None
        if draw.wanted == "gold":
            instead = state.gold_for(rater_id, draw.pick)
        elif draw.wanted == "repeat":
            instead = state.repeat_for(rater_id, draw.pick)
        return self._give(instead or question, rater_id, swapped=draw.swapped)

    async def held(self, rater_id: str) -> list[Presentation]:
        return [lease.shown for lease in self._swept().held(rater_id)]

    async def renew(self, lease_id: str, *, rater_id: str) -> Presentation:
        lease = self._lease_of(lease_id, rater_id)
        if lease is None:
            raise lease_lost(lease_id)
        shown = lease.shown.model_copy(update={"expires": self._clock() + self._settings.lease_s})
        self._state.leases[lease_id] = Lease(lease.asked, shown)
        return shown

    async def release(self, lease_id: str, *, rater_id: str) -> None:
        if self._lease_of(lease_id, rater_id) is not None:
            del self._state.leases[lease_id]

    async def choose(self, lease_id: str, choice: Choice, *, rater_id: str, choice_id: str, look_s: float) -> Saved:
        made = self._state.made[rater_id]
        for one in made:
            if one.choice_id == choice_id:
                comparison_id = one.lease.shown.comparison_id
                return Saved(choice_id=choice_id, comparison_id=comparison_id, first_time=False)
        if any(one.lease.shown.lease_id == lease_id for one in made):
            raise answered_otherwise(lease_id)
        lease = self._lease_of(lease_id, rater_id)
        if lease is None:
            raise lease_lost(lease_id)
        comparison, swapped = lease.asked.comparison, lease.shown.swapped
        answer = Answer(
            choice_id=choice_id,
            comparison_id=comparison.comparison_id,
            group_key=comparison.group_key,
            kind=lease.asked.kind,
            rater_id=rater_id,
            choice=choice,
            swapped=swapped,
            first=comparison.first,
            second=comparison.second,
            preferred=preferred_of(choice, swapped=swapped, single=comparison.second is None),
            at=self._clock(),
            look_s=round(look_s, 3),
            counts=lease.asked.counts and not self._known(rater_id).paused,
        )
        del self._state.leases[lease_id]
        self._keep(answer, Made(lease, choice_id))
        return Saved(choice_id=choice_id, comparison_id=comparison.comparison_id, first_time=True)

    async def undo(self, *, rater_id: str) -> Presentation:
        made = next((one for one in reversed(self._swept().made[rater_id]) if not one.undone), None)
        if made is None or (answer := self._undoable(made)) is None:
            raise nothing_to_undo(rater_id)
        self._count(answer, -1)
        self._state.answers_of(answer.group_key).remove(answer)
        made.undone = True
        return self._give(replace(made.lease.asked, counts=answer.counts), rater_id, swapped=answer.swapped)

    async def picture(self, digest: str) -> bytes | None:
        known = [
            ([named.digest for named in kept.group.pictures], kept.pictures) for kept in self._state.groups.values()
        ]
        known += [([pair.first, pair.second], pictures) for pair, pictures in self._state.gold.values()]
        return next((pictures[digests.index(digest)] for digests, pictures in known if digest in digests), None)

    async def group(self, key: str) -> Group | None:
        kept = self._state.groups.get(key)
        return None if kept is None else kept.group

    async def answers(self, key: str) -> list[Answer]:
        return list(self._state.answers_of(key))

    async def close_due(self, *, max_groups: int = 16) -> list[Group]:
        state, due = self._swept(), []
        for kept in state.in_state("open"):
            if not kept.unanswered():
                due.append((0.0, kept.group.key))
            elif kept.group.until <= self._clock():
                due.append((kept.group.until, kept.group.key))
        for _, key in sorted(due)[: max(0, max_groups - len(state.in_state("closed")))]:
            state.move(state.groups[key], "closed")
            state.drop_leases(key, "question")
        return [kept.group for kept in state.in_state("closed")]

    async def settled(self, key: str) -> None:
        state = self._state
        if key not in state.groups or state.groups[key].state != "closed":
            return
        state.move(state.groups[key], "settled")
        for oldest in state.in_state("settled"):
            if sum(kept.num_bytes for kept in state.in_state("settled")) > self._settings.kept_bytes:
                state.drop_leases(oldest.group.key, "repeat")
                del state.groups[oldest.group.key]

    async def settled_groups(self, *, after: str = "", max_groups: int = 100) -> list[Group]:
        groups = [kept.group for kept in self._state.in_state("settled")]
        keys = [group.key for group in groups]
        start = keys.index(after) + 1 if after in keys else 0  # what was dropped was older than all that are kept
        return groups[start : start + max_groups]

    async def add_gold(self, pair: GoldPair, pictures: Sequence[bytes]) -> None:
        require_gold(pair, pictures)
        self._state.gold.setdefault(pair.gold_id, (pair, list(pictures)))

    async def gold(self) -> list[GoldPair]:
        return [pair for pair, _ in self._state.gold.values()]

    async def join(self, rater: Rater) -> Rater:
        return self._state.raters.setdefault(rater.rater_id, rater)

    async def rater(self, rater_id: str) -> Rater | None:
        return self._state.raters.get(rater_id)

    async def raters(self) -> list[Rater]:
        return sorted(self._state.raters.values(), key=lambda rater: (rater.joined, rater.rater_id))

    async def pause_rater(self, rater_id: str, *, paused: bool, why: str = "") -> Rater:
        rater = self._known(rater_id)
        if rater.paused and not paused:
            self._gold_before[rater_id] = rater.num_gold, rater.num_gold_right
        changed = rater.model_copy(update={"paused": paused, "why_paused": why if paused else ""})
        self._state.raters[rater_id] = changed
        return changed

    async def pause(self, *, paused: bool) -> None:
        self._state.paused = paused

    async def depth(self) -> QueueDepth:
        state = self._swept()
        waiting = state.in_state("open")
        return QueueDepth(
            groups=len(waiting),
            comparisons=sum(len(kept.unanswered()) for kept in waiting),
            leased=len(state.leases),
            bytes_in_use=state.bytes_in_use(),
            budget_bytes=self._settings.budget_bytes,
            oldest_s=max([0.0, *(self._clock() - kept.group.accepted for kept in waiting)]),
            paused=state.paused,
        )

    async def latest(self, max_count: int) -> list[Answer]:
        return [  # of what was not undone or dropped, and as it counts now
            found
            for one in reversed(self._state.latest)
            for found in self._state.answers_of(one.group_key)
            if (found.rater_id, found.choice_id) == (one.rater_id, one.choice_id)
        ][:max_count]

    def _swept(self) -> State:
        self._state.sweep(self._clock())
        return self._state

    def _lease_of(self, lease_id: str, rater_id: str) -> Lease | None:
        lease = self._swept().leases.get(lease_id)
        return lease if lease is not None and lease.shown.rater_id == rater_id else None

    def _known(self, rater_id: str) -> Rater:
        if rater_id not in self._state.raters:
            raise unknown_rater(rater_id)
        return self._state.raters[rater_id]

    def _give(self, asked: Asked, rater_id: str, *, swapped: bool) -> Presentation:
        flipped = swapped and asked.second is not None
        shown = Presentation(
            lease_id=uuid4().hex,
            comparison_id=asked.comparison.comparison_id,
            kind=asked.kind,
            rater_id=rater_id,
            prompt=asked.prompt,
            left=asked.second if flipped and asked.second else asked.first,
            right=asked.first if flipped else asked.second,
            swapped=flipped,
            expires=self._clock() + self._settings.lease_s,
        )
        self._state.leases[shown.lease_id] = Lease(asked, shown)
        return shown

    def _keep(self, answer: Answer, made: Made) -> None:
        state = self._state
        state.answers_of(answer.group_key).append(answer)
        state.made[answer.rater_id].append(made)
        del state.made[answer.rater_id][:-MADE_KEPT]
        state.latest.append(answer)
        del state.latest[:-LATEST_KEPT]
        self._count(answer, 1)
        if answer.kind == "gold":
            self._judge(answer.rater_id)

    def _undoable(self, made: Made) -> Answer | None:
        """The answer, unless it is gone or a reward has used it; gold and repeats are used by none."""
        asked, mine = made.lease.asked, (made.lease.shown.rater_id, made.choice_id)
        kept = self._state.groups.get(asked.key)
        if asked.kind == "question" and (kept is None or kept.state != "open"):
            return None
        return next((one for one in self._state.answers_of(asked.key) if (one.rater_id, one.choice_id) == mine), None)

    def _count(self, answer: Answer, step: Literal[1, -1]) -> None:
        """Counts an answer that was kept, or one that is taken back."""
        rater, change = self._known(answer.rater_id), dict[str, int](num_choices=step)
        if answer.kind == "gold" and answer.preferred != "skip":
            known = {gold_comparison_id(pair.gold_id): pair.preferred for pair, _ in self._state.gold.values()}
            right = answer.preferred == known[answer.comparison_id]
            change |= {"num_gold": step, "num_gold_right": step * right}
        if answer.kind == "repeat":
            before = self._state.answered(answer.rater_id, answer.group_key, answer.comparison_id)
            if before is not None and "skip" not in (answer.preferred, before.preferred):
                same = answer.preferred == before.preferred
                change |= {"num_repeats": step, "num_repeats_same": step * same}
        counted = {name: getattr(rater, name) + by for name, by in change.items()}
        self._state.raters[rater.rater_id] = rater.model_copy(update=counted)

    def _judge(self, rater_id: str) -> None:
        """Pauses a rater whose gold answers are too often wrong; their answers in open groups count no more."""
        rater, (num_before, right_before) = self._known(rater_id), self._gold_before.get(rater_id, (0, 0))
        num, right = rater.num_gold - num_before, rater.num_gold_right - right_before
        bounds = self._settings
        if rater.paused or num < bounds.min_gold_answers or right >= bounds.min_gold_rate * num:
            return
        why = f"gold: {right} of {num} right"
        self._state.raters[rater_id] = rater.model_copy(update={"paused": True, "why_paused": why})
        for kept in self._state.in_state("open"):
            kept.answers = [
                one.model_copy(update={"counts": False}) if one.rater_id == rater_id else one for one in kept.answers
            ]
