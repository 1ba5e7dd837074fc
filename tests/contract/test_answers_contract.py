"""Kept answers, in memory and on every server: found again by the same question, bounded in bytes and in age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.answers import AnswerCache, Answers, Asked, KeptAnswer, MemoryAnswers, question_of
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Checks, OracleEndpoint, Sample
from rewardmesh.wire.registry import Registry
from tests.contract.conftest import SERVERS, Server

OpenAnswers = Callable[..., AnswerCache]


@pytest.fixture
def oracle() -> str:
    return f"count-{uuid4().hex[:8]}"


@pytest.fixture(params=["memory", *SERVERS])
async def open_answers(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> AsyncIterator[OpenAnswers]:
    if request.param == "memory":
        yield MemoryAnswers
        return
    client = await connect(servers(request.param).url)
    yield lambda **bounds: Answers(client, **bounds)
    await client.aclose()


async def test_what_was_kept_is_found_by_its_question(open_answers: OpenAnswers, oracle: str) -> None:
    answers = open_answers()
    assert await answers.recall(oracle, {}) == {}
    assert await answers.recall(oracle, {"q1": 60.0}) == {}
    one, other = KeptAnswer(reward=0.5, detail={"seen": ["círculo"]}), KeptAnswer(reward=-1.0)
    await answers.keep(oracle, {"q1": one, "q2": other})
    await answers.keep(oracle, {})
    assert await answers.recall(oracle, {"q2": 60.0, "q3": 60.0, "q1": 60.0}) == {"q1": one, "q2": other}
    assert await answers.recall(f"{oracle}-2", {"q1": 60.0}) == {}
    await answers.keep(oracle, {"q1": other})
    assert await answers.recall(oracle, {"q1": 60.0}) == {"q1": other}


async def test_an_answer_that_is_too_old_is_none(open_answers: OpenAnswers, oracle: str) -> None:
    answers = open_answers()
    await answers.keep(oracle, {"old": KeptAnswer(reward=0.5), "new": KeptAnswer(reward=0.5)})
    await asyncio.sleep(0.06)
    await answers.keep(oracle, {"new": KeptAnswer(reward=0.25)})
    assert await answers.recall(oracle, {"old": 0.05, "new": 60.0}) == {"new": KeptAnswer(reward=0.25)}
    assert set(await answers.recall(oracle, {"old": 60.0})) == {"old"}


async def test_the_oldest_go_when_there_is_no_room(open_answers: OpenAnswers, oracle: str) -> None:
    answers = open_answers(max_bytes=5 * 1200)
    big = KeptAnswer(reward=0.5, detail={"said": "x" * 960})  # about 1,200 bytes with what an entry costs
    for index in range(40):
        await answers.keep(oracle, {f"q{index:02d}": big})
        await asyncio.sleep(0.002)
    found = await answers.recall(oracle, {f"q{index:02d}": 60.0 for index in range(40)})
    assert sorted(found) == [f"q{index}" for index in range(35, 40)]
    await answers.keep(oracle, {"huge": KeptAnswer(reward=0.5, detail={"said": "x" * 9000})})
    assert await answers.recall(oracle, {"huge": 60.0}) == {}
    await answers.keep(oracle, {"small": KeptAnswer(reward=0.5)})
    assert set(await answers.recall(oracle, {"small": 60.0})) == {"small"}


async def test_nothing_is_left_for_ever_and_a_removed_oracle_leaves_nothing(client: Redis, oracle: str) -> None:
    answers = Answers(client, max_bytes=3000)
    for index in range(50):
        await answers.keep(oracle, {f"q{index}": KeptAnswer(reward=0.5)})
    kept, order = names.answer_keys(oracle)
    in_use = int(await client.hget(kept, "bytes") or 0)
    assert 0 < in_use <= 3000
    assert await client.hlen(kept) - 1 == await client.zcard(order) < 15
    for key in (kept, order):
        assert 0 < await client.pttl(key) <= 7 * 86_400_000
    registry = Registry(client)
    await registry.put_oracle(OracleEndpoint(name=oracle, url="http://127.0.0.1:1", max_batch=1))
    await registry.remove_oracle(oracle)
    assert await client.exists(kept, order) == 0


def test_a_question_is_all_that_the_answer_depends_on() -> None:
    endpoint = OracleEndpoint(name="count", url="http://127.0.0.1:1", max_batch=1)
    sample = Sample(
        run_id="r", group_id="g", sample_id="s", policy_version=1, boundary_index=4, prompt="p", checks=Checks(tag="t")
    )

    def question(sample: Sample = sample, version: str = "1", **other: Any) -> str:
        changed = endpoint.model_copy(update={key: other.pop(key) for key in list(other) if hasattr(endpoint, key)})
        asked = Asked(endpoint=changed, version=version)
        return question_of(asked, sample, **{"media_type": "image/png", "picture": b"12", **other})

    same = [
        question(),
        question(sample.model_copy(update={"run_id": "r2", "group_id": "g2", "sample_id": "s2", "policy_version": 2})),
        question(url="http://127.0.0.1:2", max_batch=8, concurrency=4),
    ]
    assert len(set(same)) == 1
    others = [
        question(sample.model_copy(update={"prompt": "q"})),
        question(sample.model_copy(update={"prompt": "\ud800"})),
        question(sample.model_copy(update={"checks": Checks(tag="t", text="x")})),
        question(version="2"),
        question(name="spelling"),
        question(dialect="kserve"),
        question(options={"threshold": 0.5}),
        question(media_type="image/webp"),
        question(picture=b"13"),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert question(options={"a": 1, "b": 2}) == question(options={"b": 2, "a": 1})
