"""What every registry promises: in memory, and on every server version that a package brings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from rewardmesh.wire.breaker import BreakerState
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import UnknownOracle
from rewardmesh.wire.messages import BreakerBounds, OracleEndpoint, RetryBound
from rewardmesh.wire.registry import MemoryRegistry, OracleRegistry, Registry
from tests.contract.conftest import SERVERS, Server

OpenRegistry = Callable[[], OracleRegistry]
LONG = BreakerBounds(failures_to_open=2, open_s=30, max_open_s=60)
SHORT = BreakerBounds(failures_to_open=2, open_s=0.05, max_open_s=0.12)


@pytest.fixture(params=["memory", *SERVERS])
async def open_registry(
    request: pytest.FixtureRequest, servers: Callable[[str], Server]
) -> AsyncIterator[OpenRegistry]:
    """Opens views of one registry, as several processes would."""
    if request.param == "memory":
        registry = MemoryRegistry()
        yield lambda: registry
        return
    client = await connect(servers(request.param).url)
    await client.flushdb()
    yield lambda: Registry(client)
    await client.aclose()


def endpoint(name: str = "count", **more: Any) -> OracleEndpoint:
    return OracleEndpoint(name=name, url="http://127.0.0.1:8000/count", max_batch=16, **more)


async def fail(
    registry: OracleRegistry, times: int = 1, *, caller: str = "w1", bounds: BreakerBounds = SHORT, **more: Any
) -> BreakerState:
    for _ in range(times):
        state = await registry.breaker_failed("count", caller=caller, bounds=bounds, **more)
    return state


async def enter(registry: OracleRegistry, caller: str) -> bool:
    return (await registry.breaker_enter("count", caller=caller, probe_s=60)).admits(caller)


async def is_due(registry: OracleRegistry) -> None:
    """Returns when the breaker lets somebody probe."""
    while True:
        wait_s = (await registry.breaker("count")).wait_s
        if wait_s == 0:
            return
        await asyncio.sleep(wait_s)


async def test_a_name_is_added_once(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    wanted = [endpoint(version=str(index)) for index in range(5)]
    added = await asyncio.gather(*(open_registry().add_oracle(one) for one in wanted))
    assert sum(added) == 1
    assert await registry.oracle("count") == wanted[added.index(True)]
    await registry.remove_oracle("count")
    assert await registry.add_oracle(wanted[4])


async def test_what_is_put_is_seen_by_all(open_registry: OpenRegistry) -> None:
    full = endpoint(
        version="3",
        dialect="kserve",
        options={"model": "m", "nested": [1, {"a": None}]},
        retries={"timeout": RetryBound(max_attempts=2, budget_s=9.0)},
        breaker=SHORT,
        state="draining",
    )
    await open_registry().put_oracle(endpoint("b"))
    await open_registry().put_oracle(endpoint())
    await open_registry().put_oracle(full)
    assert await open_registry().oracles() == [endpoint("b"), full]
    assert await open_registry().oracle("count") == full


async def test_an_unknown_oracle_is_said(open_registry: OpenRegistry) -> None:
    with pytest.raises(UnknownOracle, match="nobody"):
        await open_registry().oracle("nobody")
    with pytest.raises(UnknownOracle, match="nobody"):
        await open_registry().put_secret("nobody", "s")
    await open_registry().remove_oracle("nobody")


async def test_a_secret_is_kept_beside_the_oracle(open_registry: OpenRegistry) -> None:
    await open_registry().put_oracle(endpoint())
    assert await open_registry().secret("count") is None
    await open_registry().put_secret("count", "s3cret")
    assert await open_registry().secret("count") == "s3cret"
    assert "s3cret" not in str(await open_registry().oracles())
    await open_registry().put_oracle(endpoint(state="paused"))
    assert await open_registry().secret("count") == "s3cret"  # an update keeps it
    await open_registry().put_secret("count", None)
    assert await open_registry().secret("count") is None
    await open_registry().put_secret("count", "again")
    await open_registry().remove_oracle("count")
    await open_registry().put_oracle(endpoint())
    assert await open_registry().secret("count") is None  # another oracle of that name does not inherit it
    await open_registry().put_oracle(endpoint(), secret="known from the first look on")
    assert await open_registry().secret("count") == "known from the first look on"


async def test_runs_that_are_alive(open_registry: OpenRegistry) -> None:
    for run_id in ("b", "a"):
        await open_registry().put_run(run_id)
    assert await open_registry().runs() == ["a", "b"]
    await open_registry().end_run("a")
    assert await open_registry().runs() == ["b"]


async def test_a_breaker_opens_after_failures_in_a_row(open_registry: OpenRegistry) -> None:
    one, two = open_registry(), open_registry()
    assert (await two.breaker("count")).kind == "closed"
    await fail(one, bounds=LONG)
    await two.breaker_succeeded("count")  # so the next is the first of a row
    assert (await fail(one, bounds=LONG)).kind == "closed"
    state = await fail(two, caller="w2", bounds=LONG)
    assert (state.kind, state.failures) == ("open", 2)
    assert 0 < (await one.breaker("count")).wait_s <= 30
    assert not await enter(one, "w1")


async def test_one_caller_probes(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    await fail(registry, 2)
    await is_due(registry)
    entered = await asyncio.gather(*(enter(open_registry(), f"w{index}") for index in range(9)))
    assert sum(entered) == 1
    assert (await registry.breaker("count")).kind == "probing"
    await registry.breaker_succeeded("count")
    assert all(await asyncio.gather(*(enter(open_registry(), f"w{index}") for index in range(9))))
    assert (await registry.breaker("count")).kind == "closed"


async def test_a_failed_probe_opens_for_longer_up_to_a_bound(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    bounds = BreakerBounds(failures_to_open=2, open_s=0.1, max_open_s=40)
    await fail(registry, 2, bounds=bounds)
    await is_due(registry)
    assert await enter(registry, "w1")
    slow = bounds.model_copy(update={"open_s": 10.0})
    assert 10 < (await fail(registry, bounds=slow)).wait_s <= 20  # 10 s, doubled
    await registry.breaker_succeeded("count")
    assert (await fail(registry, 2, bounds=slow.model_copy(update={"max_open_s": 4.0}))).wait_s <= 4


async def test_a_late_failure_of_another_caller_does_not_end_the_probe(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    await fail(registry, 2)
    await is_due(registry)
    assert await enter(registry, "w1")
    state = await fail(registry, caller="w2")  # it was asked before the breaker opened
    assert (state.kind, state.prober) == ("probing", "w1")


async def test_a_prober_that_dies_loses_the_probe(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    await fail(registry, 2)
    await is_due(registry)
    assert (await registry.breaker_enter("count", caller="dies", probe_s=0.5)).admits("dies")
    await is_due(registry)
    assert await enter(registry, "w2")
    assert not await enter(registry, "dies")


async def test_a_probe_given_back_is_the_next_ones(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    await fail(registry, 2)
    await is_due(registry)
    assert await enter(registry, "w1")
    await registry.breaker_leave("count", caller="w2")  # not its own
    assert not await enter(registry, "w2")
    await registry.breaker_leave("count", caller="w1")
    assert await enter(registry, "w2")


async def test_an_oracle_that_asks_to_be_left_alone_is(open_registry: OpenRegistry) -> None:
    registry = open_registry()
    state = await fail(registry, bounds=LONG, retry_after_s=50)
    assert state.kind == "open"
    assert 35 < state.wait_s <= 50
    await registry.put_oracle(endpoint())  # registered anew: worth another try
    assert 45 < (await fail(registry, bounds=LONG, retry_after_s=3600)).wait_s <= 60


async def test_the_registry_survives_its_server(new_server: Callable[..., Any]) -> None:
    server = new_server("valkey-9.1", "--appendfsync", "always")
    client = await connect(server.url)
    registry, name = Registry(client), f"o{uuid4().hex[:6]}"
    await registry.put_oracle(endpoint(name, version="7", state="paused"))
    await registry.put_secret(name, "s3cret")
    await registry.put_run("r1")
    await registry.breaker_failed(name, caller="w", bounds=BreakerBounds(failures_to_open=1, open_s=30))
    await client.aclose()
    server.kill()
    server.start()
    client = await connect(server.url)
    registry = Registry(client)
    assert await registry.oracle(name) == endpoint(name, version="7", state="paused")
    assert (await registry.secret(name), await registry.runs()) == ("s3cret", ["r1"])
    assert (await registry.breaker(name)).kind == "open"
    await client.aclose()
