"""Which failure is worth another attempt, and when: exponential backoff with full jitter, bounded twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rewardmesh.wire.messages import FailureCode, OracleEndpoint, ScoreFailure

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
    """One oracle's bounds: `max_attempts` asks a sample in all, all of them begun within `budget_s` of the first."""

    max_attempts: int
    base_s: float
    budget_s: float
    cap_s: float = 30.0

    @classmethod
    def of(cls, endpoint: OracleEndpoint, *, cap_s: float = 30.0) -> Self:
        """The bounds that the registry keeps for an oracle."""
        return cls(
            max_attempts=endpoint.max_attempts,
            base_s=endpoint.retry_base_s,
            budget_s=endpoint.retry_budget_s,
            cap_s=cap_s,
        )

    def delay_s(
        self, draw: float, *, attempts: int, elapsed_s: float, retry_after_s: float | None = None
    ) -> float | None:
        """Seconds until the next attempt, or None to give up.

        `draw`: see `backoff_s`. `attempts`: asks made, the failed one included. `elapsed_s`: since the first of them
        began. An oracle's Retry-After is a floor; one that does not fit into the budget ends the attempts now rather
        than later.
        """
        if attempts >= self.max_attempts:
            return None
        delay_s = backoff_s(draw, failures=attempts, base_s=self.base_s, cap_s=self.cap_s)
        if retry_after_s is not None:
            delay_s += retry_after_s  # jitter on top: many callers were told the same second
        return delay_s if elapsed_s + delay_s <= self.budget_s else None
