"""The worker on a stream in memory and on a server: what is claimed is settled once, whatever the oracle does."""

from __future__ import annotations

import asyncio
import time

import pytest

from rewardmesh.wire.messages import Scored, ScoreFailure
from rewardmesh.wire.stream import Group, PendingSample
from tests.contract.workers import FAST, World, assert_empty, completed, endpoint_of, failing, group_of, until, working
from tests.oracle_server import Call, OracleServer, Response, reply


async def test_every_sample_gets_its_own_reward(world: World, oracle: OracleServer) -> None:
    await world.registry.put_oracle(endpoint_of(oracle))
    for index in range(5):
        await world.stream.enqueue(group_of(f"g{index}", 6), oracles=["object_count"])
    async with working(world.worker()):
        for index in range(5):
            outcome = await completed(world.stream, f"g{index}")
            rewards = {f"g{index}.{i}": Scored(sample_id=f"g{index}.{i}", reward=i / 255) for i in range(6)}
            assert outcome.results == rewards
            assert outcome.version == "1"
    assert set(oracle.asked.values()) == {1}
    assert oracle.most_asked_at_once == 1
    assert max(len(call.sample_ids) for call in oracle.calls) <= 4
    await assert_empty(world.stream)


@pytest.mark.parametrize(
    "response",
    [Response(b"", 500), Response(b"", 429, {"Retry-After": "0.1"}), Response(b"x" * 50, cut_to=10), Response(b"{}")],
)
async def test_what_passes_is_tried_again(world: World, oracle: OracleServer, response: Response) -> None:
    oracle.answer = failing(2, response)
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    assert all(isinstance(result, Scored) for result in outcome.results.values())
    assert set(oracle.asked.values()) <= {2, 3}  # 2 if the second call came when not all were due again
    await assert_empty(world.stream)


async def test_what_never_passes_becomes_dead_letters(world: World, oracle: OracleServer) -> None:
    oracle.answer = failing(10_000, Response(b"", 500))
    await world.registry.put_oracle(endpoint_of(oracle, max_attempts=3))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    failures = [result for result in outcome.results.values() if isinstance(result, ScoreFailure)]
    assert [failure.code for failure in failures] == ["server_error"] * 4
    assert set(oracle.asked.values()) == {3}
    letters = await world.stream.dead_letters("object_count", 10)
    assert sorted(letter.sample.sample_id for letter in letters) == [f"g1.{index}" for index in range(4)]
    assert all(letter.picture for letter in letters)
    await assert_empty(world.stream)


async def test_attempts_end_in_time_too(world: World, oracle: OracleServer) -> None:
    oracle.answer = failing(10_000, Response(b"", 503, {"Retry-After": "60"}))
    await world.registry.put_oracle(endpoint_of(oracle, max_attempts=1000, retry_budget_s=1.0))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    began_s = time.monotonic()
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    assert time.monotonic() - began_s < 25
    assert {result.code for result in outcome.results.values() if isinstance(result, ScoreFailure)} == {"overloaded"}


async def test_a_terminal_failure_is_asked_once(world: World, oracle: OracleServer) -> None:
    async def answer(call: Call) -> Response:
        results = [
            {"kind": "failed", "sample_id": sample_id, "code": "missing_checks", "detail": "none", "retryable": False}
            for sample_id in call.sample_ids
        ]
        return reply(call, results=results)

    oracle.answer = answer
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    assert all(isinstance(result, ScoreFailure) for result in outcome.results.values())
    assert set(oracle.asked.values()) == {1}


async def test_one_refused_sample_does_not_take_its_batch_along(world: World, oracle: OracleServer) -> None:
    async def answer(call: Call) -> Response:
        return Response(b"", 422) if "g1.2" in call.sample_ids else reply(call)

    oracle.answer = answer
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    assert {key for key, result in outcome.results.items() if isinstance(result, ScoreFailure)} == {"g1.2"}


async def test_one_bad_reward_fails_one_sample(world: World, oracle: OracleServer) -> None:
    async def answer(call: Call) -> Response:
        results = [
            {"kind": "scored", "sample_id": sample_id, "reward": 7.0 if sample_id == "g1.0" else 0.5}
            for sample_id in call.sample_ids
        ]
        return reply(call, results=results)

    oracle.answer = answer
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        outcome = await completed(world.stream, "g1")
    failed = [result for result in outcome.results.values() if isinstance(result, ScoreFailure)]
    assert [(failure.sample_id, failure.code) for failure in failed] == [("g1.0", "invalid_answer")]


async def test_a_hung_oracle_holds_up_nobody_else(world: World, oracle: OracleServer) -> None:
    async with OracleServer("ocr_spelling", answer=lambda _: asyncio.sleep(3600, Response())) as hung:
        await world.registry.put_oracle(endpoint_of(oracle))
        await world.registry.put_oracle(endpoint_of(hung, deadline_s=0.5, max_attempts=2, concurrency=2))
        for index in range(5):
            await world.stream.enqueue(group_of(f"g{index}"), oracles=["object_count", "ocr_spelling"])
        async with working(world.worker()):
            for index in range(5):
                await completed(world.stream, f"g{index}")
            assert not (await world.stream.outcomes("g4", "ocr_spelling")).complete
            outcome = await completed(world.stream, "g0", "ocr_spelling")  # and even that wait has an end
        codes = {result.code for result in outcome.results.values() if isinstance(result, ScoreFailure)}
        assert codes == {"timeout"}


async def test_a_call_longer_than_the_lease_keeps_it(world: World, oracle: OracleServer) -> None:
    async def slow(call: Call) -> Response:
        await asyncio.sleep(2.5)  # leases of 1.5 s, renewed every 0.5 s
        return reply(call)

    oracle.answer = slow
    await world.registry.put_oracle(endpoint_of(oracle, deadline_s=20.0))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()), working(world.worker()):
        await completed(world.stream, "g1")
    assert set(oracle.asked.values()) == {1}


async def test_concurrency_is_the_oracles_own(world: World, oracle: OracleServer) -> None:
    three = asyncio.Event()

    async def slow(call: Call) -> Response:
        if oracle.now_asked == 3:
            three.set()
        await three.wait()
        await asyncio.sleep(0.2)  # time for a fourth, if there were one
        return reply(call)

    oracle.answer = slow
    await world.registry.put_oracle(endpoint_of(oracle, concurrency=3))
    for index in range(9):
        await world.stream.enqueue(group_of(f"g{index}"), oracles=["object_count"])
    async with working(world.worker()):
        for index in range(9):
            await completed(world.stream, f"g{index}")
    assert oracle.most_asked_at_once == 3


async def test_changes_of_the_registry_are_picked_up(world: World, oracle: OracleServer) -> None:
    run_id = world.stream.run_id
    async with working(world.worker()) as worker:
        await until(lambda: worker.pumps == [])
        await world.registry.put_oracle(endpoint_of(oracle))
        await until(lambda: worker.pumps == [(run_id, "object_count")])
        await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
        await completed(world.stream, "g1")

        await world.registry.put_oracle(endpoint_of(oracle, state="paused"))
        await until(lambda: worker.pumps == [])
        await asyncio.sleep(2 * FAST.claim_wait_s + 0.3)  # a claim that was already waiting
        await world.stream.enqueue(group_of("g2"), oracles=["object_count"])
        await asyncio.sleep(0.3)
        assert not (await world.stream.outcomes("g2", "object_count")).results

        async with OracleServer(version="2") as moved:
            await world.registry.put_oracle(endpoint_of(moved))
            assert (await completed(world.stream, "g2")).version == "2"
            await world.registry.end_run(run_id)
            await until(lambda: worker.pumps == [])


async def test_a_stop_finishes_what_was_claimed(world: World, oracle: OracleServer) -> None:
    async def slow(call: Call) -> Response:
        await asyncio.sleep(0.8)
        return reply(call)

    oracle.answer = slow
    await world.registry.put_oracle(endpoint_of(oracle))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        await until(lambda: bool(oracle.calls))
    assert (await world.stream.outcomes("g1", "object_count")).complete


async def test_a_stop_hands_back_what_it_cannot_finish(world: World, oracle: OracleServer) -> None:
    oracle.answer = lambda _: asyncio.sleep(3600, Response())
    await world.registry.put_oracle(endpoint_of(oracle, deadline_s=60.0))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    impatient = FAST.model_copy(update={"drain_s": 0.2, "lease_s": 600.0})
    async with working(world.worker(impatient)):
        await until(lambda: bool(oracle.calls))
    depth = await world.stream.depth("object_count")
    assert (depth.pending, depth.lag + depth.retrying) == (0, 4)  # others need not wait for the lease of ten minutes
    oracle.answer = failing(0, Response())
    async with working(world.worker()):
        await completed(world.stream, "g1")


async def test_a_forgotten_group_ends_its_call(world: World, oracle: OracleServer) -> None:
    oracle.answer = lambda _: asyncio.sleep(3600, Response())
    await world.registry.put_oracle(endpoint_of(oracle, deadline_s=600.0))
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()):
        await until(lambda: bool(oracle.calls))
        await world.stream.forget("g1")
        oracle.answer = failing(0, Response())
        await world.stream.enqueue(group_of("g2"), oracles=["object_count"])
        await completed(world.stream, "g2")
    await assert_empty(world.stream)


async def test_equal_sample_ids_of_two_groups_are_asked_apart(world: World, oracle: OracleServer) -> None:
    await world.registry.put_oracle(endpoint_of(oracle))
    for group_id in ("g1", "g2"):
        requests = tuple(
            PendingSample(
                sample=request.sample.model_copy(update={"sample_id": f"s{index}"}),
                media_type=request.media_type,
                picture=bytes([100 if group_id == "g2" else 0, 0, 0]),
            )
            for index, request in enumerate(group_of(group_id, 2).requests)
        )
        await world.stream.enqueue(Group(group_id=group_id, requests=requests), oracles=["object_count"])
    async with working(world.worker()):
        first, second = await completed(world.stream, "g1"), await completed(world.stream, "g2")
    assert {result.reward for result in first.results.values() if isinstance(result, Scored)} == {0.0}
    assert {result.reward for result in second.results.values() if isinstance(result, Scored)} == {100 / 255}


async def test_an_oracle_that_comes_back_is_used_again(world: World) -> None:
    server = OracleServer()
    async with server:
        endpoint = endpoint_of(server, max_attempts=1000)
        await world.registry.put_oracle(endpoint)
    await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
    async with working(world.worker()) as worker:
        await until(lambda: worker.meter.total("rewardmesh_samples_retried") > 0)
        async with server:
            outcome = await completed(world.stream, "g1")
    assert all(isinstance(result, Scored) for result in outcome.results.values())


async def test_an_oracle_at_an_address_that_is_not_allowed_fails_for_good(world: World) -> None:
    settings = FAST.model_copy(update={"allowed_networks": "10.0.0.0/8"})
    async with OracleServer() as oracle:
        await world.registry.put_oracle(endpoint_of(oracle))
        await world.registry.put_run("run")
        await world.stream.enqueue(group_of("g1"), oracles=["object_count"])
        async with working(world.worker(settings)):
            outcome = await completed(world.stream, "g1")
        assert oracle.calls == []
    for result in outcome.results.values():
        assert isinstance(result, ScoreFailure)
        assert (result.code, result.retryable) == ("oracle_error", False)
        assert "127.0.0.1" in result.detail
        assert "name its network in REWARDMESH_ALLOWED_NETWORKS" in result.detail
