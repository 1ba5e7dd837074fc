"""Settling: answered or due, posted until it arrives, settled after that and not before. The gateway is a fake here;
the road through a real one is tests/unit/services/gateway/test_preference.py."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from rewardmesh.wire.errors import BufferUnavailable, GatewayUnavailable, ProtocolError, RewardmeshError
from rewardmesh.wire.messages import Scored, ScoreFailure
from services.preference.memory_queue import MemoryQueue
from services.preference.model import Group, QueueSettings
from services.preference.settling import Results, Settling
from tests.unit.services.preference.asking import NOW, accept, choose, rater


class Gateway:
    """Takes results, or raises what it was told to, once each."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.posted: list[Results] = []
        self.versions: set[str] = set()

    async def __call__(self, results: Results, *, version: str) -> int:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.posted.append(results)
        self.versions.add(version)
        return len(results)


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> MemoryQueue:
    return MemoryQueue(QueueSettings(gold_share=0, repeat_share=0), clock=clock)


async def answered(queue: MemoryQueue, group_id: str = "g1") -> Group:
    """A group of three, each pair answered for the brighter one."""
    group = await accept(queue, 3, group_id=group_id)
    ada = await rater(queue, "ada")
    for _ in range(3):
        await choose(queue, ada)
    return group


async def test_an_answered_group_is_posted_and_settled(queue: MemoryQueue) -> None:
    group, gateway = await answered(queue), Gateway()
    assert await Settling(queue, gateway, every_s=1).once() == 1
    (results,) = gateway.posted
    assert [sample for sample, _ in results] == [one.sample for one in group.pictures]
    scored = [result for _, result in results if isinstance(result, Scored)]
    rewards = [one.reward for one in scored]
    assert rewards == sorted(rewards)  # later ones are brighter
    assert rewards[0] < rewards[1] < rewards[2]
    said = {"num_answers": 2, "num_raters": 1, "alpha": None, "num_answers_of_group": 3, "num_raters_of_group": 1}
    assert scored[0].detail == said
    assert gateway.versions == {"bradley-terry.1"}
    assert [one.key for one in await queue.settled_groups()] == [group.key]
    assert await Settling(queue, gateway, every_s=1).once() == 0


async def test_at_its_deadline_a_group_rests_on_what_there_is(queue: MemoryQueue, clock: Clock) -> None:
    await accept(queue, 3, [(0, 1), (1, 2)], until=NOW + 60)
    await choose(queue, await rater(queue, "ada"))
    gateway = Gateway()
    settling = Settling(queue, gateway, every_s=1)
    assert await settling.once() == 0
    clock.now = NOW + 60
    assert await settling.once() == 1
    kinds = [type(result) for _, result in gateway.posted[0]]
    assert sorted(kinds, key=str) == sorted([Scored, Scored, ScoreFailure], key=str)
    (failure,) = [result for _, result in gateway.posted[0] if isinstance(result, ScoreFailure)]
    assert (failure.code, failure.retryable) == ("oracle_error", False)
    assert "nobody said anything" in failure.detail


async def test_what_did_not_arrive_is_not_settled_and_posted_again(queue: MemoryQueue) -> None:
    group, gateway = await answered(queue), Gateway(GatewayUnavailable("away", "http://gateway"))
    settling = Settling(queue, gateway, every_s=1)
    with pytest.raises(GatewayUnavailable):
        await settling.once()
    assert await queue.settled_groups() == []
    assert await settling.once() == 1
    assert [one.key for one in await queue.settled_groups()] == [group.key]


async def test_a_crash_between_post_and_settled_posts_the_same_again(
    queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(queue)
    gateway = Gateway()
    with monkeypatch.context() as broken:

        async def away(_: str) -> None:
            raise BufferUnavailable("away", "unix:///nowhere")

        broken.setattr(queue, "settled", away)
        with pytest.raises(BufferUnavailable):
            await Settling(queue, gateway, every_s=1).once()
    assert await Settling(queue, gateway, every_s=1).once() == 1
    assert gateway.posted[0] == gateway.posted[1]


async def test_a_group_that_is_refused_does_not_hold_back_the_others(queue: MemoryQueue) -> None:
    first, second = await answered(queue), await answered(queue, "g2")
    gateway = Gateway(ProtocolError("refused", "g1"))
    settling = Settling(queue, gateway, every_s=1)
    with pytest.raises(ProtocolError):
        await settling.once()
    assert [one.key for one in await queue.settled_groups()] == [second.key]
    assert await settling.once() == 1
    assert {one.key for one in await queue.settled_groups()} == {first.key, second.key}


async def test_it_goes_on_through_outages_with_growing_pauses(
    queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(queue)
    outages: list[RewardmeshError] = [GatewayUnavailable("away", "gateway")] * 4
    gateway = Gateway(*outages)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)
        if gateway.posted:
            raise asyncio.CancelledError

    monkeypatch.setattr("services.preference.settling.asyncio.sleep", note)
    with suppress(asyncio.CancelledError):
        await Settling(queue, gateway, every_s=2, draw=lambda: 1.0).run()
    assert pauses == [4.0, 8.0, 16.0, 32.0, 2.0]
    assert len(gateway.posted) == 1
