"""One contract, held by the stream in memory and by the stream on every server."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest

from rewardmesh.wire.errors import BufferFull, ProtocolError, UnknownGroup
from rewardmesh.wire.messages import Scored, ScoreFailure
from rewardmesh.wire.stream import Group, Provenance
from tests.contract.streams import LEASE_S, MakeGroup, OpenStream, deferred, failed, scored, settle, take


async def test_a_group_there_and_back(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    group = make_group(size=3)
    admissions = await stream.enqueue(group, oracles=["count", "spelling"])
    assert [admissions[oracle].accepted for oracle in ("count", "spelling")] == [True, True]
    assert admissions["count"].bytes_in_use == 300

    claims = await take(stream)
    assert [claim.sample for claim in claims] == [request.sample for request in group.requests]
    assert [claim.picture for claim in claims] == [request.picture for request in group.requests]
    assert [claim.hint for claim in claims] == [0.25, None, None]
    assert {(claim.attempts, claim.deliveries) for claim in claims} == {(0, 1)}
    assert not (await stream.outcomes("g1", "count")).complete

    assert await settle(stream, *(scored(claim) for claim in claims[:2]), version="v7") == (2, 0, 0)
    assert await settle(stream, failed(claims[2]), version="v7") == (1, 0, 0)
    outcome = await stream.outcomes("g1", "count")
    assert outcome.complete
    assert outcome.version == "v7"
    assert outcome.results == {
        "g1/0": scored(claims[0])[1],
        "g1/1": scored(claims[1])[1],
        "g1/2": failed(claims[2])[1],
    }
    assert not (await stream.outcomes("g1", "spelling")).complete  # a late oracle never holds back a quick one
    assert (await stream.completions())[0] == [("g1", "count")]
    assert (await stream.depth("count")).bytes_in_use == 0
    assert (await stream.depth("spelling")).bytes_in_use == 300

    assert await stream.groups() == ["g1"]
    await stream.forget("g1")
    await stream.forget("g1")
    assert await stream.groups() == []
    assert (await stream.depth("spelling")).bytes_in_use == 0
    with pytest.raises(UnknownGroup):
        await stream.outcomes("g1", "count")


async def test_every_outcome_says_where_it_is_from(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    webp, raw, png, _ = make_group(size=4).requests
    requests = (replace(webp, media_type="image/webp"), raw, replace(png, media_type="image/png"), _)
    await stream.enqueue(Group(group_id="g1", requests=requests), oracles=["count", "spelling"])
    claims = await take(stream)
    await settle(stream, scored(claims[0]), deferred(claims[3]), version="v1")
    await settle(stream, scored(claims[1]), version="v2")
    await settle(stream, failed(claims[2]), version="")  # it never answered
    outcome = await stream.outcomes("g1", "count")
    assert outcome.provenance == {
        "g1/0": Provenance(version="v1", media_type="image/webp"),
        "g1/1": Provenance(version="v2", media_type=raw.media_type),
        "g1/2": Provenance(version="", media_type="image/png"),
        "g1/3": Provenance(version="v1", media_type=raw.media_type),
    }
    await stream.settle_late("count", group_id="g1", result=scored(claims[3])[1], version="v3")
    assert (await stream.outcomes("g1", "count")).provenance["g1/3"].version == "v3"
    assert (await stream.outcomes("g1", "spelling")).provenance == {}


async def test_enqueue_is_idempotent(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    for _ in range(3):
        assert (await stream.enqueue(make_group(), oracles=["count"]))["count"].accepted
    assert (await stream.depth("count")).lag == 2
    claims = await take(stream)
    await settle(stream, *map(scored, claims))
    assert (await stream.enqueue(make_group(), oracles=["count"]))["count"].accepted
    assert await take(stream) == []


async def test_a_full_oracle_refuses_the_whole_group_for_itself_only(
    open_stream: OpenStream, make_group: MakeGroup
) -> None:
    stream = open_stream(budget_bytes=450)
    await stream.enqueue(make_group("g1"), oracles=["count", "spelling"])
    await stream.enqueue(make_group("g2"), oracles=["count"])
    admissions = await stream.enqueue(make_group("g3"), oracles=["count", "spelling"])
    assert (admissions["count"].accepted, admissions["spelling"].accepted) == (False, True)
    assert (admissions["count"].bytes_in_use, admissions["count"].budget_bytes) == (400, 450)
    with pytest.raises(UnknownGroup):
        await stream.outcomes("g3", "count")
    await settle(stream, *map(scored, await take(stream)))
    assert (await stream.enqueue(make_group("g3"), oracles=["count"]))["count"].accepted
    assert [claim.picture for claim in await take(stream)] == [r.picture for r in make_group("g3").requests]


@pytest.mark.parametrize("oracles", [[], ["count", "count"]])
async def test_what_cannot_be_enqueued(open_stream: OpenStream, make_group: MakeGroup, oracles: list[str]) -> None:
    stream = open_stream(budget_bytes=100)
    with pytest.raises(ProtocolError):
        await stream.enqueue(make_group(), oracles=oracles)
    with pytest.raises(ProtocolError):
        await stream.enqueue(make_group(size=0), oracles=["count"])
    with pytest.raises(ProtocolError, match="another group"):
        await stream.enqueue(Group(group_id="g2", requests=make_group("g1").requests), oracles=["count"])
    with pytest.raises(BufferFull, match="never fit"):
        await stream.enqueue(make_group(), oracles=["count"])


async def test_an_oracle_that_comes_late_gets_the_pictures(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(), oracles=["count"])
    claims = await take(stream)
    await settle(stream, scored(claims[0]))
    await stream.enqueue(make_group(), oracles=["count", "spelling"])
    late = await stream.claim("spelling", consumer="w1", max_samples=9, lease_s=LEASE_S)
    assert [claim.picture for claim in late] == [request.picture for request in make_group().requests]
    assert (await stream.depth("count")).bytes_in_use == 100


async def test_claims_are_exclusive_and_in_order(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group("g1", size=3), oracles=["count"])
    await stream.enqueue(make_group("g2", size=3), oracles=["count"])
    first = await take(stream, 2, consumer="a")
    second = await take(stream, 9, consumer="b")
    assert [claim.sample.sample_id for claim in first + second] == [f"g{g}/{i}" for g in (1, 2) for i in range(3)]
    assert await take(stream, consumer="c") == []
    assert await stream.claim("unheard-of", consumer="c", max_samples=1, lease_s=1) == []


async def test_a_waiting_claim_wakes_up(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    began = time.monotonic()
    assert await stream.claim("count", consumer="w1", max_samples=1, lease_s=LEASE_S, wait_s=0.1) == []
    assert time.monotonic() - began >= 0.09
    waiting = asyncio.create_task(stream.claim("count", consumer="w1", max_samples=9, lease_s=LEASE_S, wait_s=20))
    await asyncio.sleep(0.05)
    await stream.enqueue(make_group(), oracles=["count"])
    assert len(await asyncio.wait_for(waiting, 15)) == 2


async def test_a_run_says_how_far_its_training_is(open_stream: OpenStream) -> None:
    stream = open_stream()
    await stream.set_policy_version(7)
    assert await stream.iteration() is None
    for iteration in (5, 3):  # resumed from an earlier checkpoint
        await stream.set_iteration(iteration)
        assert await stream.iteration() == iteration


async def test_stale_samples_are_settled_without_asking(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(max_staleness=2)
    await stream.set_policy_version(5)
    await stream.set_policy_version(1)
    await stream.enqueue(make_group("old", policy_version=2), oracles=["count"])
    await stream.enqueue(make_group("new", policy_version=3), oracles=["count"])
    assert {claim.sample.group_id for claim in await take(stream)} == {"new"}
    outcome = await stream.outcomes("old", "count")
    assert outcome.complete
    assert {result.code for result in outcome.results.values() if isinstance(result, ScoreFailure)} == {"stale"}
    depth = await stream.depth("count")
    assert (depth.bytes_in_use, depth.dead_letters) == (200, 0)
    assert (await stream.completions())[0] == [("old", "count")]


async def test_a_deferred_answer_comes_late(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(), oracles=["count"])
    claims = await take(stream)
    assert await settle(stream, deferred(claims[0]), scored(claims[1]), version="judge-1") == (1, 0, 1)
    assert await settle(stream, deferred(claims[0])) == (0, 1, 0)
    depth = await stream.depth("count")
    assert (depth.pending, depth.deferred, depth.bytes_in_use) == (0, 1, 0)
    outcome = await stream.outcomes("g1", "count")
    assert (outcome.complete, outcome.results["g1/0"].kind, outcome.version) == (False, "deferred", "judge-1")
    assert await take(stream, lease_s=0.0) == []

    answer = Scored(sample_id="g1/0", reward=1.0)
    assert await stream.settle_late("count", group_id="g1", result=answer, version="judge-2")
    assert not await stream.settle_late("count", group_id="g1", result=answer, version="judge-2")
    assert not await stream.settle_late("count", group_id="unknown", result=answer, version="judge-2")
    assert await settle(stream, deferred(claims[0])) == (0, 1, 0)
    outcome = await stream.outcomes("g1", "count")
    assert (outcome.complete, outcome.results["g1/0"], outcome.version) == (True, answer, "judge-2")
    assert (await stream.depth("count")).deferred == 0


async def test_a_deferral_ends_at_its_deadline(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count"])
    (claim,) = await take(stream)
    await settle(stream, deferred(claim, 0.6))
    assert not (await stream.outcomes("g1", "count")).complete
    await asyncio.sleep(0.65)
    result = (await stream.outcomes("g1", "count")).results["g1/0"]
    assert isinstance(result, ScoreFailure)
    assert result.code == "expired"
    (letter,) = await stream.dead_letters("count", 1)
    assert letter.picture == claim.picture
    assert not await stream.settle_late("count", group_id="g1", result=scored(claim)[1], version="1")


async def test_pictures_of_deferred_samples_have_their_own_budget(
    open_stream: OpenStream, make_group: MakeGroup
) -> None:
    stream = open_stream(budget_bytes=300, deferred_bytes=250)
    for group_id in ("g1", "g2", "g3"):
        assert (await stream.enqueue(make_group(group_id), oracles=["count"]))["count"].accepted
        for claim in await take(stream):
            await asyncio.sleep(0.005)
            await settle(stream, deferred(claim, 1.5))
    assert (await stream.depth("count")).deferred == 6
    await asyncio.sleep(1.55)
    for group_id in ("g1", "g2", "g3"):
        assert (await stream.outcomes(group_id, "count")).complete
    letters = await stream.dead_letters("count", 9)
    kept = {letter.sample.sample_id for letter in letters if letter.picture is not None}
    assert (len(letters), kept) == (6, {"g3/0", "g3/1"})


async def test_forget_in_every_state(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group("other", size=1), oracles=["count"])
    await stream.enqueue(make_group(size=5), oracles=["count"])
    other, leased, late, again, done = await take(stream, 5)
    await settle(stream, deferred(late), scored(done))
    assert await stream.retry("count", consumer="w1", claim=again, failure=failed(again)[1], delay_s=0)
    depth = await stream.depth("count")
    assert (depth.lag, depth.pending, depth.retrying, depth.deferred) == (1, 2, 1, 1)
    await stream.forget("g1")
    depth = await stream.depth("count")
    assert (depth.lag, depth.pending, depth.retrying, depth.deferred) == (0, 1, 0, 0)
    assert depth.bytes_in_use == 100
    assert await settle(stream, scored(leased), scored(other)) == (1, 1, 0)
    assert (await stream.depth("count")).settled == 2  # recorded, forgotten or not
    assert await take(stream, lease_s=0) == []
    assert await stream.groups() == ["other"]


async def test_what_nobody_forgets_expires(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(group_ttl_s=1.0)
    await stream.enqueue(make_group("old"), oracles=["count"])
    await take(stream, 1)
    await asyncio.sleep(1.05)
    await stream.enqueue(make_group("new"), oracles=["count"])
    assert await stream.groups() == ["new"]
    assert (await stream.depth("count")).bytes_in_use == 200
    assert {claim.sample.group_id for claim in await take(stream, lease_s=0)} == {"new"}


async def test_completions_are_read_on_from_a_cursor(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    assert await stream.completions() == ([], "0")
    for group_id in ("g1", "g2", "g3"):
        await stream.enqueue(make_group(group_id), oracles=["count"])
    claims = await take(stream, 6)
    await settle(stream, *map(scored, claims[2:]))
    pairs, cursor = await stream.completions(max_count=1)
    assert pairs == [("g2", "count")]
    pairs, cursor = await stream.completions(after=cursor)
    assert pairs == [("g3", "count")]
    assert await stream.completions(after=cursor, wait_s=0.05) == ([], cursor)
    waiting = asyncio.create_task(stream.completions(after=cursor, wait_s=20))
    await asyncio.sleep(0.03)
    await settle(stream, *map(scored, claims[:2]))
    assert (await asyncio.wait_for(waiting, 15))[0] == [("g1", "count")]


async def test_depth_tells_the_age_of_the_oldest(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    assert (await stream.depth("count")).oldest_pending_s == 0
    await stream.enqueue(make_group("g1"), oracles=["count"])
    await asyncio.sleep(0.1)
    await stream.enqueue(make_group("g2"), oracles=["count"])
    await take(stream, 1)
    depth = await stream.depth("count")
    assert (depth.lag, depth.pending) == (3, 1)
    assert 0.1 <= depth.oldest_pending_s < 5


async def test_settings_of_the_producer_hold_for_all(open_stream: OpenStream, make_group: MakeGroup) -> None:
    producer = open_stream(max_staleness=0, budget_bytes=777)
    await producer.set_policy_version(1)
    await producer.enqueue(make_group(), oracles=["count"])
    worker = open_stream()
    assert (await worker.depth("count")).budget_bytes == 777
    assert await take(worker) == []
    assert (await worker.outcomes("g1", "count")).complete


async def test_a_group_larger_than_one_command(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    group = make_group(size=6, picture_bytes=2_000_000)
    assert (await stream.enqueue(group, oracles=["count", "spelling"]))["spelling"].bytes_in_use == 12_000_000
    claims = await take(stream)
    assert [claim.picture for claim in claims] == [request.picture for request in group.requests]
    await settle(stream, *map(scored, claims))
    assert (await stream.outcomes("g1", "count")).complete


async def test_many_workers_that_vanish_lose_nothing_and_settle_nothing_twice(
    open_stream: OpenStream, make_group: MakeGroup
) -> None:
    stream = open_stream(max_deliveries=1000)
    group_ids = [f"g{index}" for index in range(25)]
    for group_id in group_ids:
        await stream.enqueue(make_group(group_id, size=4), oracles=["count", "spelling"])
    settled = 0

    async def worker(index: int) -> None:
        nonlocal settled
        rng, oracle = random.Random(index), ("count", "spelling")[index % 2]
        for life in range(1000):
            name = f"w{index}-{life}"
            claims = await stream.claim(oracle, consumer=name, max_samples=5, lease_s=0.03)
            if not claims:
                if all([(await stream.outcomes(group_id, oracle)).complete for group_id in group_ids]):
                    return
                await asyncio.sleep(0.01)
                continue
            fate = rng.random()
            if fate < 0.2:  # vanishes with its leases
                continue
            if fate < 0.3:
                await stream.retry(oracle, consumer=name, claim=claims[0], failure=failed(claims[0])[1], delay_s=0.01)
                claims = claims[1:]
            outcomes = [scored(claim) for claim in claims]
            report = await stream.settle(oracle, consumer=name, outcomes=outcomes, version="1")
            settled += report.settled  # after the await: others add to it meanwhile

    await asyncio.gather(*(worker(index) for index in range(6)))
    assert settled == 25 * 4 * 2
    pairs, _ = await stream.completions()
    assert sorted(pairs) == sorted((group_id, oracle) for group_id in group_ids for oracle in ("count", "spelling"))
    for oracle in ("count", "spelling"):
        depth = await stream.depth(oracle)
        assert (depth.lag, depth.pending, depth.retrying, depth.bytes_in_use) == (0, 0, 0, 0)
