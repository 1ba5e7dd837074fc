"""What the stream in memory keeps: samples without an outcome, by oracle, and groups that were not forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from rewardmesh.wire.memory_letters import MemoryLetters
from rewardmesh.wire.messages import FailureCode, ScoreFailure
from rewardmesh.wire.stream import Claim, PendingSample, Result

__all__ = ["Kept", "Open", "Queue"]


@dataclass
class Open:
    """A (sample, oracle) without an outcome."""

    group_id: str
    request: PendingSample
    state: Literal["waiting", "leased", "retrying", "deferred"] = "waiting"
    entry_id: str = ""
    consumer: str = ""
    since_s: float = 0.0  # lease or deferral began
    due_s: float = 0.0  # retry or deferral ends
    deliveries: int = 0  # of the present entry
    failures: Counter[FailureCode] = field(default_factory=Counter)
    crashes: int = 0
    last_failure: ScoreFailure | None = None
    holds_picture: bool = True

    begun: bool = False  # was claimed before
    queued_s: float = 0.0  # enqueued, or handed back and due
    reuse_answers_s: float = 0.0

    @property
    def attempts(self) -> int:
        return self.failures.total()

    @property
    def key(self) -> tuple[str, str]:
        return self.group_id, self.request.sample.sample_id

    def claim(self, *, now_s: float, policy_version: int) -> Claim:
        return Claim(
            entry_id=self.entry_id,
            sample=self.request.sample,
            media_type=self.request.media_type,
            picture=self.request.picture,
            hint=self.request.hint,
            attempts=self.attempts,
            deliveries=self.attempts + self.crashes + self.deliveries,
            failures=dict(self.failures),
            traceparent=self.request.traceparent,
            reuse_answers_s=self.reuse_answers_s,
            waited_s=now_s - self.queued_s,
            staleness=max(0, policy_version - self.request.sample.policy_version),
        )


@dataclass
class Queue:
    """What one oracle has to do. Insertion order of `open` is the order of claims."""

    letters: MemoryLetters
    open: dict[tuple[str, str], Open] = field(default_factory=dict)
    num_entries: int = 0
    num_settled: int = 0


@dataclass
class Kept:
    """A group that was not forgotten."""

    since_s: float
    left: dict[str, int] = field(default_factory=dict)
    requests: dict[str, PendingSample] = field(default_factory=dict)  # without pictures
    versions: dict[str, str] = field(default_factory=dict)
    answered_by: dict[tuple[str, str], str] = field(default_factory=dict)  # version, by oracle and sample
    cached: set[tuple[str, str]] = field(default_factory=set)  # oracle and sample
    results: dict[tuple[str, str], Result] = field(default_factory=dict)  # by oracle, sample
