"""Feedback: pictures go out, rewards come back. The loop knows this protocol and nothing of what is behind it.

Two implementations: `BufferFeedback` (a stream of `rewardmesh.wire`, served by a thread of its own) and
`InProcessFeedback` (oracles called here and now). One life cycle:

    publish(groups) ──► each (group, oracle) is outstanding ──► collect() hands over its GroupFeedback, once
                          │                                       └─ and again if a failed sample is scored after all
                          └─ refused (the oracle's budget is full) or lost: handed over as well, with no results
    forget(groups): the trainer is through with them; nothing is kept for them any more

Times: while at least one *awaited* pair is outstanding, reward time runs. The part of it that the training thread
spent blocked is *exposed*; the rest was overlapped by learning and is *hidden*.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.messages import Checks, Deferred, Sample, Scored, ScoreFailure

__all__ = [
    "Feedback",
    "FeedbackDepth",
    "GroupFeedback",
    "PictureGroup",
    "PictureSample",
    "RewardClock",
    "RewardTimes",
]

Result = Scored | ScoreFailure | Deferred


@dataclass(frozen=True, kw_only=True)
class PictureSample:
    """One picture of a group."""

    sample_id: str
    boundary_index: int
    picture: NDArray[np.uint8]
    """[H, W, 3]."""
    hint: float | None = None
    """The surrogate's present opinion; only differences within the group mean anything."""


@dataclass(frozen=True, kw_only=True)
class PictureGroup:
    """A group on its way to the oracles."""

    run_id: str
    group_id: str
    policy_version: int
    prompt: str
    checks: Mapping[str, Any]
    """GenEval's metadata, plus `text`."""
    samples: tuple[PictureSample, ...]
    awaited: tuple[str, ...]
    """Oracles that are waited for."""
    late: tuple[str, ...] = ()
    """Oracles whose answers are taken whenever they come."""
    traceparent: str | None = None
    """The span of its rollout, if traces are exported."""
    reuse_answers_s: Mapping[str, float] = field(default_factory=dict)
    """How old an answer may be that an oracle gave before to the same question; one that is not named is asked."""

    def wire_samples(self) -> list[Sample]:
        """The samples as messages. Raises pydantic.ValidationError (a ValueError) for checks of another shape."""
        checks = Checks.from_metadata(self.checks)
        return [
            Sample(
                run_id=self.run_id,
                group_id=self.group_id,
                sample_id=sample.sample_id,
                policy_version=self.policy_version,
                boundary_index=sample.boundary_index,
                prompt=self.prompt,
                checks=checks,
            )
            for sample in self.samples
        ]


@dataclass(frozen=True, kw_only=True)
class GroupFeedback:
    """What became of one (group, oracle). `results` by sample id; empty if refused or lost."""

    group_id: str
    oracle: str
    status: Literal["complete", "refused", "lost"] = "complete"
    results: Mapping[str, Result] = field(default_factory=dict)
    oracle_version: str = ""


@dataclass(frozen=True, kw_only=True)
class FeedbackDepth:
    """How much waits for one oracle."""

    samples: int = 0
    bytes_in_use: int = 0
    budget_bytes: int = 0
    oldest_pending_s: float = 0.0
    dead_letters: int = 0


@dataclass(frozen=True, kw_only=True)
class RewardTimes:
    """Seconds since the start. `exposed_s + hidden_s` is all the time in which an awaited reward was outstanding."""

    exposed_s: float = 0.0
    hidden_s: float = 0.0
    encode_s: float = 0.0
    """Encoding and sending pictures, on whichever thread does it."""


class Feedback(Protocol):
    """Pictures out, rewards back. All calls come from one thread."""

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        """Takes the groups over; idempotent by group id, so a trainer that resumes publishes again what it waits for.

        Raises: RewardmeshError, if what carries them is gone for good.
        """

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        """What is newly complete, refused or lost; waits up to `wait_s` if there is nothing. Raises as `publish`.

        A pair comes once; a complete one once more whenever it has more rewards than before (a dead letter was
        requeued), for as long as its group is not forgotten.
        """

    def knows(self, oracle: str) -> bool:
        """Whether there is such an oracle; asked before a run takes one on. Raises as `publish`."""

    def asked(self) -> Sequence[Amendment]:
        """Amendments that wait for a ruling; may be a second old, and may come again after it."""

    def rule(self, amendment: Amendment) -> None:
        """Tells those who asked for the amendment what became of it. Idempotent. Raises as `publish`."""

    def depth(self) -> Mapping[str, FeedbackDepth]:
        """How much waits, by oracle; may be a second old."""

    def set_policy_version(self, version: int) -> None:
        """Says which version of the student is current; oracles need not be asked about what is too old."""

    def set_iteration(self, iteration: int) -> None:
        """Says how many iterations are done, for whoever looks at the run from outside."""

    def forget(self, group_ids: Sequence[str]) -> None:
        """Nothing more is wanted of these groups."""

    def resume(self, pairs: Sequence[tuple[str, str]], *, done: Sequence[str] = ()) -> None:
        """After a restart: watches (group, oracle) pairs published before; one that is not known any more is lost.

        Of the groups that are `done`, those still known are forgotten.
        """

    def times(self) -> RewardTimes:
        """Where the reward time went so far."""

    def close(self) -> None:
        """Stops what runs in the background; what was published stays where it is."""


class RewardClock:
    """Measures reward time from any thread: open while an awaited pair is outstanding, exposed while `blocked`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: set[tuple[str, str]] = set()
        self._since = 0.0
        self._blocked_since: float | None = None
        self._outstanding_s = 0.0
        self._exposed_s = 0.0
        self._encode_s = 0.0

    def started(self, pairs: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            self._advance()
            self._open.update(pairs)

    def finished(self, pair: tuple[str, str]) -> None:
        with self._lock:
            self._advance()
            self._open.discard(pair)

    def blocked(self, is_blocked: bool) -> None:
        """The training thread begins or ends a wait."""
        with self._lock:
            self._advance()
            self._blocked_since = self._clock() if is_blocked else None

    def encoded(self, seconds: float) -> None:
        with self._lock:
            self._encode_s += seconds

    def times(self) -> RewardTimes:
        with self._lock:
            self._advance()
            return RewardTimes(
                exposed_s=self._exposed_s,
                hidden_s=self._outstanding_s - self._exposed_s,
                encode_s=self._encode_s,
            )

    def _advance(self) -> None:
        now = self._clock()
        if self._open:
            self._outstanding_s += now - self._since
            if self._blocked_since is not None:
                self._exposed_s += now - max(self._since, self._blocked_since)
        self._since = now
