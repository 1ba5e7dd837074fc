"""Moves the samples of one run to one oracle and their results back.

    lane:  claim ──► ask (heartbeat meanwhile) ──► settle, all of the batch in one call ──► claim …
             │                               └───► retry, for what failed and may still succeed
             └─ answered before, where the run allows it ──► settle

There are as many lanes as the oracle's concurrency. A lane that loses all its leases (the group was forgotten, or
others took over) drops the call. Delivery: an oracle may be asked more than once; the stream records one outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from reward_workers.link import OracleLink, Turn, wait_for
from reward_workers.meter import Meter
from reward_workers.policy import backoff_s
from reward_workers.recorder import Outcome, Recorder
from reward_workers.reuse import Reuse
from reward_workers.settings import WorkerSettings
from reward_workers.spans import sample_spans
from rewardmesh.dialects.failures import CallFailure, Overloaded, RequestRefused, failure_of
from rewardmesh.wire.answers import AnswerCache
from rewardmesh.wire.errors import BufferFault, OracleError, ProtocolError
from rewardmesh.wire.stream import Claim, Stream
from rewardmesh.wire.telemetry import get_logger

__all__ = ["Pump"]

#: Workers died with a sample this often: it is asked alone, so that it takes no neighbours with it.
_SUSPECT_CRASHES = 2


class Pump:
    """Feeds one oracle from one run's stream until it is stopped."""

    def __init__(
        self,
        *,
        stream: Stream,
        link: OracleLink,
        answers: AnswerCache,
        settings: WorkerSettings,
        consumer: str,
        meter: Meter,
        rng: random.Random,
    ) -> None:
        self.link = link
        self.lanes: list[asyncio.Task[None]] = []
        self._stream = stream
        self._oracle = link.endpoint.name
        self._settings = settings
        self._consumer = consumer
        self.in_flight = 0  # samples claimed and not yet settled or handed back
        self._rng = rng
        self._meter = meter
        self._stopping = asyncio.Event()
        self._reuse = Reuse(answers, link, run_id=stream.run_id, meter=meter)
        self._recorder = Recorder(
            stream=stream,
            link=link,
            consumer=consumer,
            meter=meter,
            patience_s=settings.settle_patience_s,
            rng=rng,
        )
        self._log = get_logger("reward_workers.pump").bind(run_id=stream.run_id, oracle=self._oracle)

    def start(self) -> None:
        """Starts the lanes as tasks of the running loop."""
        name = f"{self._stream.run_id}/{self._oracle}"
        self.lanes = [
            asyncio.create_task(self._lane(), name=f"{name}#{index}") for index in range(self.link.endpoint.concurrency)
        ]
        self._log.info("pump.started", lanes=len(self.lanes), url=self.link.endpoint.url)

    async def stop(self, *, drain_s: float) -> None:
        """Claims nothing more; calls under way get `drain_s`, then what they hold is handed back."""
        self._stopping.set()
        if self.lanes:
            _, late = await asyncio.wait(self.lanes, timeout=drain_s)
            for lane in late:
                lane.cancel()
            await asyncio.gather(*self.lanes, return_exceptions=True)
            self._log.info("pump.stopped", handed_back=len(late))

    async def _lane(self) -> None:
        buffer_failures = 0
        while not self._stopping.is_set():
            try:
                turn = await self.link.turn(self._stopping)
                if turn is None:
                    return
                try:
                    claims = await self._claim(turn)
                    buffer_failures = 0
                    if claims:
                        await self._serve(claims, turn)
                finally:
                    await self.link.give_back(turn)
            except BufferFault as error:
                buffer_failures += 1
                if buffer_failures == 1:
                    self._log.warning("buffer.claim_failed", detail=str(error))
                pause_s = backoff_s(self._rng.random(), failures=buffer_failures, base_s=0.2, cap_s=2.0)
                await wait_for(self._stopping, pause_s)

    async def _claim(self, turn: Turn) -> list[Claim]:
        whole_groups = self.link.judges_groups
        claims = await self._stream.claim(
            self._oracle,
            consumer=self._consumer,
            max_samples=1 if turn.probing and not whole_groups else self.link.max_batch,
            lease_s=self._settings.lease_s,
            wait_s=self._settings.claim_wait_s,
            begun_only=self.link.endpoint.state == "draining",
            whole_groups=whole_groups,
        )
        labels = self.link.labels
        for claim in claims:
            self._meter.observe("rewardmesh_oracle_latency_s", claim.waited_s, phase="queue", **labels)
            self._meter.observe("rewardmesh_sample_staleness", claim.staleness, run=self._stream.run_id, **labels)
        return claims

    async def _serve(self, claims: Sequence[Claim], turn: Turn) -> None:
        """One batch from claim to settle; hands it back if it is cancelled."""
        with sample_spans("claim", claims, oracle=self._oracle, worker=self._consumer) as traced:
            await self._serve_traced(traced, turn)

    async def _serve_traced(self, claims: Sequence[Claim], turn: Turn) -> None:
        began_s = asyncio.get_running_loop().time()
        heart = asyncio.create_task(self._heartbeat(claims))
        ask = asyncio.create_task(self._answer_all(claims, turn))
        self.in_flight += len(claims)
        try:
            await asyncio.wait({heart, ask}, return_when=asyncio.FIRST_COMPLETED)
            if ask.done():
                await self._recorder.conclude(ask.result(), began_s=began_s)
                await self._reuse.keep(ask.result())
            else:
                heart.result()
                self._log.warning("batch.abandoned", samples=len(claims), why="all leases were lost")
        except asyncio.CancelledError:
            await _end(ask)
            await self._recorder.release(claims)
            raise
        finally:
            self.in_flight -= len(claims)
            await _end(heart)
            await _end(ask)

    async def _answer_all(self, claims: Sequence[Claim], turn: Turn) -> list[Outcome]:
        """Settles what was answered before, and asks about the rest."""
        known = await self._reuse.recall(claims)
        if not known:
            return await self._ask_all(claims, turn)
        await self._recorder.conclude(known, began_s=asyncio.get_running_loop().time())
        answered = {outcome.claim.entry_id for outcome in known}
        return await self._ask_all([claim for claim in claims if claim.entry_id not in answered], turn)

    async def _ask_all(self, claims: Sequence[Claim], turn: Turn) -> list[Outcome]:
        """Every claim gets an outcome. A batch that the oracle refuses is halved: one bad sample fails alone.

        After a call that failed as a whole nothing more is asked: what is left is handed back and no attempt counted.
        """
        outcomes: list[Outcome] = []
        whole_groups = self.link.judges_groups
        batches = deque([list(claims)] if whole_groups else _batches(claims))
        while batches:
            batch = batches.popleft()
            try:
                answer = await self.link.score(batch, turn=turn, alone=_is_suspect(batch[0]) and not whole_groups)
            except (OracleError, ProtocolError) as error:
                if not isinstance(error, CallFailure):
                    raise
                if isinstance(error, RequestRefused) and len(batch) > 1 and not whole_groups:
                    middle = len(batch) // 2
                    batches.extendleft((batch[middle:], batch[:middle]))
                    continue
                outcomes += _failed(batch, error)
                if not isinstance(error, RequestRefused):
                    return outcomes + [Outcome(claim=claim, result=None) for left in batches for claim in left]
            else:
                outcomes += [
                    Outcome(claim=claim, result=result, version=answer.version)
                    for claim, result in zip(batch, answer.results, strict=True)
                ]
        return outcomes

    async def _heartbeat(self, claims: Sequence[Claim]) -> None:
        """Renews the leases; returns when none is left to renew."""
        held: Sequence[Claim] = claims
        while held:
            await asyncio.sleep(self._settings.lease_s / 3)
            try:
                held = await self._stream.heartbeat(
                    self._oracle, consumer=self._consumer, claims=held, lease_s=self._settings.lease_s
                )
            except BufferFault as error:
                self._log.warning("buffer.heartbeat_failed", detail=str(error))


def _batches(claims: Sequence[Claim]) -> list[list[Claim]]:
    """Splits claims into calls: suspects alone, and no sample id twice in one (ids are unique within a group only)."""
    batches: list[list[Claim]] = []
    for claim in claims:
        sample_id = claim.sample.sample_id
        if _is_suspect(claim):
            batches.insert(0, [claim])
            continue
        for batch in batches:
            if not _is_suspect(batch[0]) and all(other.sample.sample_id != sample_id for other in batch):
                batch.append(claim)
                break
        else:
            batches.append([claim])
    return batches


def _is_suspect(claim: Claim) -> bool:
    """Workers died with it, or the connection broke while it was asked: it may be what kills, so it is asked alone."""
    crashes = claim.deliveries - claim.attempts - 1
    return crashes >= _SUSPECT_CRASHES or claim.failures.get("dropped", 0) > 0


def _failed(claims: Sequence[Claim], error: CallFailure) -> list[Outcome]:
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else None
    return [
        Outcome(claim=claim, result=failure_of(error, claim.sample.sample_id), retry_after_s=retry_after_s)
        for claim in claims
    ]


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
