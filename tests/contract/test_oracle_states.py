"""What the state of an oracle in the registry means to workers that are running: active, paused, draining."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from reward_workers.settings import WorkerSettings
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import OracleEndpoint, Scored
from rewardmesh.wire.registry import MemoryRegistry
from tests.contract.workers import FAST, World, completed, endpoint_of, group_of, until, working
from tests.oracle_server import Call, OracleServer, Response, reply


async def test_a_paused_oracle_gets_nothing_until_it_is_active(world: World, oracle: OracleServer) -> None:
    await world.registry.put_oracle(endpoint_of(oracle, state="paused"))
    assert (await world.stream.enqueue(group_of("g1"), oracles=["object_count"]))["object_count"].accepted
    async with working(world.worker()) as worker:
        await asyncio.sleep(3 * FAST.discover_every_s + 0.5)
        assert worker.pumps == []
        assert (await world.stream.depth("object_count")).lag == 4
        await world.registry.put_oracle(endpoint_of(oracle))
        await completed(world.stream, "g1")
    assert set(oracle.asked.values()) == {1}


async def test_a_draining_oracle_finishes_what_was_claimed(world: World, oracle: OracleServer) -> None:
    asked = asyncio.Event()
    draining = asyncio.Event()

    async def first_fails(call: Call) -> Response:
        if asked.is_set():
            return reply(call)
        asked.set()
        await draining.wait()
        return Response(b"", 500)

    oracle.answer = first_fails
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        await asked.wait()
        await world.stream.enqueue(group_of("g2"), oracles=["object_count"])
        await world.registry.put_oracle(endpoint_of(oracle, state="draining"))
        await asyncio.sleep(3 * FAST.discover_every_s + 0.2)
        draining.set()  # the call fails, and its retries come after the drain began
        outcome = await completed(world.stream, "g1")
        assert all(isinstance(result, Scored) for result in outcome.results.values())
        await world.stream.enqueue(group_of("g3"), oracles=["object_count"])
        await asyncio.sleep(0.5)
        depth = await world.stream.depth("object_count")
        assert (depth.lag, depth.pending, depth.retrying) == (8, 0, 0)  # new groups wait, nothing is lost
        await world.registry.put_oracle(endpoint_of(oracle))
        await completed(world.stream, "g3")
    assert not (await world.stream.dead_letters("object_count", 9))


async def test_a_secret_is_sent_and_a_new_one_is_picked_up(world: World, oracle: OracleServer) -> None:
    registry = world.registry
    await registry.put_oracle(endpoint_of(oracle))
    async with working(world.worker()):
        for group_id, secret in (("g1", "the first secret of it"), ("g2", "another secret of it")):
            await registry.put_secret("object_count", secret.replace(" ", "-"))
            await asyncio.sleep(3 * FAST.discover_every_s + 0.2)
            await world.stream.enqueue(group_of(group_id), oracles=["object_count"])
            await completed(world.stream, group_id)
    sent = [call.headers["authorization"] for call in oracle.calls]
    assert sent == ["Bearer the-first-secret-of-it", "Bearer another-secret-of-it"]


class Watched(MemoryRegistry):
    """Counts how often its oracles are read."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def oracles(self) -> list[OracleEndpoint]:
        self.looks += 1
        return await super().oracles()


async def test_a_change_is_picked_up_at_the_next_look(oracle: OracleServer) -> None:
    """Counted in looks, not in seconds, so that a slow machine is no failure; looks are two seconds apart at most."""
    with pytest.raises(ValidationError):
        WorkerSettings(discover_every_s=2.1)
    registry = Watched()
    world = World(MemoryStream("r1"), registry)
    await registry.put_run("r1")
    async with working(world.worker()) as worker:
        for state, pumps in (("active", 1), ("paused", 0), ("draining", 1), ("active", 1)):
            await registry.put_oracle(endpoint_of(oracle, state=state))
            looks = registry.looks
            await until(lambda looks=looks: registry.looks > looks + 1)
            assert len(worker.pumps) == pumps
