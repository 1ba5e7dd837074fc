"""Workers that reuse answers, and workers of oracles that judge whole groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from reward_workers import reuse
from rewardmesh.wire.answers import AnswerCache, Answers, MemoryAnswers
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import BufferUnavailable
from rewardmesh.wire.messages import Scored, ScoreFailure
from rewardmesh.wire.stream import GroupOutcome
from tests.contract.conftest import Server
from tests.contract.workers import World, assert_empty, completed, endpoint_of, failing, group_of, working
from tests.oracle_server import Call, OracleServer, Response, reply

AN_HOUR = {"object_count": 3600.0}


async def answered(world: World, group_id: str, size: int = 4, **reuse_answers_s: float) -> GroupOutcome:
    """Enqueues a group, whose pictures are the same for every group, and waits for its outcomes."""
    await world.stream.enqueue(group_of(group_id, size, **reuse_answers_s), oracles=["object_count"])
    return await completed(world.stream, group_id)


def cached(outcome: GroupOutcome) -> set[bool]:
    return {one.cached for one in outcome.provenance.values()}


async def test_the_same_question_is_asked_once_where_the_run_allows_it(world: World) -> None:
    async with OracleServer() as oracle:
        await world.registry.put_oracle(endpoint_of(oracle))
        async with working(world.worker()) as worker:
            first = await answered(world, "g1", **AN_HOUR)
            again = await answered(world, "g2", 6, **AN_HOUR)  # four of the six were answered
            assert (cached(first), len(oracle.asked)) == ({False}, 6)
            assert {name for name, one in again.provenance.items() if one.cached} == {f"g2.{i}" for i in range(4)}
            assert again.results == {f"g2.{i}": Scored(sample_id=f"g2.{i}", reward=i / 255) for i in range(6)}
            assert {one.version for one in again.provenance.values()} == {"1"}

            assert cached(await answered(world, "g3")) == {False}  # it does not allow it
            assert len(oracle.asked) == 10
            labels = {"run": world.stream.run_id, "oracle": "object_count", "version": "1"}
            assert worker.meter.total("rewardmesh_answers_reused", kind="hit", **labels) == 4
            assert worker.meter.total("rewardmesh_answers_reused", kind="miss", **labels) == 6
            assert worker.meter.total("rewardmesh_samples_settled", kind="scored", **labels) == 14
    await assert_empty(world.stream)


async def test_only_rewards_are_reused(world: World) -> None:
    terminal = {"kind": "failed", "code": "missing_checks", "detail": "none", "retryable": False}

    async def answer(call: Call) -> Response:
        until = {"kind": "deferred", "until": 4e9}
        kinds = [terminal, until]
        return reply(call, results=[{**kinds[i % 2], "sample_id": one} for i, one in enumerate(call.sample_ids)])

    async with OracleServer(answer=answer, deferred=True) as oracle:
        await world.registry.put_oracle(endpoint_of(oracle))
        async with working(world.worker()):
            for group_id in ("g1", "g2"):
                await world.stream.enqueue(group_of(group_id, **AN_HOUR), oracles=["object_count"])
                async with asyncio.timeout(20):
                    while len((await world.stream.outcomes(group_id, "object_count")).results) < 4:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            late = Scored(sample_id="g1.1", reward=0.5)
            assert await world.stream.settle_late("object_count", group_id="g1", result=late, version="1")
            await world.stream.enqueue(group_of("g3", **AN_HOUR), oracles=["object_count"])
            async with asyncio.timeout(20):
                while len(oracle.asked) < 12:  # noqa: ASYNC110 - every one was asked, all three times
                    await asyncio.sleep(0.02)


async def test_a_new_version_is_asked_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "VERSION_TRUSTED_S", 0.0)
    async with OracleServer() as oracle:
        await world.registry.put_oracle(endpoint_of(oracle))
        async with working(world.worker()):
            await answered(world, "g1", **AN_HOUR)
            oracle.info = oracle.info.model_copy(update={"version": "2"})
            changed = await answered(world, "g2", **AN_HOUR)
            assert (cached(changed), changed.version, len(oracle.asked)) == ({False}, "2", 8)
            assert cached(await answered(world, "g3", **AN_HOUR)) == {True}


class Broken(MemoryAnswers):
    """Kept answers on a server that does not answer."""

    async def recall(self, *_: object) -> dict[str, object]:  # type: ignore[override]
        raise BufferUnavailable("no server", "answers", "start one")

    keep = recall  # type: ignore[assignment]


async def test_without_the_kept_answers_the_oracle_is_asked(world: World) -> None:
    async with OracleServer() as oracle:
        await world.registry.put_oracle(endpoint_of(oracle))
        async with working(world.worker(answers=Broken())):
            for group_id in ("g1", "g2"):
                assert cached(await answered(world, group_id, **AN_HOUR)) == {False}
    await assert_empty(world.stream)


async def test_workers_share_what_is_kept_on_the_server(new_server: Callable[..., Server]) -> None:
    from rewardmesh.wire.redis_stream import open_redis_stream

    client = await connect(new_server().url)
    asked = []
    async with OracleServer() as oracle:
        for run_id in ("r1", "r2"):  # another run, another worker
            answers: AnswerCache = Answers(client)
            world = World(open_redis_stream(client, run_id))
            await world.registry.put_run(run_id)
            await world.registry.put_oracle(endpoint_of(oracle))
            async with working(world.worker(answers=answers)):
                asked.append(cached(await answered(world, "g1", **AN_HOUR)))
    assert asked == [{False}, {True}]
    await client.aclose()


async def test_an_oracle_of_whole_groups_gets_each_in_one_request(world: World) -> None:
    """Groups larger and smaller than its batches, samples that fail for a while, an oracle that drops calls."""
    async with OracleServer(granularity="group") as oracle:
        broken = failing(1, Response(b"", cut_to=0))
        flaky = iter(range(100))

        async def answer(call: Call) -> Response:
            if next(flaky) == 1:  # one sample of a good answer is to be asked again
                results = [{"kind": "scored", "sample_id": one, "reward": 0.5} for one in call.sample_ids[1:]]
                return reply(call, results=results)
            return await broken(call)

        oracle.answer = answer
        await world.registry.put_oracle(endpoint_of(oracle, concurrency=3))
        sizes = {"g1": 4, "g2": 2, "g3": 3, "g4": 5}
        for group_id, size in sizes.items():
            await world.stream.enqueue(group_of(group_id, size, **AN_HOUR), oracles=["object_count"])
        async with working(world.worker()), working(world.worker()):
            outcomes = {group_id: await completed(world.stream, group_id) for group_id in sizes}
            again = await answered(world, "g5", **AN_HOUR)
    for group_id in ("g1", "g2", "g3"):
        assert all(isinstance(result, Scored) for result in outcomes[group_id].results.values()), group_id
    for failure in outcomes["g4"].results.values():
        assert isinstance(failure, ScoreFailure)
        assert "at most 4 fit in one request" in failure.detail
    assert cached(again) == {False}
    assert len(oracle.calls) == 4 + 2  # two were asked again
    for call in oracle.calls:
        (group_id,) = {item.sample.group_id for item in call.batch.items}
        assert sorted(call.sample_ids) == [f"{group_id}.{index}" for index in range(sizes.get(group_id, 4))]
    await assert_empty(world.stream)


async def test_attempts_of_a_group_are_those_of_all_its_samples(world: World) -> None:
    """Whichever sample fails, the group is asked again, and not for ever."""
    async with OracleServer(granularity="group") as oracle:
        turn = iter(range(1000))

        async def answer(call: Call) -> Response:
            missing = next(turn) % len(call.sample_ids)
            results = [
                {"kind": "scored", "sample_id": one, "reward": 0.5}
                for index, one in enumerate(sorted(call.sample_ids))
                if index != missing
            ]
            return reply(call, results=results)

        oracle.answer = answer
        await world.registry.put_oracle(endpoint_of(oracle, max_attempts=3))
        async with working(world.worker()):
            outcome = await answered(world, "g1")
    assert len(oracle.calls) == 3
    kinds = [result.kind for _, result in sorted(outcome.results.items())]
    assert kinds == ["scored", "scored", "failed", "scored"]


async def test_an_oracle_that_was_registered_otherwise_is_not_asked(world: World) -> None:
    async with OracleServer(granularity="group") as oracle:
        await world.registry.put_oracle(endpoint_of(oracle, granularity="sample"))
        async with working(world.worker()):
            outcome = await answered(world, "g1")
    assert oracle.calls == []
    for failure in outcome.results.values():
        assert isinstance(failure, ScoreFailure)
        assert "it judges a group at once, it is registered for a sample" in failure.detail
