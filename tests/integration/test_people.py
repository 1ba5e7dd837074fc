"""People on the real stack: a trainer's group becomes choices over HTTP, and the choices its rewards."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from deploy.parts import PREFERENCE, oracle_url
from deploy.settings import Settings
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from tests.contract.workers import completed, until
from tests.integration.conftest import START_S, RunningStack, rewardmesh
from tests.unit.services.gateway.test_preference import four_pictures
from tests.unit.services.preference.raters import rate_by_brightness

pytestmark = pytest.mark.timeout(START_S + 300)


async def test_a_group_goes_to_people_and_comes_back(stack: RunningStack) -> None:
    environment = stack.environment(Settings(run_root=stack.folder / "stack").run_root, join_ray=False)
    invited = await asyncio.to_thread(
        rewardmesh, "preference", "invite", "--label", "programs", environment=environment, timeout_s=120
    )
    assert invited.returncode == 0, invited.stderr
    url, _, link = invited.stdout.strip().partition("/join/")
    assert url == f"{stack.state.serve_url}/{PREFERENCE}"
    client = await connect(stack.redis_url)
    try:
        registry, stream = Registry(client), open_redis_stream(client, "run")
        endpoint = await registry.oracle(PREFERENCE)
        assert (endpoint.granularity, endpoint.url) == ("group", oracle_url(str(stack.state.serve_url), PREFERENCE))
        await stream.enqueue(four_pictures(), oracles=[PREFERENCE])
        await registry.put_run("run")

        async def deferred() -> bool:
            return (await stream.depth(PREFERENCE)).deferred == 4

        await until(deferred)
        assert await rate_by_brightness(url, link) == 6
        outcome = await completed(stream, "g1", PREFERENCE)
        await registry.end_run("run")
    finally:
        await client.aclose()
    results = [outcome.results[f"g1.{index}"] for index in range(4)]
    rewards = [result.reward for result in results if isinstance(result, Scored)]
    assert len(rewards) == 4
    assert rewards == sorted(rewards)
    listed = await asyncio.to_thread(rewardmesh, "preference", "raters", environment=environment, timeout_s=120)
    assert ".prog  6 choices" in listed.stdout, listed.stderr


def test_its_oracle_wants_the_token_and_its_pages_an_invite(stack: RunningStack) -> None:
    base = f"{stack.state.serve_url}/{PREFERENCE}"
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(f"{base}/oracle/v1/health").status_code == 200
        assert browser.get(f"{base}/oracle/v1/oracle").status_code == 401
        assert browser.post(f"{base}/oracle/v1/score").status_code == 401
        assert browser.post(f"{base}/api/lease", json={}).status_code == 401
        assert browser.get(f"{base}/join/forged").status_code in {401, 403}
