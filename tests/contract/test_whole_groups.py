"""Claims of whole groups, for oracles that judge groups: in one piece or not at all, whatever happened before."""

from __future__ import annotations

import asyncio
from typing import Any

from rewardmesh.wire.messages import ScoreFailure
from rewardmesh.wire.stream import Claim, Stream
from tests.contract.streams import LEASE_S, MakeGroup, OpenStream, deferred, failed, scored, settle


async def take_group(stream: Stream, consumer: str = "w1", **more: Any) -> list[str]:
    return ids(await claim_group(stream, consumer, **more))


async def claim_group(stream: Stream, consumer: str = "w1", **more: Any) -> list[Claim]:
    asked = {"max_samples": 8, "lease_s": LEASE_S, **more}
    return await stream.claim("count", consumer=consumer, whole_groups=True, **asked)


def ids(claims: list[Claim]) -> list[str]:
    return sorted(claim.sample.sample_id for claim in claims)


def all_of(group_id: str, size: int = 3) -> list[str]:
    return [f"{group_id}/{index}" for index in range(size)]


async def test_one_whole_group_a_claim_each_once(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    for group_id in ("g1", "g2", "g3"):
        await stream.enqueue(make_group(group_id, size=3), oracles=["count"])
    claims = await claim_group(stream)
    assert ids(claims) == all_of("g1")
    assert {(claim.attempts, claim.deliveries) for claim in claims} == {(0, 1)}
    assert await take_group(stream, "w2") == all_of("g2")
    assert await take_group(stream) == all_of("g3")
    assert await take_group(stream) == []
    assert (await stream.depth("count")).pending == 9
    assert await settle(stream, *map(scored, claims)) == (3, 0, 0)
    assert (await stream.outcomes("g1", "count")).complete
    assert await take_group(stream, "w2") == []


async def test_a_lease_that_expired_takes_the_whole_group_along(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=3), oracles=["count"])
    claims = await claim_group(stream, "dies")
    await asyncio.sleep(0.03)
    assert await take_group(stream, "w2") == []
    again = await claim_group(stream, "w2", lease_s=0.02, begun_only=True)
    assert ids(again) == all_of("g1")
    assert {claim.deliveries for claim in again} == {2}
    assert await stream.heartbeat("count", consumer="dies", claims=claims, lease_s=LEASE_S) == []


async def test_a_group_handed_back_comes_when_all_of_it_is_due(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=3), oracles=["count"])
    await stream.enqueue(make_group("g2", size=3), oracles=["count"])
    first, second, third = await claim_group(stream)
    why = failed(first, code="timeout")[1]
    for claim, delay_s in ((first, 0.0), (second, 0.3)):
        assert await stream.retry("count", consumer="w1", claim=claim, failure=why, delay_s=delay_s)
    assert await take_group(stream, "w2", begun_only=True) == []  # one is not due, one still under lease
    assert await stream.retry("count", consumer="w1", claim=third, failure=why, delay_s=0.0)
    assert await take_group(stream, "w2", begun_only=True) == []
    await asyncio.sleep(0.35)
    again = await claim_group(stream, "w2", begun_only=True)
    assert ids(again) == all_of("g1")
    assert {(claim.attempts, claim.deliveries) for claim in again} == {(1, 2)}
    assert await take_group(stream, "w2", begun_only=True) == []  # the other group never began
    assert await take_group(stream, "w2") == all_of("g2")


async def test_a_group_that_is_too_large_or_broken_is_refused(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group("large", size=4), oracles=["count"])
    await stream.enqueue(make_group("g1", size=3), oracles=["count"])
    claims = await claim_group(stream, max_samples=3)
    assert ids(claims) == all_of("g1")
    for failure in (await stream.outcomes("large", "count")).results.values():
        assert isinstance(failure, ScoreFailure)
        assert (failure.code, failure.retryable) == ("oracle_error", False)
        assert "this one has 4 samples; at most 3 fit in one request: send smaller groups" in failure.detail
    await settle(stream, scored(claims[0]), scored(claims[1]), failed(claims[2]))
    letters = await stream.dead_letters("count", 10)
    assert len(letters) == 5
    assert await stream.requeue("count", letters[0].letter_id)
    assert not (await stream.outcomes("g1", "count")).complete
    assert await take_group(stream) == []  # nobody could ask about a third of it
    outcome = await stream.outcomes("g1", "count")
    assert outcome.complete
    (failure,) = (result for result in outcome.results.values() if isinstance(result, ScoreFailure))
    assert "others of this one have outcomes or are deferred" in failure.detail
    assert (await stream.depth("count")).bytes_in_use == 0


async def test_what_is_deferred_is_not_asked_again(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=3), oracles=["count"])
    claims = await claim_group(stream)
    assert await settle(stream, *map(deferred, claims)) == (0, 0, 3)
    assert await take_group(stream) == []
    assert await stream.settle_late("count", group_id="g1", result=scored(claims[0])[1], version="1")
    await stream.forget("g1")
    assert await take_group(stream) == []


async def test_stale_and_poisonous_groups_end_whole(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(max_staleness=0, max_deliveries=1)
    await stream.enqueue(make_group("old", size=3), oracles=["count"])
    await stream.set_policy_version(1)
    await stream.enqueue(make_group("new", size=3, policy_version=1), oracles=["count"])
    assert await take_group(stream, "dies") == all_of("new")
    assert {result.code for result in (await stream.outcomes("old", "count")).results.values()} == {"stale"}
    await asyncio.sleep(0.03)
    assert await take_group(stream, lease_s=0.02) == []
    assert {result.code for result in (await stream.outcomes("new", "count")).results.values()} == {"poison"}


async def test_consumers_at_once_never_share_a_group(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await asyncio.gather(*(stream.enqueue(make_group(f"g{i}", size=3), oracles=["count"]) for i in range(10)))
    taken = await asyncio.gather(*(take_group(stream, f"w{index}") for index in range(12)))
    groups = sorted(one[0].partition("/")[0] for one in taken if one)
    assert groups == sorted(f"g{index}" for index in range(10))
    assert {len(one) for one in taken} == {0, 3}
