"""Leases of every stream: taken over, renewed, handed back, and ended for a sample that kills its workers."""

from __future__ import annotations

import asyncio

from rewardmesh.wire.messages import Scored, ScoreFailure
from rewardmesh.wire.stream import Claim
from tests.contract.streams import LEASE_S, MakeGroup, OpenStream, failed, scored, settle, take


async def test_an_expired_lease_is_taken_over(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(), oracles=["count"])
    lost = await take(stream, consumer="dies")
    await asyncio.sleep(0.06)
    assert await take(stream, consumer="b", lease_s=LEASE_S) == []
    taken = await take(stream, consumer="b", lease_s=0.05)
    assert [(claim.sample, claim.picture) for claim in taken] == [(claim.sample, claim.picture) for claim in lost]
    assert [(claim.attempts, claim.deliveries) for claim in taken] == [(0, 2), (0, 2)]
    assert await stream.heartbeat("count", consumer="dies", claims=lost, lease_s=LEASE_S) == []
    assert await settle(stream, scored(lost[0], 0.1)) == (1, 0, 0)  # the first outcome counts, whoever brings it
    assert await settle(stream, *(scored(claim, 0.9) for claim in taken)) == (1, 1, 0)
    results = (await stream.outcomes("g1", "count")).results
    assert {sample_id: result.reward for sample_id, result in results.items() if isinstance(result, Scored)} == {
        "g1/0": 0.1,
        "g1/1": 0.9,
    }


async def test_a_heartbeat_keeps_the_lease_and_the_delivery_count(
    open_stream: OpenStream, make_group: MakeGroup
) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(), oracles=["count"])
    claims = await take(stream, consumer="slow")
    for _ in range(4):
        await asyncio.sleep(0.05)
        assert await stream.heartbeat("count", consumer="slow", claims=claims, lease_s=0.15) == claims
        assert await take(stream, consumer="b", lease_s=0.15) == []
    await asyncio.sleep(0.2)
    assert [claim.deliveries for claim in await take(stream, consumer="b", lease_s=0.15)] == [2, 2]


async def test_a_retry_waits_and_counts(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count"])
    (claim,) = await take(stream)
    args = {"claim": claim, "failure": failed(claim, "timeout")[1], "delay_s": 0.6}
    assert not await stream.retry("count", consumer="somebody", **args)
    assert await stream.retry("count", consumer="w1", **args)
    assert not await stream.retry("count", consumer="w1", **args)
    depth = await stream.depth("count")
    assert (depth.lag, depth.pending, depth.retrying, depth.bytes_in_use) == (0, 0, 1, 100)
    assert await take(stream) == []
    (again,) = await stream.claim("count", consumer="w2", max_samples=9, lease_s=LEASE_S, wait_s=5)
    assert (again.attempts, again.deliveries, again.picture) == (1, 2, claim.picture)
    assert await settle(stream, scored(again)) == (1, 0, 0)
    assert (await stream.outcomes("g1", "count")).complete


async def test_an_outcome_settles_a_sample_that_waits_for_its_retry(
    open_stream: OpenStream, make_group: MakeGroup
) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count"])
    (slow,) = await take(stream, consumer="slow")
    await asyncio.sleep(0.03)
    (claim,) = await take(stream, consumer="quick", lease_s=0.02)
    assert await stream.retry("count", consumer="quick", claim=claim, failure=failed(claim)[1], delay_s=0.02)
    assert await settle(stream, scored(slow)) == (1, 0, 0)
    await asyncio.sleep(0.03)
    assert await take(stream) == []
    depth = await stream.depth("count")
    assert (depth.lag, depth.pending, depth.retrying, depth.bytes_in_use) == (0, 0, 0, 0)


async def test_a_sample_that_kills_its_workers_is_poison(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(max_deliveries=2)
    await stream.enqueue(make_group(size=1), oracles=["count"])
    (claim,) = await take(stream)
    assert await stream.retry("count", consumer="w1", claim=claim, failure=failed(claim)[1], delay_s=0)
    for attempt in range(2):  # an explicit failure is no crash
        await asyncio.sleep(0.02)
        (claim,) = await take(stream, consumer=f"victim-{attempt}", lease_s=0.01)
    await asyncio.sleep(0.02)
    assert await take(stream, lease_s=0.01) == []
    outcome = await stream.outcomes("g1", "count")
    assert outcome.complete
    result = outcome.results["g1/0"]
    assert isinstance(result, ScoreFailure)
    assert (result.code, result.retryable) == ("poison", False)
    assert "it broke" in result.detail
    (letter,) = await stream.dead_letters("count", 9)
    assert (letter.failure, letter.attempts, letter.picture) == (result, 1, claim.picture)


async def test_failed_asks_are_counted_by_class(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count"])
    for code in ("timeout", "dropped", "timeout"):
        (claim,) = await take(stream)
        await stream.retry("count", consumer="w1", claim=claim, failure=failed(claim, code)[1], delay_s=0)
    (claim,) = await take(stream)
    assert (claim.attempts, claim.failures) == (3, {"timeout": 2, "dropped": 1})
    await settle(stream, failed(claim))
    assert (await stream.dead_letters("count", 1))[0].attempts == 3


async def test_a_sample_that_was_not_asked_about_is_not_counted(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count"])
    (claim,) = await take(stream)
    assert await stream.retry("count", consumer="w1", claim=claim, failure=None, delay_s=0)
    assert not await stream.retry("count", consumer="w1", claim=claim, failure=None, delay_s=0)
    (claim,) = await take(stream)
    assert (claim.attempts, claim.failures, claim.deliveries) == (0, {}, 1)


async def test_begun_only_claims_nothing_that_was_never_claimed(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group("g1", size=3), oracles=["count"])
    await stream.enqueue(make_group("g2", size=1), oracles=["count"])
    lost, again, kept = await take(stream, 3, consumer="dies")
    await stream.retry("count", consumer="dies", claim=again, failure=failed(again)[1], delay_s=0)
    await stream.heartbeat("count", consumer="dies", claims=[kept], lease_s=LEASE_S)

    async def begun(lease_s: float) -> list[Claim]:
        return await stream.claim("count", consumer="w2", max_samples=9, lease_s=lease_s, begun_only=True)

    (retried,) = await begun(LEASE_S)
    assert (retried.sample, retried.attempts, retried.deliveries) == (again.sample, 1, 2)
    assert await begun(LEASE_S) == []
    assert {claim.sample.sample_id for claim in await begun(0.0)} == {c.sample.sample_id for c in (lost, again, kept)}
    assert await settle(stream, scored(lost), scored(again), scored(kept)) == (3, 0, 0)
    assert [claim.sample.group_id for claim in await take(stream)] == ["g2"]  # the new one waited
    assert (await stream.depth("count")).lag == 0
