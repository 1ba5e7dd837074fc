"""One behaviour suite for feedback: oracles in process, the stream in memory, and the stream on a real server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest

from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import decode_picture
from rewardmesh.wire.errors import BufferUnavailable, OracleUnavailable, RecipeError, RewardmeshError
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo, Scored, ScoreFailure
from rewardmesh.wire.oracle_use import OnMissing, OracleUse
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import GroupOutcome, Stream, StreamSettings
from trainer.buffer_feedback import BufferFeedback, _end
from trainer.feedback import Feedback, GroupFeedback, PictureGroup, PictureSample
from trainer.in_process_feedback import InProcessFeedback
from trainer.recipe_sections import FeedbackSettings
from trainer.training_process import open_buffer_feedback

ORACLES = ("bright", "dark")


class Bright(Oracle):
    """Mean brightness; what is marked broken fails."""

    def __init__(self, name: str) -> None:
        self.info = OracleInfo(
            name=name, version="7", reward_min=0.0, reward_max=1.0, media_types=("image/png",), max_batch=3
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        return [
            ScoreFailure(sample_id=one.sample.sample_id, code="oracle_error", detail="broken", retryable=False)
            if "broken" in one.sample.prompt
            else Scored(sample_id=one.sample.sample_id, reward=float(one.picture.mean()) / 255)
            for one in batch
        ]


class Requeued:
    """A stream whose failed samples, once `mended` is set, were asked about again: complete once more, with rewards."""

    def __init__(self, stream: Stream, mended: threading.Event) -> None:
        self._stream = stream
        self._mended = mended
        self._seen: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def outcomes(self, group_id: str, oracle: str) -> GroupOutcome:
        outcome = await self._stream.outcomes(group_id, oracle)
        if not self._mended.is_set():
            return outcome
        return replace(outcome, results={name: Scored(sample_id=name, reward=0.5) for name in outcome.results})

    async def completions(self, *, after: str, wait_s: float) -> tuple[list[tuple[str, str]], str]:
        hints, after = await self._stream.completions(after=after, wait_s=min(wait_s, 0.05))
        self._seen += hints
        return (self._seen + self._seen if self._mended.is_set() else hints), after


@dataclass
class Road:
    """Makes feedback of one kind over one run, with a worker at the other end that `serving` lets work."""

    kind: str
    url: str | None
    run_id: str = field(default_factory=lambda: f"run-{uuid4().hex[:10]}")
    serving: threading.Event = field(default_factory=threading.Event)
    mended: threading.Event = field(default_factory=threading.Event)
    settings: StreamSettings = field(default_factory=StreamSettings)
    opened: list[Feedback] = field(default_factory=list)

    def open(self, **more: Any) -> Feedback:
        if self.kind == "in_process":
            feedback: Feedback = InProcessFeedback({name: Bright(name) for name in ORACLES})
        else:
            feedback = BufferFeedback(self._stream, oracles=ORACLES, **{"sweep_s": 0.2, "depth_s": 0.05, **more})
        self.opened.append(feedback)
        return feedback

    @property
    def _stream(self) -> Callable[[], AbstractAsyncContextManager[Stream]]:
        @asynccontextmanager
        async def opening() -> AsyncIterator[Stream]:
            client = await connect(self.url) if self.url else None
            stream: Stream = (
                open_redis_stream(client, self.run_id, settings=self.settings)
                if client
                else MemoryStream(self.run_id, self.settings)
            )
            workers = [asyncio.ensure_future(self._work(stream, Bright(name))) for name in ORACLES]
            try:
                yield cast("Stream", Requeued(stream, self.mended))
            finally:
                await _end(workers)
                if client:
                    await client.aclose()

        return opening

    async def _work(self, stream: Stream, oracle: Oracle) -> None:
        name = oracle.info.name
        while True:
            if not self.serving.is_set():
                await asyncio.sleep(0.01)
                continue
            claims = await stream.claim(name, consumer="w", max_samples=3, lease_s=30, wait_s=0.05)
            inputs = [OracleInput(claim.sample, decode_picture(claim.picture, claim.media_type)) for claim in claims]
            results = {result.sample_id: result for result in oracle.score(inputs)} if inputs else {}
            outcomes = [(claim, results[claim.sample.sample_id]) for claim in claims]
            if outcomes:
                await stream.settle(name, consumer="w", outcomes=outcomes, version=oracle.info.version)


BUFFERED = pytest.mark.parametrize("road", ["memory", "valkey-9.1"], indirect=True)  # nothing waits in process
LASTING = pytest.mark.parametrize("road", ["valkey-9.1"], indirect=True)  # what lives in a process dies with it


@pytest.fixture(params=["in_process", "memory", "valkey-9.1"])
def road(request: pytest.FixtureRequest) -> Iterator[Road]:
    kind = request.param
    url = None
    if kind not in ("in_process", "memory"):
        url = request.getfixturevalue("servers")(kind).url
    made = Road(kind, url)
    made.serving.set()
    yield made
    for feedback in made.opened:
        feedback.close()


def group(name: str = "g1", *, size: int = 2, late: tuple[str, ...] = (), prompt: str = "a circle") -> PictureGroup:
    pictures = [np.full((4, 4, 3), 51 * i, dtype=np.uint8) for i in range(size)]
    return PictureGroup(
        run_id="run",
        group_id=name,
        policy_version=3,
        prompt=prompt,
        checks={"tag": "single_object", "include": [{"class": "circle"}]},
        samples=tuple(
            PictureSample(sample_id=f"{name}-{i}", boundary_index=4, picture=picture)
            for i, picture in enumerate(pictures)
        ),
        awaited=tuple(name for name in ORACLES if name not in late),
        late=late,
    )


def collected(feedback: Feedback, count: int, *, within_s: float = 20.0) -> dict[tuple[str, str], GroupFeedback]:
    found: dict[tuple[str, str], GroupFeedback] = {}
    deadline = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        for one in feedback.collect(wait_s=0.2):
            assert (one.group_id, one.oracle) not in found, "handed over twice"
            found[one.group_id, one.oracle] = one
    return found


def _until_waiting(feedback: Feedback, num_samples: int) -> None:
    """Until so many samples wait for each oracle."""
    deadline = time.monotonic() + 10
    while not all(feedback.depth().get(name) and feedback.depth()[name].samples == num_samples for name in ORACLES):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_pair_is_handed_over_once_with_every_samples_result(road: Road) -> None:
    feedback = road.open()
    feedback.set_policy_version(3)
    feedback.publish([group("g1"), group("g2", size=5)])
    found = collected(feedback, 4)
    assert set(found) == {("g1", "bright"), ("g1", "dark"), ("g2", "bright"), ("g2", "dark")}
    one = found["g2", "dark"]
    assert (one.status, one.oracle_version) == ("complete", "7")
    assert {name: result.reward for name, result in one.results.items()} == pytest.approx(  # type: ignore[union-attr]
        {f"g2-{i}": 0.2 * i for i in range(5)}
    )
    feedback.forget(["g1", "g2"])
    assert feedback.collect(wait_s=0.3) == []


def test_publishing_again_asks_and_answers_nothing_twice(road: Road) -> None:
    feedback = road.open()
    feedback.publish([group()])
    feedback.publish([group()])
    collected(feedback, 2)
    feedback.publish([group()])
    assert feedback.collect(wait_s=0.5) == []


def test_a_failure_is_a_result(road: Road) -> None:
    feedback = road.open()
    feedback.publish([group(prompt="a broken circle")])
    for one in collected(feedback, 2).values():
        assert {result.kind for result in one.results.values()} == {"failed"}


@BUFFERED
def test_a_failed_sample_that_is_scored_after_all_is_handed_over_once_more(road: Road) -> None:
    feedback = road.open()
    feedback.publish([group(prompt="a broken circle")])
    collected(feedback, 2)
    road.mended.set()
    for one in collected(feedback, 2).values():  # hinted at again and again, handed over once
        assert {result.kind for result in one.results.values()} == {"scored"}
    assert feedback.collect(wait_s=0.5) == []


def test_an_oracle_of_this_process_is_known_and_no_other() -> None:
    feedback = InProcessFeedback({"bright": Bright("bright")})
    assert feedback.knows("bright")
    assert not feedback.knows("dark")


def test_times_are_never_negative_and_nothing_runs_once_all_is_there(road: Road) -> None:
    feedback = road.open()
    feedback.publish([group()])
    collected(feedback, 2)
    first = feedback.times()
    assert min(first.exposed_s, first.hidden_s, first.encode_s) >= -1e-9
    time.sleep(0.1)
    assert feedback.collect(wait_s=0.1) == []
    assert feedback.times() == first


def test_an_impossible_publication_is_an_error_that_stays(road: Road) -> None:
    feedback = road.open()
    bad = group()
    object.__setattr__(bad, "checks", {"tag": "x", "unknown": 1})
    with pytest.raises((ValueError, RewardmeshError)):  # noqa: PT012 - the buffer's thread says it a moment later
        feedback.publish([bad])
        for _ in range(100):
            feedback.collect(wait_s=0.1)


@BUFFERED
def test_overlapped_time_is_hidden_and_waited_time_is_exposed(road: Road) -> None:
    road.serving.clear()
    feedback = road.open()
    feedback.publish([group(late=("dark",))])
    time.sleep(0.5)  # the training thread learns meanwhile
    hidden = feedback.times()
    assert hidden.hidden_s >= 0.45
    assert hidden.exposed_s == 0
    assert feedback.collect(wait_s=0.4) == []
    waited = feedback.times()
    assert 0.35 <= waited.exposed_s <= 1.5
    road.serving.set()
    collected(feedback, 2)


@BUFFERED
def test_a_late_oracle_does_not_hold_back_a_quick_one_nor_run_the_clock(road: Road) -> None:
    road.serving.clear()
    feedback = road.open()
    feedback.publish([group(late=ORACLES)])
    time.sleep(0.2)
    assert feedback.times().hidden_s == 0
    _until_waiting(feedback, 2)
    road.serving.set()
    collected(feedback, 2)


@BUFFERED
def test_a_full_oracle_refuses_the_group_and_the_rest_goes_on(road: Road) -> None:
    road.serving.clear()
    road.settings = StreamSettings(budget_bytes=2 * 48 + 10)
    feedback = road.open()
    feedback.publish([group("g1"), group("g2")])
    found = collected(feedback, 2)
    assert {pair: one.status for pair, one in found.items()} == {("g2", "bright"): "refused", ("g2", "dark"): "refused"}
    road.serving.set()
    assert {one.status for one in collected(feedback, 2).values()} == {"complete"}


@BUFFERED
def test_a_forgotten_group_is_not_asked_about(road: Road) -> None:
    road.serving.clear()
    feedback = road.open()
    feedback.publish([group("g1"), group("g2", size=3)])
    feedback.forget(["g1"])
    _until_waiting(feedback, 3)
    road.serving.set()
    assert {pair[0] for pair in collected(feedback, 2)} == {"g2"}
    assert feedback.collect(wait_s=0.5) == []


@LASTING
def test_a_trainer_that_restarts_finds_what_was_scored_meanwhile(road: Road) -> None:
    road.serving.clear()
    first = road.open()
    first.publish([group("g1"), group("g2"), group("old")])
    first.close()
    road.serving.set()
    second = road.open()
    second.resume([("g1", "bright"), ("never", "bright")], done=["old"])
    second.publish([group("g2")])
    found = collected(second, 4)
    assert {pair: one.status for pair, one in found.items()} == {
        ("g1", "bright"): "complete",
        ("never", "bright"): "lost",
        ("g2", "bright"): "complete",
        ("g2", "dark"): "complete",
    }
    assert second.collect(wait_s=0.5) == []


@pytest.mark.timeout(120)
def test_a_blip_of_the_server_is_waited_out_and_a_long_outage_is_said(new_server: Callable[..., Any]) -> None:
    server = new_server()
    road = Road("valkey-9.1", server.url)
    road.serving.clear()
    feedback = road.open(outage_s=3.0)
    feedback.publish([group("g1")])
    time.sleep(0.3)
    server.kill()
    time.sleep(0.5)
    server.start()
    feedback.publish([group("g2")])
    time.sleep(0.5)
    server.kill()
    with pytest.raises(BufferUnavailable):  # noqa: PT012 - until the outage has lasted
        for _ in range(200):
            feedback.collect(wait_s=0.1)
    with pytest.raises(BufferUnavailable):
        feedback.publish([group("g3")])
    feedback.close()


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BufferUnavailable):
        Road("valkey-9.1", f"unix://{tmp_path}/nobody").open()


async def test_a_run_is_in_the_registry_while_it_trains(new_server: Callable[..., Any]) -> None:
    server = new_server()
    settings = FeedbackSettings(oracles=(OracleUse(name="bright"),))
    with pytest.raises(OracleUnavailable, match=r"needs is not registered \(bright\).*registered are none"):
        await asyncio.to_thread(open_buffer_feedback, settings, run_id="r1", url=server.url, group_pictures=4)
    client = await connect(server.url)
    registry = Registry(client)
    await registry.put_oracle(OracleEndpoint(name="bright", url="http://127.0.0.1:1", max_batch=1))
    feedback = await asyncio.to_thread(open_buffer_feedback, settings, run_id="r1", url=server.url, group_pictures=4)
    assert await registry.runs() == ["r1"]
    assert await asyncio.to_thread(feedback.knows, "bright")
    assert not await asyncio.to_thread(feedback.knows, "nobody")
    await asyncio.to_thread(feedback.close)
    assert await registry.runs() == []
    late = OracleUse(name="people", on_missing=OnMissing(wait_s=0, then="mask"))
    with_people = FeedbackSettings(oracles=(OracleUse(name="bright"), late))
    feedback = await asyncio.to_thread(open_buffer_feedback, with_people, run_id="r2", url=server.url, group_pictures=4)
    await asyncio.to_thread(feedback.close)
    assert await registry.runs() == ["r2"]
    joined = await asyncio.to_thread(open_buffer_feedback, settings, run_id="r3", url=server.url, group_pictures=4)
    await asyncio.to_thread(joined.publish, [replace(group(late=("people",)), awaited=("bright",))])
    await asyncio.to_thread(joined.close)  # people were added while it trained, and may still answer
    assert await registry.runs() == ["r2", "r3"]
    again = await asyncio.to_thread(open_buffer_feedback, settings, run_id="r3", url=server.url, group_pictures=4)
    await asyncio.to_thread(again.resume, [("g1", "people")])
    await asyncio.to_thread(again.close)
    assert await registry.runs() == ["r2", "r3"]
    again = await asyncio.to_thread(open_buffer_feedback, settings, run_id="r3", url=server.url, group_pictures=4)
    await asyncio.to_thread(again.resume, [("g1", "bright")])  # it was too slow: nothing that a run would be kept for
    await asyncio.to_thread(again.close)
    assert await registry.runs() == ["r2"]
    whole = OracleEndpoint(name="bright", url="http://127.0.0.1:1", max_batch=3, granularity="group")
    await registry.put_oracle(whole)
    with pytest.raises(RecipeError, match=r"groups of at most 3 pictures, the recipe's have 4 \(bright\): lower"):
        await asyncio.to_thread(open_buffer_feedback, settings, run_id="r1", url=server.url, group_pictures=4)
    await client.aclose()
