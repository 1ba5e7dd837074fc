"""The queue on a server against the plain model: whatever is done to both, in any order, they answer the same.

Raters, leases and their ends, choices made twice, late, or by the wrong rater, undo, gold and repeats, pauses, closing
and settling, small budgets, lost connections, and a server killed with -9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import RewardmeshError
from services.preference import memory_queue, memory_state, redis_records
from services.preference.memory_queue import MemoryQueue
from services.preference.model import GoldPair, Group, Presentation, QueueSettings, Rater, digest_of
from services.preference.queue import PreferenceQueue
from services.preference.redis_queue import RedisQueue
from tests.contract.conftest import Server
from tests.contract.preference import START, Clock, group_of, pictures_of, questions_of, side_of

RATERS = ("ada", "bob", "cyd")
CHOICES = ("left", "right", "tie", "both_bad", "skip", "like", "dislike")
SMALL = {"MADE_KEPT": 8, "REPEAT_AFTER": 2, "LATEST_KEPT": 10}  # bounds that a short story reaches

raters = st.sampled_from(RATERS)
Shown = tuple[Presentation, Presentation]  # as the model and as the server shows it


class Story(RuleBasedStateMachine):
    """What happens to both queues. Ids of leases are each queue's own; all else must be the same."""

    server: ClassVar[Server]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.groups: dict[str, tuple[Group, list[bytes], bool]] = {}
        self.given: list[Shown] = []
        self.choice_ids: list[str] = []

    @initialize(
        seed=st.integers(0, 1000),
        k=st.integers(1, 3),
        gold=st.sampled_from([0.0, 0.2, 0.4]),
        repeat=st.sampled_from([0.0, 0.2, 0.45]),
        kept_bytes=st.sampled_from([500, 10_000]),
    )
    def open(self, seed: int, k: int, gold: float, repeat: float, kept_bytes: int) -> None:
        its = QueueSettings(
            raters_per_comparison=k,
            gold_share=gold,
            repeat_share=repeat,
            kept_bytes=kept_bytes,
            budget_bytes=2000,
            lease_s=60,
            min_gold_answers=2,
            min_gold_rate=0.6,
            max_leases=3,
        )
        self.its, self.rng, self.name = its, Random(seed), uuid4().hex
        self.model = MemoryQueue(its, self.clock, Random(seed))
        self.client: Redis = self.runner.run(connect(self.server.url))
        self.connect_anew()
        for index, rater_id in enumerate(RATERS):
            rater = Rater(rater_id=rater_id, invite_id="i", joined=START + index)
            self.both(lambda queue, rater=rater: queue.join(rater))
        for index in range(5):
            pictures = pictures_of(f"gold{index}")
            first, second = map(digest_of, pictures)
            pair = GoldPair(gold_id=str(index), prompt="gold", first=first, second=second, preferred="first")
            self.both(lambda queue, pair=pair, pictures=pictures: queue.add_gold(pair, pictures))
        for num in (2, 2, 4):
            self.a_group_comes(num=num, deadline_s=100_000.0, single=False)

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.everything_is_the_same()
            self.runner.run(self.client.flushall())
            self.runner.run(self.client.aclose())
        self.runner.close()

    def connect_anew(self) -> None:
        self.runner.run(self.client.aclose())
        self.client = self.runner.run(connect(self.server.url))
        while self.runner.run(self.client.info("persistence"))["loading"]:
            time.sleep(0.01)
        self.queue = RedisQueue(self.client, self.its, name=self.name, clock=self.clock, rng=self.rng)

    def each(self, ask: Callable[[PreferenceQueue], Awaitable[Any]]) -> list[Any]:
        """What the model and the server answer; the kind of an error is an answer."""

        async def answer(queue: PreferenceQueue) -> Any:
            try:
                return await ask(queue)
            except RewardmeshError as error:
                return type(error)

        return [self.runner.run(answer(queue)) for queue in (self.model, self.queue)]

    def both(self, ask: Callable[[PreferenceQueue], Awaitable[Any]]) -> Any:
        expected, got = self.each(ask)
        assert got == expected
        return got

    def remember(self, answers: list[Any]) -> None:
        expected, got = answers
        if not isinstance(expected, Presentation):
            assert got == expected
            return
        assert isinstance(got, Presentation), got
        assert got == expected.model_copy(update={"lease_id": got.lease_id})
        self.given.append((expected, got))

    def lease_of(self, queue: PreferenceQueue, shown: Shown) -> str:
        return shown[0 if queue is self.model else 1].lease_id

    # Groups

    @rule(num=st.integers(1, 4), deadline_s=st.sampled_from([50.0, 1000.0, 100_000.0]), single=st.booleans())
    def a_group_comes(self, num: int, deadline_s: float, single: bool) -> None:
        group_id = f"g{len(self.groups)}"
        pictures = pictures_of("shared" if len(self.groups) % 3 == 0 else group_id, num)
        group = group_of(group_id, pictures, accepted=self.clock.now, deadline_s=deadline_s)
        questions = questions_of(group, single=single)
        if self.both(lambda queue: queue.accept(group, pictures, questions)) is True:
            self.groups[group.key] = group, pictures, single

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def a_group_comes_again(self, data: st.DataObject) -> None:
        group, pictures, single = self.groups[data.draw(st.sampled_from(sorted(self.groups)))]
        self.both(lambda queue: queue.accept(group, pictures, questions_of(group, single=single)))

    @rule(max_groups=st.integers(1, 3), rater_id=raters)
    def due_groups_are_closed(self, max_groups: int, rater_id: str) -> None:
        self.both(lambda queue: queue.close_due(max_groups=max_groups))
        self.a_rater_takes_back(rater_id, 4)

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def a_group_is_settled(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.groups)))
        self.both(lambda queue: queue.settled(key))

    @rule()
    def what_is_closed_is_settled(self) -> None:
        for group in self.both(lambda queue: queue.close_due()):
            self.both(lambda queue, key=group.key: queue.settled(key))

    # Raters

    @rule(rater_id=raters, times=st.integers(1, 3))
    def a_rater_asks(self, rater_id: str, times: int) -> None:
        for _ in range(times):
            self.remember(self.each(lambda queue: queue.lease(rater_id)))

    @rule(rater_id=raters, choices=st.lists(st.integers(0, 29), min_size=1, max_size=9))
    def a_rater_works(self, rater_id: str, choices: list[int]) -> None:
        """Answers all that they hold or are given, most often for the first picture, until there is nothing."""
        for number in choices:
            answers = self.each(lambda queue: queue.lease(rater_id))
            self.remember(answers)
            if isinstance(answers[0], Presentation):
                what = answers[0]
                usual = "like" if what.right is None else side_of(what, "first")
                others = ("dislike", "skip") if what.right is None else CHOICES[:5]
                choice = others[number] if number < len(others) else usual
                self.choose(self.given[-1], choice, rater_id, uuid4().hex)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), choice=st.sampled_from(CHOICES), wrong=st.integers(0, 9), again=st.integers(0, 4))
    def a_rater_chooses(self, data: st.DataObject, choice: Any, wrong: int, again: int) -> None:
        shown = self.given[-data.draw(st.integers(1, min(6, len(self.given))))]
        rater_id = RATERS[wrong] if wrong < len(RATERS) else shown[0].rater_id
        known = self.choice_ids[-data.draw(st.integers(1, 9)) :] if again == 0 else []
        self.choose(shown, choice, rater_id, known[0] if known else uuid4().hex)

    def choose(self, shown: Shown, choice: Any, rater_id: str, choice_id: str) -> None:
        self.choice_ids.append(choice_id)
        self.both(
            lambda queue: queue.choose(
                self.lease_of(queue, shown), choice, rater_id=rater_id, choice_id=choice_id, look_s=1.5
            )
        )

    @rule(rater_id=raters, times=st.integers(1, 4))
    def a_rater_takes_back(self, rater_id: str, times: int) -> None:
        for _ in range(times):
            self.remember(self.each(lambda queue: queue.undo(rater_id=rater_id)))

    @precondition(lambda self: self.given)
    @rule(data=st.data(), rater_id=raters, renews=st.booleans())
    def a_lease_is_renewed_or_released(self, data: st.DataObject, rater_id: str, renews: bool) -> None:
        shown = data.draw(st.sampled_from(self.given[-6:]))
        if not renews:
            self.both(lambda queue: queue.release(self.lease_of(queue, shown), rater_id=rater_id))
            return
        expected, got = self.each(lambda queue: queue.renew(self.lease_of(queue, shown), rater_id=rater_id))
        if isinstance(expected, Presentation):
            got = got.model_copy(update={"lease_id": expected.lease_id})
        assert got == expected

    # What else happens

    @rule(seconds=st.sampled_from([0.001, 1.0, 5.0, 29.999, 60.0, 1000.0, 86_400.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    @rule(rater_id=st.sampled_from((*RATERS, "nobody")), paused=st.integers(0, 2))
    def a_rater_is_paused(self, rater_id: str, paused: int) -> None:
        self.both(lambda queue: queue.pause_rater(rater_id, paused=paused == 0, why="a reason"))

    @rule(rater_id=raters, stays=st.booleans())
    def a_rater_is_paused_while_they_look(self, rater_id: str, stays: bool) -> None:
        answers = self.each(lambda queue: queue.lease(rater_id))
        self.remember(answers)
        self.both(lambda queue: queue.pause_rater(rater_id, paused=True))
        if isinstance(answers[0], Presentation):
            self.choose(self.given[-1], "skip", rater_id, uuid4().hex)
        self.both(lambda queue: queue.pause_rater(rater_id, paused=stays))

    @rule(rater_id=raters)
    def the_queue_is_paused_for_a_while(self, rater_id: str) -> None:
        self.both(lambda queue: queue.pause(paused=True))
        self.a_rater_asks(rater_id, 1)
        self.a_rater_takes_back(rater_id, 1)
        self.both(lambda queue: queue.pause(paused=False))

    @rule(is_killed=st.integers(0, 5))
    def the_connection_is_lost(self, is_killed: int) -> None:
        if is_killed == 0:
            self.server.kill()
            self.server.start()
        self.connect_anew()

    @invariant()
    def what_waits_is_the_same(self) -> None:
        if hasattr(self, "queue"):
            self.both(lambda queue: queue.depth())

    @rule()
    def everything_is_the_same(self) -> None:
        self.both(lambda queue: queue.raters())
        self.both(lambda queue: queue.latest(12))
        self.both(lambda queue: queue.settled_groups())
        for key, (group, *_) in self.groups.items():
            self.both(lambda queue, key=key: queue.group(key))
            self.both(lambda queue, key=key: queue.answers(key))
            self.both(lambda queue, digest=group.pictures[0].digest: queue.picture(digest))
        for rater_id in RATERS:
            expected, got = self.each(lambda queue, rater_id=rater_id: queue.held(rater_id))
            ids = {one.lease_id: other.lease_id for one, other in self.given}
            assert got == [one.model_copy(update={"lease_id": ids[one.lease_id]}) for one in expected]


@pytest.mark.timeout(180)
def test_the_server_does_what_the_model_does(
    new_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_queue, memory_state, redis_records):
        for bound, value in SMALL.items():
            if hasattr(module, bound):
                monkeypatch.setattr(module, bound, value)
    Story.server = new_server("redis-6.2")
    quick = settings(
        max_examples=25, stateful_step_count=40, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Story, settings=quick)
