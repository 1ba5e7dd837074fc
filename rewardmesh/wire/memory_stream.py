"""The stream in one process, without a server: for tests, notebooks and oracles that run beside the trainer.

The same behaviour as `redis_stream`, held by one contract suite; nothing survives the process. One event loop only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from rewardmesh.wire.amendments import MemoryAmendments
from rewardmesh.wire.errors import UnknownGroup, UnknownLetter
from rewardmesh.wire.memory_letters import MemoryLetters
from rewardmesh.wire.memory_state import Kept, Open, Queue
from rewardmesh.wire.messages import Deferred, Scored, ScoreFailure
from rewardmesh.wire.stream import (
    Admission,
    Claim,
    DeadLetter,
    Depth,
    Group,
    GroupOutcome,
    Provenance,
    Result,
    SettleReport,
    StreamSettings,
    require_enqueueable,
    require_requeued,
)

__all__ = ["MemoryStream"]

POLL_S = 0.02  # a waiting claim looks this often for due retries and expired leases
COMPLETIONS_KEPT = 10_000


class MemoryStream:
    """`rewardmesh.wire.stream.Stream` in memory. `clock` gives unix seconds."""

    def __init__(
        self, run_id: str, settings: StreamSettings | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._run_id = run_id
        self._settings = settings or StreamSettings()
        self._clock = clock
        self._queues: dict[str, Queue] = {}
        self._groups: dict[str, Kept] = {}
        self._completed: deque[tuple[int, str, str]] = deque(maxlen=COMPLETIONS_KEPT)
        self._num_completed = 0
        self._policy_version = 0
        self._iteration: int | None = None
        self.amendments = MemoryAmendments()

    @property
    def run_id(self) -> str:
        return self._run_id

    async def enqueue(self, group: Group, *, oracles: Sequence[str]) -> dict[str, Admission]:
        need = require_enqueueable(group, oracles, self._settings)
        budget = self._settings.budget_bytes
        admissions = {}
        for oracle in oracles:
            self._sweep(oracle)
            kept = self._groups.get(group.group_id)
            known = kept is not None and oracle in kept.left
            accepted = known or self._bytes(oracle) + need <= budget
            if accepted and not known:
                self._accept(group, oracle)
            admissions[oracle] = Admission(accepted=accepted, bytes_in_use=self._bytes(oracle), budget_bytes=budget)
        return admissions

    async def claim(
        self,
        oracle: str,
        *,
        consumer: str,
        max_samples: int,
        lease_s: float,
        wait_s: float = 0.0,
        begun_only: bool = False,
        whole_groups: bool = False,
    ) -> list[Claim]:
        deadline = time.monotonic() + wait_s
        while True:
            self._sweep(oracle)
            free = self._free(oracle, lease_s, begun_only=begun_only)
            chosen = self._whole_group(oracle, free, max_samples) if whole_groups else free
            claims = self._lease(oracle, consumer, chosen, max_samples)
            if chosen and not claims:  # all of these were settled unasked
                continue
            left_s = deadline - time.monotonic()
            if claims or left_s <= 0:
                return claims
            await asyncio.sleep(min(left_s, POLL_S))

    async def heartbeat(
        self,
        oracle: str,
        *,
        consumer: str,
        claims: Sequence[Claim],
        lease_s: float,  # noqa: ARG002 - who claims judges a lease
    ) -> list[Claim]:
        held = []
        for claim in claims:
            if (waiting := self._leased(oracle, consumer, claim)) is not None:
                waiting.since_s = self._clock()
                held.append(claim)
        return held

    async def settle(
        self,
        oracle: str,
        *,
        consumer: str,  # noqa: ARG002 - the first outcome counts, whoever brings it
        outcomes: Sequence[tuple[Claim, Result]],
        version: str,
        cached: bool = False,
    ) -> SettleReport:
        settled = duplicates = deferred = 0
        for claim, result in outcomes:
            waiting = self._queue(oracle).open.get((claim.sample.group_id, claim.sample.sample_id))
            if waiting is None or (isinstance(result, Deferred) and waiting.state == "deferred"):
                duplicates += 1
            elif isinstance(result, Deferred):
                self._defer(oracle, waiting, result, version)
                deferred += 1
            else:
                self._record(oracle, waiting, result, version)
                if cached:
                    self._groups[waiting.group_id].cached.add((oracle, result.sample_id))
                settled += 1
        return SettleReport(settled=settled, duplicates=duplicates, deferred=deferred)

    async def retry(
        self, oracle: str, *, consumer: str, claim: Claim, failure: ScoreFailure | None, delay_s: float
    ) -> bool:
        waiting = self._leased(oracle, consumer, claim)
        if waiting is None:
            return False
        waiting.crashes += waiting.deliveries - 1
        if failure is not None:
            waiting.failures[failure.code] += 1
            waiting.last_failure = failure
        waiting.state, waiting.entry_id = "retrying", ""
        waiting.due_s = self._clock() + delay_s
        return True

    async def settle_late(self, oracle: str, *, group_id: str, result: Scored | ScoreFailure, version: str) -> bool:
        waiting = self._queue(oracle).open.get((group_id, result.sample_id))
        if waiting is None:
            return False
        self._record(oracle, waiting, result, version)
        return True

    async def completions(
        self, *, after: str = "0", wait_s: float = 0.0, max_count: int = 1000
    ) -> tuple[list[tuple[str, str]], str]:
        deadline = time.monotonic() + wait_s
        while True:
            found = [entry for entry in self._completed if entry[0] > int(after)][:max_count]
            if found or time.monotonic() >= deadline:
                return [(group_id, oracle) for _, group_id, oracle in found], str(found[-1][0]) if found else after
            await asyncio.sleep(POLL_S)

    async def outcomes(self, group_id: str, oracle: str) -> GroupOutcome:
        self._sweep(oracle)
        kept = self._groups.get(group_id)
        if kept is None or oracle not in kept.left:
            raise UnknownGroup("never accepted, or forgotten", f"{group_id} for {oracle}", "enqueue it first")
        results = {sample_id: result for (by, sample_id), result in kept.results.items() if by == oracle}
        return GroupOutcome(
            group_id=group_id,
            oracle=oracle,
            complete=kept.left[oracle] == 0,
            results=results,
            version=kept.versions.get(oracle, ""),
            provenance={
                sample_id: Provenance(
                    version=kept.answered_by.get((oracle, sample_id), ""),
                    media_type=kept.requests[sample_id].media_type,
                    cached=(oracle, sample_id) in kept.cached,
                )
                for sample_id in results
            },
        )

    async def groups(self) -> list[str]:
        return list(self._groups)

    async def forget(self, group_id: str) -> None:
        self._forget(group_id)

    async def set_policy_version(self, version: int) -> None:
        self._policy_version = max(self._policy_version, version)

    async def set_iteration(self, iteration: int) -> None:
        self._iteration = iteration

    async def iteration(self) -> int | None:
        return self._iteration

    async def depth(self, oracle: str) -> Depth:
        queue = self._queue(oracle)
        states = [waiting.state for waiting in queue.open.values()]
        since = [self._groups[w.group_id].since_s for w in queue.open.values() if w.state != "deferred"]
        return Depth(
            lag=states.count("waiting"),
            pending=states.count("leased"),
            retrying=states.count("retrying"),
            deferred=states.count("deferred"),
            bytes_in_use=self._bytes(oracle),
            budget_bytes=self._settings.budget_bytes,
            oldest_pending_s=self._clock() - min(since) if since else 0.0,
            dead_letters=len(queue.letters),
            settled=queue.num_settled,
        )

    async def dead_letters(self, oracle: str, max_count: int) -> list[DeadLetter]:
        return self._queue(oracle).letters.latest(max_count)

    async def dead_letter(self, oracle: str, letter_id: str) -> DeadLetter:
        return self._queue(oracle).letters.get(letter_id)

    async def requeue(self, oracle: str, letter_id: str) -> bool:
        self._sweep(oracle)
        letters = self._queue(oracle).letters
        try:
            letter = letters.get(letter_id)
        except UnknownLetter:
            return False
        sample, picture = letter.sample, letter.picture
        kept = self._groups.get(sample.group_id)
        if kept is None or kept.results.get((oracle, sample.sample_id)) != letter.failure:
            said = "no group"
        elif picture is None:
            said = "no picture"
        elif self._bytes(oracle) + len(picture) > self._settings.budget_bytes:
            said = "no room"
        else:
            said = "requeued"
            del kept.results[oracle, sample.sample_id]
            kept.answered_by.pop((oracle, sample.sample_id), None)
            kept.left[oracle] += 1
            self._append(oracle, Open(sample.group_id, replace(kept.requests[sample.sample_id], picture=picture)))
            letters.discard(letter_id)
        require_requeued(said, f"{letter_id} of {oracle}")
        return True

    async def discard(self, oracle: str, letter_id: str) -> bool:
        return self._queue(oracle).letters.discard(letter_id)

    async def close(self) -> None:
        """Nothing to let go of."""

    def _queue(self, oracle: str) -> Queue:
        if oracle not in self._queues:
            self._queues[oracle] = Queue(letters=MemoryLetters(oracle, self._settings))
        return self._queues[oracle]

    def _bytes(self, oracle: str) -> int:
        return sum(len(w.request.picture) for w in self._queue(oracle).open.values() if w.state != "deferred")

    def _accept(self, group: Group, oracle: str) -> None:
        kept = self._groups.setdefault(group.group_id, Kept(since_s=self._clock()))
        kept.left[oracle] = len(group.requests)
        for request in group.requests:
            kept.requests.setdefault(request.sample.sample_id, replace(request, picture=b""))
            reuse_s = group.reuse_answers_s.get(oracle, 0.0)
            self._append(oracle, Open(group.group_id, request, reuse_answers_s=reuse_s))

    def _append(self, oracle: str, waiting: Open) -> None:
        """Puts the sample at the end of the queue, as a new entry."""
        queue = self._queue(oracle)
        queue.num_entries += 1
        waiting.state, waiting.entry_id, waiting.deliveries = "waiting", f"{queue.num_entries}-0", 0
        waiting.queued_s = self._clock()
        queue.open.pop(waiting.key, None)
        queue.open[waiting.key] = waiting

    def _leased(self, oracle: str, consumer: str, claim: Claim) -> Open | None:
        waiting = self._queue(oracle).open.get((claim.sample.group_id, claim.sample.sample_id))
        mine = waiting is not None and (waiting.state, waiting.consumer, waiting.entry_id) == (
            "leased",
            consumer,
            claim.entry_id,
        )
        return waiting if mine else None

    def _free(self, oracle: str, lease_s: float, *, begun_only: bool) -> list[Open]:
        """What may be leased now, in this order: expired leases, then what waits, retries that are due included."""
        now = self._clock()
        queue = self._queue(oracle)
        due = [w for w in queue.open.values() if w.state == "retrying" and w.due_s <= now]
        for waiting in sorted(due, key=lambda w: w.due_s):
            self._append(oracle, waiting)
        expired = [w for w in queue.open.values() if w.state == "leased" and now - w.since_s >= lease_s]
        return expired + [w for w in queue.open.values() if w.state == "waiting" and (w.begun or not begun_only)]

    def _whole_group(self, oracle: str, free: Sequence[Open], max_samples: int) -> list[Open]:
        """All samples of the first group that is free as a whole; those that can never be asked whole are settled."""
        free_keys = {waiting.key for waiting in free}
        for group_id in dict.fromkeys(waiting.group_id for waiting in free):
            mine = [w for w in self._queue(oracle).open.values() if w.group_id == group_id and w.state != "deferred"]
            if any(waiting.key not in free_keys for waiting in mine):
                continue
            size = len(self._groups[group_id].requests)
            if len(mine) < size:
                fault = "others of this one have outcomes or are deferred: send the group again, under another id"
            elif size > max_samples:
                what = f"this one has {size} samples; at most {max_samples} fit in one request"
                fault = f"{what}: send smaller groups"
            else:
                return mine
            for waiting in mine:
                detail = f"its oracle judges whole groups, and {fault}"
                sample_id = waiting.request.sample.sample_id
                failure = ScoreFailure(sample_id=sample_id, code="oracle_error", detail=detail, retryable=False)
                self._record(oracle, waiting, failure, "")
        return []

    def _lease(self, oracle: str, consumer: str, chosen: Sequence[Open], max_samples: int) -> list[Claim]:
        now = self._clock()
        claims: list[Claim] = []
        for waiting in chosen:
            if len(claims) == max_samples:
                break
            waiting.deliveries += 1
            if (failure := self._unaskable(waiting)) is not None:
                self._record(oracle, waiting, failure, "")
                continue
            waiting.state, waiting.consumer, waiting.since_s, waiting.begun = "leased", consumer, now, True
            claims.append(waiting.claim(now_s=now, policy_version=self._policy_version))
        return claims

    def _unaskable(self, waiting: Open) -> ScoreFailure | None:
        """The failure of a sample that no oracle should be asked about any more."""
        sample = waiting.request.sample
        staleness = self._policy_version - sample.policy_version
        allowed = self._settings.max_staleness
        if allowed is not None and staleness > allowed:
            detail = f"older by {staleness} policy versions; at most {allowed} are allowed"
            return ScoreFailure(sample_id=sample.sample_id, code="stale", detail=detail, retryable=False)
        crashes = waiting.crashes + waiting.deliveries - 1
        if crashes >= self._settings.max_deliveries:
            detail = f"handed out {crashes} times to workers that never came back"
            if waiting.last_failure is not None:
                detail += f"; last failure before: {waiting.last_failure.detail}"
            return ScoreFailure(sample_id=sample.sample_id, code="poison", detail=detail, retryable=False)
        return None

    def _record(self, oracle: str, waiting: Open, result: Scored | ScoreFailure, version: str) -> None:
        del self._queue(oracle).open[waiting.key]
        self._queue(oracle).num_settled += 1
        kept = self._groups[waiting.group_id]
        kept.results[oracle, result.sample_id] = result
        if version:
            kept.versions[oracle] = kept.answered_by[oracle, result.sample_id] = version
        if isinstance(result, ScoreFailure) and result.code != "stale":
            self._queue(oracle).letters.bury(
                waiting.request, result, attempts=waiting.attempts, holds_picture=waiting.holds_picture
            )
        kept.left[oracle] -= 1
        if kept.left[oracle] == 0:
            self._num_completed += 1
            self._completed.append((self._num_completed, waiting.group_id, oracle))

    def _defer(self, oracle: str, waiting: Open, result: Deferred, version: str) -> None:
        waiting.state, waiting.entry_id = "deferred", ""
        waiting.since_s, waiting.due_s = self._clock(), result.until
        kept = self._groups[waiting.group_id]
        kept.results[oracle, result.sample_id] = result
        kept.versions[oracle] = kept.answered_by[oracle, result.sample_id] = version
        held = [w for w in self._queue(oracle).open.values() if w.state == "deferred" and w.holds_picture]
        held.sort(key=lambda w: w.since_s)
        in_use = sum(len(w.request.picture) for w in held)
        for oldest in held:
            if in_use <= self._settings.deferred_bytes:
                break
            oldest.holds_picture = False
            in_use -= len(oldest.request.picture)

    def _sweep(self, oracle: str) -> None:
        now = self._clock()
        for group_id in [g for g, kept in self._groups.items() if now - kept.since_s >= self._settings.group_ttl_s]:
            self._forget(group_id)
        for waiting in [w for w in self._queue(oracle).open.values() if w.state == "deferred" and w.due_s <= now]:
            detail = "the deferred answer did not come before its deadline"
            sample_id = waiting.request.sample.sample_id
            failure = ScoreFailure(sample_id=sample_id, code="expired", detail=detail, retryable=False)
            self._record(oracle, waiting, failure, "")

    def _forget(self, group_id: str) -> None:
        self._groups.pop(group_id, None)
        for queue in self._queues.values():
            for key in [key for key in queue.open if key[0] == group_id]:
                del queue.open[key]
