"""What only a server can get wrong for the preference queue: keys that grow, deaths, answers lost on their way."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import BufferUnavailable, LeaseLost
from rewardmesh.wire.names import text
from services.preference import names, redis_records
from services.preference.model import Presentation, QueueSettings, Rater
from services.preference.pairing import comparisons_of
from services.preference.redis_queue import RedisQueue
from services.preference.redis_records import presentation_from
from tests.contract.conftest import Server
from tests.contract.preference import (
    PLAIN,
    Clock,
    add_gold,
    ask,
    choose,
    group_of,
    join,
    pictures_of,
    questions_of,
    said,
    shown,
    work,
)

OpenRedis = Callable[..., RedisQueue]
oldest = pytest.mark.parametrize("server", ["redis-6.2"], indirect=True)  # where servers do not differ


@pytest.fixture
def open_redis(client: Redis, clock: Clock) -> OpenRedis:
    """Opens a queue on each server in turn; opened again, another view of the same one."""
    name = uuid4().hex

    def open_one(**settings: Any) -> RedisQueue:
        return RedisQueue(client, QueueSettings(**(PLAIN | settings)), name=name, clock=clock, rng=Random(7))

    return open_one


async def keys_of(client: Redis, queue: RedisQueue) -> dict[str, int]:
    """Bytes by key, of all that the queue has on the server."""
    prefix = names.prefix(queue._name)
    keys = [text(key) for key in await client.keys(prefix.replace("{", "\\{") + "*")]
    return {key.removeprefix(prefix): await client.memory_usage(key, samples=0) or 0 for key in keys}


@pytest.mark.timeout(180)
@oldest
async def test_nothing_grows_with_the_number_of_groups(
    open_redis: OpenRedis, client: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_records, "MADE_KEPT", 20)
    monkeypatch.setattr(redis_records, "LATEST_KEPT", 20)
    queue = open_redis(gold_share=0.1, repeat_share=0.1, kept_bytes=1000, min_gold_rate=0)
    raters = ["ada", "bob"]
    await join(queue, *raters)
    await add_gold(queue, 3)
    keys: list[dict[str, int]] = []
    for index in range(1000):
        group = await ask(queue, f"g{index:04d}", num_bytes=200, accepted=clock.now, deadline_s=10)
        if index % 7 == 0:  # nobody answers in time
            if index % 2:
                await shown(queue)
            clock.pass_s(10)
        while not await queue.close_due():
            what = await shown(queue, raters[index % 2])
            if index % 10 == 0:
                await choose(queue, what)
                what = await queue.undo(rater_id=raters[index % 2])
            await choose(queue, what)
        await queue.settled(group.key)
        if index in {200, 999}:
            keys.append(await keys_of(client, queue))
    kinds = [sorted(re.sub("[0-9a-f]{64}|g[0-9]{4}", "", key) for key in found) for found in keys]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) < 50
    assert not {"open", "due", "waiting", "closed"} & set(kinds[1])
    assert sum(keys[1].values()) < 1.1 * sum(keys[0].values())


async def test_every_key_is_documented_and_shares_one_tag(open_redis: OpenRedis, client: Redis) -> None:
    queue = open_redis()
    await join(queue, "ada", "bob")
    await add_gold(queue, 1)
    done = await ask(queue, "g1", 1)
    await ask(queue, "g2", 3)
    await ask(queue, "g3", 1)
    await queue.close_due()
    await queue.settled(done.key)
    await work(queue)
    await shown(queue, "bob")
    kinds = {key.partition(":")[0] for key in await keys_of(client, queue)}
    assert kinds == set(names.QUEUE_KEYS) | set(names.KEYS_BY_NAME)
    lua = resources.files("services.preference") / "lua"
    for script in lua.iterdir():
        found = script.read_text()
        assert set(re.findall(r"\bkey\('(\w+)'", found)) <= set(names.KEYS_BY_NAME), script.name
        assert set(re.findall(r"P \.\. '(\w+)'", found)) <= set(names.QUEUE_KEYS), script.name
    with pytest.raises(ValueError, match="no such key"):
        names.queue_key("default", "group")


async def test_what_is_asked_for_again_on_a_lost_answer_is_done_once(open_redis: OpenRedis) -> None:
    """The client sends a call again if the connection breaks before its answer came."""
    queue = open_redis(max_leases=9)
    await join(queue, "ada")
    group = await ask(queue, "g1", 4)
    draw = ("question", "0.5", 0)
    first, again = [presentation_from(await queue._call("lease", "ada", "lease-1", *draw)) for _ in range(2)]
    assert first == again
    assert (await queue.depth()).leased == 1
    for lease_id in ("lease-1", "lease-2"):
        await queue._call("lease", "ada", lease_id, *draw)
        await queue.choose(lease_id, "left", rater_id="ada", choice_id=f"of {lease_id}", look_s=1)
    first, again = [presentation_from(await queue._call("undo", "ada", "lease-3")) for _ in range(2)]
    assert first == again
    assert len(await said(queue, group)) == 1


async def test_an_upload_that_expired_is_said(open_redis: OpenRedis, client: Redis) -> None:
    queue, pictures = open_redis(), pictures_of("g1")
    group = group_of("g1", pictures)

    async def loses(_: Any) -> None:
        """As if a minute had passed between the upload and the call."""

    upload, queue._upload = queue._upload, loses  # type: ignore[method-assign]
    with pytest.raises(BufferUnavailable, match="uploaded pictures are gone"):
        await queue.accept(group, pictures, questions_of(group))
    assert await keys_of(client, queue) == {}
    queue._upload = upload  # type: ignore[method-assign]
    assert await queue.accept(group, pictures, questions_of(group))
    assert await client.ttl(names.queue_key(queue._name, "picture", group.pictures[0].digest)) == -1


@oldest
async def test_a_long_way_past_what_a_rater_has_answered(open_redis: OpenRedis) -> None:
    queue = open_redis(raters_per_comparison=2, comparisons_per_group=500)
    await join(queue, "ada")
    pictures = pictures_of("g1", 40)
    group = group_of("g1", pictures)
    questions = comparisons_of(group, queue.settings)
    await queue.accept(group, pictures, questions)
    made = [(await work(queue)).comparison_id for _ in range(500)]
    assert made == [one.comparison_id for one in questions]
    assert (await queue.depth()).comparisons == 500  # each waits for a second rater


async def test_the_server_s_time_is_the_queue_s(client: Redis) -> None:
    """Without a clock of the caller's: leases end by the server's."""
    queue = RedisQueue(client, QueueSettings(**PLAIN, lease_s=0.2), name=uuid4().hex)
    await queue.join(Rater(rater_id="ada", invite_id="i", joined=0.0))
    seconds, micros = await client.time()
    await ask(queue, "g1", accepted=seconds, deadline_s=5)
    what = await shown(queue)
    assert 0.2 <= what.expires - (seconds + micros / 1e6) < 5
    while await queue.held("ada"):
        assert isinstance(what, Presentation)
    with pytest.raises(LeaseLost):
        await choose(queue, what)


@pytest.mark.parametrize("server", ["valkey-9.1", "redis-6.2", "redis-8.2"])
async def test_a_server_killed_with_9_keeps_every_saved_choice(
    server: str, new_server: Callable[..., Server], clock: Clock
) -> None:
    running = new_server(server)
    client = await connect(running.url)
    queue = RedisQueue(client, QueueSettings(**PLAIN), clock=clock, rng=Random(7))
    await join(queue, "ada")
    group = await ask(queue, "g1", 4)
    made = [await work(queue) for _ in range(3)]
    held = await shown(queue)
    answers = await queue.answers(group.key)
    running.kill()
    with pytest.raises(BufferUnavailable) as caught:
        await choose(queue, held, choice_id="c9")
    assert caught.value.retryable
    running.start()
    assert await queue.answers(group.key) == answers
    assert [one.comparison_id for one in answers] == [one.comparison_id for one in made]
    assert await queue.held("ada") == [held]
    assert (await choose(queue, held, choice_id="c9")).first_time
    assert not (await choose(queue, held, choice_id="c9")).first_time
    assert await queue.picture(group.pictures[0].digest) == pictures_of("g1")[0]
    await client.aclose()
