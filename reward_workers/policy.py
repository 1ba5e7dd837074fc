"""Which failure is worth another attempt, and when: exponential backoff with full jitter, bounded twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from rewardmesh.wire.messages import FailureCode, OracleEndpoint, RetryBound, ScoreFailure

__all__ = ["FINAL_CODES", "RetryPolicy", "backoff_s", "is_retryable"]

#: Final whatever the failure says of itself: another attempt could not change them.
FINAL_CODES: frozenset[FailureCode] = frozenset({"stale", "expired", "poison"})


def is_retryable(failure: ScoreFailure) -> bool:
    """Whether another attempt may end differently."""
    return failure.retryable and failure.code not in FINAL_CODES


def backoff_s(draw: float, *, failures: int, base_s: float, cap_s: float) -> float:
    """Full jitter: draw · min(cap, base · 2^(failures − 1)), in seconds; `failures` counts from 1.

    `draw` is uniform in [0, 1); samples of one batch share it, so that they come back as one batch.
    """
    return draw * min(cap_s, base_s * 2.0 ** min(failures - 1, 60))


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """One oracle's bounds, by class of failure: asks of one sample that fail so, all begun in time after its first."""

    every: RetryBound
    by_class: Mapping[FailureCode, RetryBound] = field(default_factory=dict)
    base_s: float
    cap_s: float = 30.0

    @classmethod
    def of(cls, endpoint: OracleEndpoint, *, cap_s: float = 30.0) -> Self:
        """The bounds that the registry keeps for an oracle."""
        return cls(
            every=RetryBound(max_attempts=endpoint.max_attempts, budget_s=endpoint.retry_budget_s),
            by_class=endpoint.retries,
            base_s=endpoint.retry_base_s,
            cap_s=cap_s,
        )

    def delay_s(
        self, draw: float, *, code: FailureCode, failures: int, elapsed_s: float, retry_after_s: float | None = None
    ) -> float | None:
        """Seconds until the next attempt, or None to give up.

        `draw`: see `backoff_s`. `failures`: asks that failed with this code, the last one included. `elapsed_s`: since
        the sample's first ask began. An oracle's Retry-After is a floor; one that does not fit into the budget ends the
        attempts now rather than later.
        """
        bound = self.by_class.get(code, self.every)
        # A connection that breaks says nothing of one sample of its batch: each is asked alone before it is given up.
        if failures >= (max(2, bound.max_attempts) if code == "dropped" else bound.max_attempts):
            return None
        delay_s = backoff_s(draw, failures=failures, base_s=self.base_s, cap_s=self.cap_s)
        if retry_after_s is not None:
            delay_s += retry_after_s  # jitter on top: many callers were told the same second
        return delay_s if elapsed_s + delay_s <= bound.budget_s else None
