"""Amendments on their way, on every implementation: one for each oracle, pending until it is ruled on."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.amendments import Amendment, RedisAmendments
from rewardmesh.wire.oracle_use import OracleUse
from tests.contract.conftest import OpenStream


def wish(name: str, amendment_id: str, at: float = 1.0, **use: Any) -> Amendment:
    return Amendment(amendment_id=amendment_id, use=OracleUse(name=name, **use), requested_unix_s=at)


async def test_what_is_asked_for_stands_until_it_is_ruled_on(open_stream: OpenStream) -> None:
    asking, trainer = open_stream().amendments, open_stream().amendments
    first = wish("people", "1", weight=2.0)
    assert await asking.ask(first) == first
    assert await asking.ask(wish("people", "2")) == first  # the one that stands is told, whatever is asked now
    other = await asking.ask(wish("sharpness", "3", at=0.5))
    assert await trainer.all() == [other, first]
    taken, refused = first.model_copy(update={"from_iteration": 7}), other.model_copy(update={"refused": "unknown"})
    for _ in range(2):
        await trainer.rule(taken)
        await trainer.rule(refused)
    assert await asking.all() == [refused, taken]
    assert await asking.ask(wish("people", "4")) == taken
    again = wish("sharpness", "5", at=9.0)
    assert await asking.ask(again) == again  # a refusal is not for ever
    assert await asking.all() == [taken, again]


async def test_of_many_who_ask_at_once_one_is_first(open_stream: OpenStream) -> None:
    asked = [wish(f"o{index % 4}", f"{index}") for index in range(32)]
    told = await asyncio.gather(*(open_stream().amendments.ask(one) for one in asked))
    stand = await open_stream().amendments.all()
    assert len(stand) == 4
    assert {one.amendment_id for one in told} == {one.amendment_id for one in stand}


async def test_one_that_cannot_be_read_is_passed_over(client: Redis) -> None:
    amendments = RedisAmendments(client, "run-read")
    await client.hset(names.run_key("run-read", "amendments"), mapping={"people": "{}", "old": b"\xff"})
    assert await amendments.all() == []
    assert await amendments.ask(wish("people", "1")) == wish("people", "1")
    assert 0 < await client.ttl(names.run_key("run-read", "amendments")) <= 4 * 86400
