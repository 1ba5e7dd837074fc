"""What only a server can get wrong: memory that grows, deaths in the wrong moment, entries deleted under a lease."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from importlib import resources
from typing import Any, cast
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import connect, describe
from rewardmesh.wire.errors import BufferUnavailable
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.redis_stream import RedisStream, open_redis_stream
from rewardmesh.wire.stream import Claim, Group, SettleReport, StreamSettings

MakeGroup = Callable[..., Group]


@pytest.fixture
def run_id() -> str:
    return f"run-{uuid4().hex[:12]}"


def scored(claims: list[Claim]) -> list[tuple[Claim, Any]]:
    return [(claim, Scored(sample_id=claim.sample.sample_id, reward=1.0)) for claim in claims]


async def take(stream: RedisStream, *, consumer: str = "w1", lease_s: float = 30) -> list[Claim]:
    return await stream.claim("count", consumer=consumer, max_samples=64, lease_s=lease_s)


async def keys_of(client: Redis, run_id: str) -> set[str]:
    keys = await client.keys(names.prefix(run_id).replace("{", "\\{") + "*")
    return {names.text(key) for key in keys}


@pytest.mark.timeout(180)
async def test_nothing_grows_with_the_length_of_a_run(client: Redis, run_id: str, make_group: MakeGroup) -> None:
    stream = open_redis_stream(client, run_id)
    keys, memory = [], []
    for batch in range(0, 2000, 50):
        group_ids = [f"g{index}" for index in range(batch, batch + 50)]
        groups = [make_group(group_id, size=1, picture_bytes=2000) for group_id in group_ids]
        await asyncio.gather(*(stream.enqueue(group, oracles=["count"]) for group in groups))
        claims = await take(stream)
        assert await stream.settle("count", consumer="w1", outcomes=scored(claims), version="1") == SettleReport(
            settled=50
        )
        await asyncio.gather(*map(stream.forget, group_ids))
        if batch in {100, 1950}:
            keys.append(await keys_of(client, run_id))
            sizes = [await client.memory_usage(key, samples=0) for key in keys[-1] if not key.endswith("results")]
            memory.append(sum(size or 0 for size in sizes))
    assert keys[0] == keys[1]
    assert memory[1] < memory[0] + 1000
    assert await client.xlen(names.run_key(run_id, "results")) == 2000  # trimmed at about ten thousand


async def test_every_key_is_documented_and_expires(client: Redis, run_id: str, make_group: MakeGroup) -> None:
    stream = open_redis_stream(client, run_id, settings=StreamSettings(group_ttl_s=50))
    await stream.set_policy_version(1)
    await stream.enqueue(make_group(size=3), oracles=["count"])
    claims = await take(stream)
    await stream.settle("count", consumer="w1", outcomes=scored(claims[:1]), version="1")
    for key in await keys_of(client, run_id):
        kind = key.removeprefix(names.prefix(run_id)).partition(":")[0]
        assert kind in names.RUN_KEYS | names.KEY_KINDS, key
        assert 0 < await client.pttl(key) <= 200_000, key
    lua = resources.files("rewardmesh.wire") / "lua"
    for script in lua.iterdir():
        text = script.read_text()
        assert set(re.findall(r"\bkey\('(\w+)'", text)) <= set(names.KEY_KINDS), script.name
        assert set(re.findall(r"P \.\. '(\w+)'", text)) <= set(names.RUN_KEYS), script.name


async def test_an_entry_deleted_under_its_lease_is_let_go(client: Redis, run_id: str, make_group: MakeGroup) -> None:
    stream = open_redis_stream(client, run_id)
    await stream.enqueue(make_group(size=3), oracles=["count"])
    claims = await take(stream, consumer="dies")
    key = names.run_key(run_id, "stream", "count")
    await client.xdel(key, claims[1].entry_id)  # 6.2 answers nil for it, later versions drop it
    again = await take(stream, consumer="w2", lease_s=0)
    assert [claim.entry_id for claim in again] == [claims[0].entry_id, claims[2].entry_id]
    assert [claim.deliveries for claim in again] == [2, 2]
    assert cast("dict[str, Any]", await client.xpending(key, names.WORKERS))["pending"] == 2


async def test_entries_of_a_group_that_is_gone_are_dropped(client: Redis, run_id: str, make_group: MakeGroup) -> None:
    stream = open_redis_stream(client, run_id)
    await stream.enqueue(make_group("gone"), oracles=["count"])
    await stream.enqueue(make_group("here"), oracles=["count"])
    await client.delete(names.run_key(run_id, "group", "gone"), names.run_key(run_id, "blobs", "gone"))
    assert {claim.sample.group_id for claim in await take(stream)} == {"here"}
    assert await client.xlen(names.run_key(run_id, "stream", "count")) == 2


async def test_consumers_that_are_long_gone_are_removed(client: Redis, run_id: str, make_group: MakeGroup) -> None:
    stream = open_redis_stream(client, run_id)
    await stream.enqueue(make_group(), oracles=["count"])
    for index in range(5):
        await stream.claim("count", consumer=f"w{index}", max_samples=1 if index == 0 else 9, lease_s=30)
    key = names.run_key(run_id, "stream", "count")
    script = (resources.files("rewardmesh.wire") / "lua" / "claim.lua").read_text()
    assert "CONSUMER_IDLE = 256, 60000, 600000" in script
    common = (resources.files("rewardmesh.wire") / "lua" / "common.lua").read_text()
    impatient = client.register_script(common + script.replace("60000, 600000", "-1, -1"))
    await impatient(keys=[names.prefix(run_id)], args=[stream._settings_json, "count", "last", 1, 30_000])
    left = {names.text(consumer["name"]) for consumer in await client.xinfo_consumers(key, names.WORKERS)}
    assert left - {"last"} == {"w0", "w1"}  # those with something pending stay


@pytest.mark.parametrize("name", ["valkey-9.1", "redis-6.2", "redis-8.2"])
async def test_a_server_killed_with_9_keeps_what_it_acknowledged(
    name: str, run_id: str, new_server: Callable[..., Any], make_group: MakeGroup
) -> None:
    server = new_server(name, "--appendfsync", "always")
    client = await connect(server.url)
    stream = open_redis_stream(client, run_id)
    await stream.enqueue(make_group("g1"), oracles=["count"])
    await stream.enqueue(make_group("g2"), oracles=["count"])
    claims = await take(stream)
    await stream.settle("count", consumer="w1", outcomes=scored(claims[:2]), version="1")
    server.kill()
    with pytest.raises(BufferUnavailable) as caught:
        await stream.groups()
    assert caught.value.retryable
    server.start()
    assert (await stream.outcomes("g1", "count")).complete
    assert not (await stream.outcomes("g2", "count")).complete
    assert (await stream.enqueue(make_group("g2"), oracles=["count"]))["count"].accepted
    again = await take(stream, consumer="w2", lease_s=0)
    assert [claim.sample for claim in again] == [claim.sample for claim in claims[2:]]
    assert (await stream.depth("count")).bytes_in_use == 200
    await client.aclose()


async def test_the_server_says_what_it_is(client: Redis, server: Any) -> None:
    info = await describe(client)
    assert (info.maxmemory_policy, info.aof, info.fsync) == ("noeviction", True, "everysec")
    assert "second" in info.durability
    assert info.version.startswith(("6.2.", "8.2.", "9.1."))


async def test_an_upload_that_expired_is_said(client: Redis, run_id: str) -> None:
    stream = open_redis_stream(client, run_id)
    sample = ("s1", 10, "image/png", 0, "{}")
    with pytest.raises(BufferUnavailable, match="uploaded pictures are gone"):
        await stream._call("enqueue", "g1", names.run_key(run_id, "stage", "gone"), 10, 1, "count", *sample)
