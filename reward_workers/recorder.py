"""What becomes of an asked batch: settled in one call, handed back for another attempt, or released at a stop."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from reward_workers.link import OracleLink
from reward_workers.meter import Meter
from reward_workers.policy import backoff_s, is_retryable
from reward_workers.spans import sample_spans
from rewardmesh.wire.errors import BufferFault
from rewardmesh.wire.messages import ScoreFailure
from rewardmesh.wire.stream import Claim, Result, SettleReport, Stream
from rewardmesh.wire.telemetry import get_logger

__all__ = ["Outcome", "Recorder"]

_FIRST_ASKS_KEPT = 20_000
_RELEASE_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one claim. `result` None: it was not asked. `version` is that of the oracle, if it answered.

    `cached`: it is an earlier answer, and nobody was asked.
    """

    claim: Claim
    result: Result | None
    version: str = ""
    retry_after_s: float | None = None
    cached: bool = False


@dataclass(kw_only=True)
class _FirstAsks:
    """When this worker first asked about a sample that failed: what bounds its attempts in time."""

    _began_s: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def elapsed_s(self, claim: Claim, *, began_s: float, now_s: float) -> float:
        key = (claim.sample.group_id, claim.sample.sample_id)
        first_s = self._began_s.setdefault(key, began_s)
        while len(self._began_s) > _FIRST_ASKS_KEPT:
            self._began_s.popitem(last=False)
        return now_s - first_s

    def drop(self, claim: Claim) -> None:
        self._began_s.pop((claim.sample.group_id, claim.sample.sample_id), None)


class Recorder:
    """Tells one run's stream what one oracle made of its samples."""

    def __init__(
        self,
        *,
        stream: Stream,
        link: OracleLink,
        consumer: str,
        meter: Meter,
        patience_s: float,
        rng: random.Random,
    ) -> None:
        self._stream = stream
        self._link = link
        self._oracle = link.endpoint.name
        self._consumer = consumer
        self._meter = meter
        self._patience_s = patience_s
        self._rng = rng
        self._first_asks = _FirstAsks()
        self._log = get_logger("reward_workers.recorder").bind(run_id=stream.run_id, oracle=self._oracle)

    @property
    def _labels(self) -> dict[str, str]:
        return {"run": self._stream.run_id, **self._link.labels}

    async def conclude(self, outcomes: Sequence[Outcome], *, began_s: float) -> None:
        """Settles what is final, in one call for each version of the oracle that answered; hands the rest back.

        The outcomes of an oracle that judges whole groups are those of one group: if one of its samples has to be asked
        about again, all of them are, and the failure counts for each.
        """
        now_s = asyncio.get_running_loop().time()
        draw = self._rng.random()
        final: dict[tuple[str, bool], list[tuple[Claim, Result]]] = {}
        again: list[tuple[Claim, ScoreFailure | None, float]] = []
        for outcome in outcomes:
            claim, result = outcome.claim, outcome.result
            if result is None:
                again.append((claim, None, now_s))
                continue
            if isinstance(result, ScoreFailure) and is_retryable(result):
                delay_s = self._link.policy.delay_s(
                    draw,
                    code=result.code,
                    failures=claim.failures.get(result.code, 0) + 1,
                    elapsed_s=self._first_asks.elapsed_s(claim, began_s=began_s, now_s=now_s),
                    retry_after_s=outcome.retry_after_s,
                )
                if delay_s is not None:
                    again.append((claim, result, now_s + delay_s))
                    continue
            final.setdefault((outcome.version, outcome.cached), []).append((claim, result))
        if self._link.judges_groups and again:
            _, failure, due_s = again[0]
            again = [(outcome.claim, _for_sample(failure, outcome.claim), due_s) for outcome in outcomes]
            final = {}
        for (version, cached), settled in final.items():
            await self._settle(settled, version=version, cached=cached)
        for claim, failure, due_s in again:
            await self._retry(claim, failure, due_s)

    async def _settle(self, settled: Sequence[tuple[Claim, Result]], *, version: str, cached: bool) -> None:
        began_s = asyncio.get_running_loop().time()
        claims, results = [claim for claim, _ in settled], [result for _, result in settled]
        for claim in claims:
            self._first_asks.drop(claim)
        with sample_spans("settle", claims, oracle=self._oracle, results=results, version=version):
            report = await self._offer(
                lambda: self._stream.settle(
                    self._oracle, consumer=self._consumer, outcomes=settled, version=version, cached=cached
                )
            )
        if report is None:
            return
        seconds = asyncio.get_running_loop().time() - began_s
        self._meter.observe("rewardmesh_oracle_latency_s", seconds, phase="settle", **self._link.labels)
        self._count(settled, report, version)
        for claim, result in settled:
            if isinstance(result, ScoreFailure):
                self._log.warning(
                    "sample.failed",
                    group_id=claim.sample.group_id,
                    sample_id=claim.sample.sample_id,
                    code=result.code,
                    attempts=claim.attempts + 1,
                    detail=result.detail,
                )

    def _count(self, settled: Sequence[tuple[Claim, Result]], report: SettleReport, version: str) -> None:
        labels = self._labels | {"version": version}
        self._meter.count("rewardmesh_samples_duplicate", report.duplicates, **labels)
        if report.duplicates:  # the report does not say which of them were new
            new = report.settled + report.deferred
            self._meter.count("rewardmesh_samples_settled", new, kind="mixed", code="", **labels)
            return
        outcomes = Counter((result.kind, getattr(result, "code", "")) for _, result in settled)
        for (kind, code), amount in outcomes.items():
            self._meter.count("rewardmesh_samples_settled", amount, kind=kind, code=code, **labels)

    async def _retry(self, claim: Claim, failure: ScoreFailure | None, due_s: float) -> None:
        """Due at one time for all of a batch, though each is a call of its own."""
        loop = asyncio.get_running_loop()
        results = [] if failure is None else [failure]
        with sample_spans("retry", [claim], oracle=self._oracle, results=results):
            handed_back = await self._offer(
                lambda: self._stream.retry(
                    self._oracle,
                    consumer=self._consumer,
                    claim=claim,
                    failure=failure,
                    delay_s=max(0.0, due_s - loop.time()),
                )
            )
        if handed_back and failure is not None:
            self._meter.count("rewardmesh_samples_retried", 1, code=failure.code, **self._labels)

    async def _offer(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Repeats a call to the server until it is heard, for `patience_s` at most; then the lease runs out."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s
        failures = 0
        while True:
            try:
                return await call()
            except BufferFault as error:
                failures += 1
                pause_s = backoff_s(self._rng.random(), failures=failures, base_s=0.2, cap_s=2.0)
                if loop.time() + pause_s > give_up_s:
                    self._log.error("buffer.outcome_not_recorded", detail=str(error))
                    return None
            await asyncio.sleep(pause_s)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Hands claims back for others to ask at once; that they were asked and not answered is not counted."""
        try:
            async with asyncio.timeout(_RELEASE_S):
                for claim in claims:
                    await self._stream.retry(
                        self._oracle, consumer=self._consumer, claim=claim, failure=None, delay_s=0.0
                    )
        except (TimeoutError, BufferFault) as error:
            self._log.warning("batch.not_released", detail=str(error), why="others take over when the lease runs out")


def _for_sample(failure: ScoreFailure | None, claim: Claim) -> ScoreFailure | None:
    return None if failure is None else failure.model_copy(update={"sample_id": claim.sample.sample_id})
