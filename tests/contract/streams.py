"""What the contract tests of a stream ask of it: short forms for one oracle, `count`, and one consumer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rewardmesh.wire.messages import Deferred, Scored, ScoreFailure
from rewardmesh.wire.stream import Claim, Group, Stream

OpenStream = Callable[..., Stream]
MakeGroup = Callable[..., Group]
LEASE_S = 30.0


def scored(claim: Claim, reward: float = 0.5) -> tuple[Claim, Scored]:
    return claim, Scored(sample_id=claim.sample.sample_id, reward=reward, detail={"seen": ["circle"]})


def failed(claim: Claim, code: Any = "oracle_error") -> tuple[Claim, ScoreFailure]:
    failure = ScoreFailure(sample_id=claim.sample.sample_id, code=code, detail="it broke", retryable=True)
    return claim, failure


def deferred(claim: Claim, after_s: float = 60.0) -> tuple[Claim, Deferred]:
    return claim, Deferred(sample_id=claim.sample.sample_id, until=time.time() + after_s)


async def take(stream: Stream, num: int = 10, *, consumer: str = "w1", lease_s: float = LEASE_S) -> list[Claim]:
    return await stream.claim("count", consumer=consumer, max_samples=num, lease_s=lease_s)


async def settle(stream: Stream, *outcomes: Any, version: str = "1") -> tuple[int, int, int]:
    report = await stream.settle("count", consumer="w1", outcomes=outcomes, version=version)
    return report.settled, report.duplicates, report.deferred
