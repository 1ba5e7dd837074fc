"""Circuit breakers: whether an oracle is called at all. One state an oracle, shared by all workers.

    closed ──`failures_to_open` calls in a row failed as a whole──► open ──`open_s` over──► probing (one caller)
      ▲  ▲                                                            ▲                        │      │
      │  └───────────────── any call succeeded ────────┐              └── it failed: doubled ──┘      │
      └────────────────────────────────────────────────┴──────────────────── it succeeded ────────────┘

A prober that says nothing within its time (it died) has lost the probe, and the next caller takes it. An oracle that
asks to be left alone (Retry-After) opens its breaker at once. Who keeps the states is `rewardmesh.wire.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rewardmesh.wire.messages import BreakerBounds

__all__ = ["BreakerState", "MemoryBreaker"]


@dataclass(frozen=True, kw_only=True)
class BreakerState:
    """How a breaker stood when it was looked at. `wait_s`: until it may let somebody probe; `prober`: who does."""

    kind: Literal["closed", "open", "probing"]
    failures: int = 0  # calls in a row that failed as a whole
    wait_s: float = 0.0
    prober: str = ""

    def admits(self, caller: str) -> bool:
        """Whether the caller may call the oracle."""
        return self.kind == "closed" or (self.kind == "probing" and self.prober == caller)


class MemoryBreaker:
    """The breaker of a single process; `lua/breaker.lua` says the same on the server."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._openings = 0
        self._until_s = 0.0
        self._prober = ""
        self._probing_until_s = 0.0

    def state(self) -> BreakerState:
        now_s = self._clock()
        if self._openings == 0:
            return BreakerState(kind="closed", failures=self._failures)
        if self._probing_until_s > now_s:
            wait_s = self._probing_until_s - now_s
            return BreakerState(kind="probing", failures=self._failures, wait_s=wait_s, prober=self._prober)
        return BreakerState(kind="open", failures=self._failures, wait_s=max(0.0, self._until_s - now_s))

    def enter(self, caller: str, probe_s: float) -> BreakerState:
        state = self.state()
        if state.kind == "open" and state.wait_s == 0:
            self._prober, self._probing_until_s = caller, self._clock() + probe_s
        return self.state()

    def leave(self, caller: str) -> None:
        if self.state().prober == caller:
            self._probing_until_s = 0.0

    def failed(self, caller: str, bounds: BreakerBounds, retry_after_s: float) -> BreakerState:
        self._failures += 1
        state = self.state()
        probed = state.prober == caller and state.kind == "probing"
        if probed:
            self._probing_until_s = 0.0
        if probed or (state.kind == "closed" and (retry_after_s > 0 or self._failures >= bounds.failures_to_open)):
            self._openings += 1
            pause_s = bounds.open_s * 2.0 ** min(self._openings - 1, 40)
            self._until_s = self._clock() + min(bounds.max_open_s, max(pause_s, retry_after_s))
        return self.state()
