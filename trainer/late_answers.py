"""Answers that came after their group had been learnt from: which the surrogate still learns from, and what is counted.

came ──► waiting ──► used: in an update of its own, and in the replay bank from then on
             ├─────► too_stale: older than the surrogate may learn from; stays in the store, and with whoever answered
             └─────► untaught: says nothing to learn (no reward in it, all equal, or its group has left the store)

Staleness and the seconds from picture to use are those at the moment an answer leaves the queue.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from trainer.replay_bank import ReplayBank
from trainer.trajectory_store import TrajectoryStore

__all__ = [
    "AGES_S",
    "LATE_FIGURES",
    "LATE_SUMS",
    "LateAnswer",
    "LateAnswers",
    "LateCounts",
    "LatePlan",
    "late_figures",
    "staleness_class",
]

AGES_S: Final = (0, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
"""Where the classes of seconds from picture to use begin."""
LATE_SUMS: Final = ("arrived", "used", "too_stale", "untaught", "given_up")
"""Figures of an iteration that add up over a run; `given_up` counts groups, the others answers."""
LATE_FIGURES: Final = (*LATE_SUMS, "waiting")


class LateAnswer(NamedTuple):
    """An answer that came after its group had been learnt from."""

    group_id: str
    oracle: str
    num_scored: int
    """Rewards that were not there before."""


class LateCounts:
    """What became of late answers in one iteration, on one worker: counts that add up."""

    def __init__(self) -> None:
        self.counts: dict[str, Any] = {
            **dict.fromkeys(LATE_FIGURES, 0),
            "staleness": {},
            "staleness_sum": 0,
            "age_s": {},
            "age_s_sum": 0.0,
        }

    def left(self, how: str, *, staleness: int | None, age_s: float | None) -> None:
        """An answer has left the queue. `age_s`: since its picture was made. None: not known."""
        self.counts[how] += 1
        if staleness is not None:
            self._add("staleness", staleness_class(staleness), staleness)
        if how == "used" and age_s is not None:
            self._add("age_s", str(AGES_S[bisect_right(AGES_S, max(0.0, age_s)) - 1]), age_s)

    def _add(self, name: str, at: str, value: float) -> None:
        classes = self.counts[name]
        classes[at] = classes.get(at, 0) + 1
        self.counts[f"{name}_sum"] += value


def late_figures(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an iteration's line that is about late answers, of counts added over workers.

    Classes are named by where they begin: `staleness` in policy versions, of all that left the queue; `age_s` in
    seconds from picture to use, of those used.
    """

    def mean(name: str) -> float | None:
        count = sum(counts[name].values())
        return counts[f"{name}_sum"] / count if count else None

    return {
        **{name: counts[name] for name in LATE_FIGURES},
        **{name: dict(sorted(counts[name].items(), key=lambda one: int(one[0]))) for name in ("staleness", "age_s")},
        "mean_staleness": mean("staleness"),
        "mean_age_s": mean("age_s"),
    }


def staleness_class(staleness: int) -> str:
    """Where the class of a staleness begins: 0, 1, 2, 4, 8 and so on."""
    return str(1 << (staleness.bit_length() - 1)) if staleness > 0 else "0"


@dataclass
class LatePlan:
    """What would be learnt from now, what would wait on, and what would be counted."""

    counts: LateCounts
    groups: dict[str, None] = field(default_factory=dict)
    waiting: list[LateAnswer] = field(default_factory=list)


class LateAnswers:
    """One worker's queue of late answers, oldest first."""

    def __init__(
        self,
        store: TrajectoryStore,
        bank: ReplayBank,
        *,
        bound: int | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`bound`: oldest trajectories that the surrogate may learn from, in policy versions."""
        self._store = store
        self._bank = bank
        self._bound = bound
        self._clock = clock
        self._waiting: list[LateAnswer] = []
        self._num_new = 0

    def came(self, answer: LateAnswer) -> None:
        self._waiting.append(answer)
        self._num_new += 1

    def take_new(self) -> list[LateAnswer]:
        """Those that came since the last call; they stay in the queue."""
        new = self._waiting[len(self._waiting) - self._num_new :]
        self._num_new = 0
        return new

    def plan(
        self, policy_version: int, *, max_groups: int, informative: Callable[[Sequence[str]], Sequence[str]]
    ) -> LatePlan:
        """Up to `max_groups` groups to learn from, those that were answered first before others; all are in the bank.

        What can teach nothing leaves the queue with them. Nothing has left it before the plan is accepted.
        """
        plan = LatePlan(LateCounts())
        for answer in self._waiting:
            group_id = answer.group_id
            staleness = age_s = None
            if group_id in self._store:
                header = self._store.header(group_id)
                staleness = policy_version - header.policy_version
                age_s = self._clock() - header.unix_s if header.unix_s else None
            if staleness is None or answer.num_scored == 0:
                how = "untaught"
            elif self._bound is not None and staleness > self._bound:
                how = "too_stale"
            elif group_id not in plan.groups and len(plan.groups) >= max_groups:
                plan.waiting.append(answer)
                continue
            else:
                self._let_in(answer)
                how = "used" if informative([group_id]) else "untaught"
                if how == "used":
                    plan.groups[group_id] = None
            plan.counts.left(how, staleness=staleness, age_s=age_s)
        return plan

    def accept(self, plan: LatePlan) -> None:
        """What the plan takes leaves the queue."""
        self._waiting = plan.waiting

    def __len__(self) -> int:
        """Answers that wait."""
        return len(self._waiting)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: strict JSON."""
        return {"waiting": [list(answer) for answer in self._waiting], "num_new": self._num_new}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._waiting = [LateAnswer(*answer) for answer in state["waiting"]]
        self._num_new = int(state["num_new"])

    def _let_in(self, answer: LateAnswer) -> None:
        group_id = answer.group_id
        taken_in = self._bank.oracles(group_id) if group_id in self._bank else self._store.rewards(group_id)
        self._bank.add(group_id, {*taken_in, answer.oracle})
