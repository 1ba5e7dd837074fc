"""The whole road of a group that people answer: stream, worker, oracle, choices, outcome. Real parts, no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.served import serving
from rewardmesh.kit.app import build_app
from rewardmesh.wire.codec import RAW, encode_picture
from rewardmesh.wire.errors import BufferUnavailable, ScopeMissing
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.stream import Group, GroupOutcome, PendingSample, Stream
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.preference.invites import InviteRequest, Invites
from services.preference.memory_queue import MemoryQueue
from services.preference.model import QueueSettings
from services.preference.oracle import NAME, PreferenceOracle
from services.preference.service import build_service
from services.preference.settings import PreferenceSettings
from services.preference.settling import GatewayPost, Settling
from tests.contract.conftest import Server
from tests.contract.workers import completed, until
from tests.unit.services.gateway.conftest import LOOPBACK, Front
from tests.unit.services.preference.asking import choose, inputs_of, rater
from tests.unit.services.preference.raters import rate_by_brightness


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue(QueueSettings(comparisons_per_group=6, gold_share=0, repeat_share=0))


@pytest.fixture
async def people(queue: MemoryQueue, front: Front) -> AsyncIterator[str]:
    """The registered oracle: its URL."""
    oracle = PreferenceOracle(queue, loop=asyncio.get_running_loop())
    async with serving(build_app(oracle)) as url, front.client("admin") as admin:
        assert (await admin.post("/v1/oracles", json={"url": url})).status_code == 201
        yield url


def four_pictures() -> Group:
    return Group(
        group_id="g1",
        requests=tuple(
            PendingSample(
                sample=one.sample,
                media_type=f"{RAW};width=8;height=8",
                picture=encode_picture(one.picture, f"{RAW};width=8;height=8"),
                hint=one.hint,
            )
            for one in inputs_of(4)
        ),
    )


async def taken_over(front: Front, redis: Redis) -> Stream:
    """A trainer's stream whose one group went to people."""
    stream = open_redis_stream(redis, "run")
    await stream.enqueue(four_pictures(), oracles=[NAME])
    await front.gateway.registry.put_run("run")

    async def deferred() -> bool:
        return (await stream.depth(NAME)).deferred == 4

    await until(deferred)
    return stream


def require_rewards(outcome: GroupOutcome) -> None:
    """All pairs were answered for the brighter picture, and later ones are brighter."""
    assert outcome.complete
    assert outcome.version == "bradley-terry.1"
    results = [outcome.results[f"g1.{index}"] for index in range(4)]
    rewards = [result.reward for result in results if isinstance(result, Scored)]
    assert len(rewards) == 4
    assert rewards == sorted(rewards)
    assert rewards[0] < 0.5 < rewards[3]
    assert {result.detail["num_answers"] for result in results if isinstance(result, Scored)} == {3}


async def answered(queue: MemoryQueue, front: Front, redis: Redis) -> Stream:
    """The same, and all pairs were answered."""
    stream = await taken_over(front, redis)
    bo = await rater(queue, "bo")
    for _ in range(6):
        await choose(queue, bo)
    return stream


async def settle(queue: MemoryQueue, front: Front, *, oracle: str) -> int:
    """Posts to the gateway with a token that answers for `oracle`."""
    post = GatewayPost(front.url, await front.token("rate", oracle=oracle))
    try:
        return await Settling(queue, post, every_s=1).once()
    finally:
        post.close()


async def test_a_group_goes_to_people_and_comes_back_as_rewards(
    queue: MemoryQueue, people: str, worker: object, front: Front, redis: Redis
) -> None:
    stream = await answered(queue, front, redis)
    assert await settle(queue, front, oracle=NAME) == 1
    require_rewards(await stream.outcomes("g1", NAME))


async def test_posted_again_after_a_crash_the_first_answer_stays(
    queue: MemoryQueue, people: str, worker: object, front: Front, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await answered(queue, front, redis)
    with monkeypatch.context() as crashing:
        crashing.setattr(queue, "settled", _gone)
        with pytest.raises(BufferUnavailable):
            await settle(queue, front, oracle=NAME)
    first = await stream.outcomes("g1", NAME)
    assert first.complete
    assert await settle(queue, front, oracle=NAME) == 1
    assert await stream.outcomes("g1", NAME) == first
    assert await queue.close_due() == []


async def test_a_token_of_another_oracle_posts_nothing_and_the_group_waits(
    queue: MemoryQueue, people: str, worker: object, front: Front, redis: Redis
) -> None:
    stream = await answered(queue, front, redis)
    with pytest.raises(ScopeMissing):
        await settle(queue, front, oracle="another")
    assert not (await stream.outcomes("g1", NAME)).complete
    assert len(await queue.close_due()) == 1


class Away:
    """An app behind a proxy that cannot reach it, until `is_back`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.is_back = False
        self.num_refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.is_back:
            await self._app(scope, receive, send)
            return
        self.num_refused += 1
        await PlainTextResponse("bad gateway", 502)(scope, receive, send)


async def test_choices_over_http_are_settled_once_the_gateway_is_back(
    redis: Redis, buffer: Server, front: Front, worker: object
) -> None:
    """The service as it is deployed, on the server's queue: oracle, pages' API and settling in one app."""
    gateway = Away(build_gateway(buffer.url, LOOPBACK))
    async with serving(gateway) as gateway_url:
        settings = PreferenceSettings(
            redis_url=buffer.url,
            queue=QueueSettings(comparisons_per_group=6, gold_share=0, repeat_share=0),
            secret=SecretStr("a secret of this test alone"),
            gateway_url=gateway_url,
            gateway_token=SecretStr(await front.token("rate", oracle=NAME)),
            oracle_token=SecretStr("a-token-of-this-test-alone"),
            settle_every_s=0.1,
        )
        service = build_service(settings)
        async with serving(service) as url, front.client("admin") as admin:
            people = f"{url}{settings.base_path}"
            registration = {"url": f"{people}/oracle", "secret": "a-token-of-this-test-alone"}
            assert (await admin.post("/v1/oracles", json=registration)).status_code == 201
            stream = await taken_over(front, redis)
            invites = Invites(redis, settings.secret)
            _, link = await invites.create(InviteRequest(label="programs"), actor=OPERATOR)
            assert await rate_by_brightness(people, link) == 6

            def refused() -> bool:
                return gateway.num_refused > 0

            await until(refused)
            assert not (await stream.outcomes("g1", NAME)).complete
            gateway.is_back = True
            require_rewards(await completed(stream, "g1", NAME))
            assert not service.state.settling.done()
    assert service.state.settling.cancelled()


async def _gone(_: str) -> None:
    raise BufferUnavailable("the server does not answer", "unix:///nowhere")
