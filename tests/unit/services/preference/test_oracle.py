"""People as an oracle of the protocol, over HTTP: conformance, groups taken over once, a full queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from benchmarks.served import serving
from rewardmesh.kit import conformance
from rewardmesh.kit.app import build_app
from rewardmesh.kit.conformance import check_conformance
from rewardmesh.kit.oracle import OracleInput, Result
from rewardmesh.kit.probe import known_sample
from rewardmesh.wire.errors import BufferUnavailable
from rewardmesh.wire.messages import Deferred, ScoreFailure
from services.preference.memory_queue import MemoryQueue
from services.preference.model import QueueSettings
from services.preference.oracle import GRACE_S, PreferenceOracle
from tests.unit.services.asking import parts, reply_of
from tests.unit.services.preference.asking import NOW, inputs_of, picture


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue(QueueSettings(deadline_s=600, budget_bytes=4096), clock=lambda: NOW)


@pytest.fixture
async def oracle(queue: MemoryQueue) -> PreferenceOracle:
    return PreferenceOracle(queue, loop=asyncio.get_running_loop(), clock=lambda: NOW)


@pytest.fixture
async def people(oracle: PreferenceOracle) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(build_app(oracle)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def asked(oracle: PreferenceOracle, batch: Sequence[OracleInput]) -> list[Result]:
    """As the app asks: from its scoring thread."""
    return await asyncio.to_thread(oracle.score, batch)


def failures(results: Sequence[Result]) -> set[tuple[str, bool]]:
    assert all(isinstance(one, ScoreFailure) for one in results)
    return {(one.code, one.retryable) for one in results if isinstance(one, ScoreFailure)}


async def test_it_conforms_and_known_pictures_become_no_questions(
    people: httpx.AsyncClient, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "SIDES", (8, 80))
    report = await check_conformance(str(people.base_url), http=people, name="preference")
    assert report.passed, str(report)
    assert report.info is not None
    assert (report.info.granularity, report.info.deferred) == ("group", True)
    assert (await queue.depth()).groups == 0


async def test_a_run_that_is_called_like_the_check_is_asked_about(oracle: PreferenceOracle, queue: MemoryQueue) -> None:
    await asked(oracle, inputs_of(3, run_id=known_sample("g", "s").run_id))
    assert (await queue.depth()).groups == 1


async def test_a_group_is_taken_over_whole_over_http(people: httpx.AsyncClient, queue: MemoryQueue) -> None:
    batch = inputs_of(4)
    sent = parts("preference", [one.sample for one in batch], [one.picture for one in batch])
    reply = reply_of(await people.post("/v1/score", **sent))
    assert {one.sample_id for one in reply.results} == {one.sample.sample_id for one in batch}
    assert {one.until for one in reply.results if isinstance(one, Deferred)} == {NOW + 600 + GRACE_S}
    group = await queue.group("run/g1")
    assert group is not None
    assert (group.prompt, group.until) == ("two red circles", NOW + 600)
    assert await queue.picture(group.pictures[2].digest) is not None


async def test_hints_travel_with_the_pictures(oracle: PreferenceOracle, queue: MemoryQueue) -> None:
    await asked(oracle, inputs_of(5))
    group = await queue.group("run/g1")
    assert group is not None
    assert [one.hint for one in group.pictures] == [0.0, 0.1, 0.2, 0.3, 0.4]


async def test_asked_again_it_says_the_same_and_keeps_nothing_twice(
    oracle: PreferenceOracle, queue: MemoryQueue
) -> None:
    first = await asked(oracle, inputs_of(3))
    before = await queue.depth()
    oracle._clock = lambda: NOW + 100
    assert await asked(oracle, inputs_of(3)) == first
    assert await queue.depth() == before


async def test_other_pictures_under_a_known_id_are_refused(oracle: PreferenceOracle) -> None:
    batch = inputs_of(3)
    await asked(oracle, batch)
    other = [OracleInput(one.sample, picture(250), one.hint) for one in batch]
    assert failures(await asked(oracle, other)) == {("oracle_error", False)}


async def test_a_full_queue_fails_the_whole_group_for_now(oracle: PreferenceOracle, queue: MemoryQueue) -> None:
    results: list[Result] = []
    for number in range(100):
        results = await asked(oracle, inputs_of(8, group_id=f"g{number}"))
        if isinstance(results[0], ScoreFailure):
            break
    assert len(results) == 8
    assert failures(results) == {("overloaded", True)}
    assert await queue.group(f"run/g{number}") is None


async def test_a_buffer_that_is_away_is_asked_again(
    oracle: PreferenceOracle, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise BufferUnavailable("the server does not answer", "unix:///nowhere")

    monkeypatch.setattr(queue, "accept", away)
    assert failures(await asked(oracle, inputs_of(3))) == {("oracle_error", True)}


async def test_what_people_cannot_compare_is_refused(oracle: PreferenceOracle) -> None:
    assert failures(await asked(oracle, inputs_of(1))) == {("oracle_error", False)}
    two_groups = inputs_of(2) + inputs_of(2, group_id="g2")
    assert failures(await asked(oracle, two_groups)) == {("oracle_error", False)}


async def test_single_pictures_are_a_mode_and_a_version_of_their_own() -> None:
    queue = MemoryQueue(QueueSettings(mode="singles"), clock=lambda: NOW)
    oracle = PreferenceOracle(queue, loop=asyncio.get_running_loop(), clock=lambda: NOW)
    assert isinstance((await asked(oracle, inputs_of(1)))[0], Deferred)
    assert (await queue.depth()).comparisons == 1
    assert oracle.info.version != PreferenceOracle(MemoryQueue(), loop=asyncio.get_running_loop()).info.version
