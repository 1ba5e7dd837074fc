"""Answers that come late: what is learnt from them, what is only counted, and what a restart or a day does to them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import Deferred, OracleInfo, Scored
from rewardmesh.wire.stream import Claim, Stream, StreamSettings
from tests.unit.trainer.held_back import HeldBack
from trainer.algorithm_recipe import SurrogateSettings
from trainer.amendments import AmendmentLog
from trainer.buffer_feedback import BufferFeedback
from trainer.coordination import Solo
from trainer.feedback import GroupFeedback
from trainer.in_process_feedback import InProcessFeedback
from trainer.late_answers import LateAnswer, LateAnswers, late_figures, staleness_class
from trainer.recipe_sections import StoreSettings
from trainer.replay_bank import ReplayBank
from trainer.run_folder import RunFolder
from trainer.training_process import stream_settings
from trainer.trajectory_store import GroupHeader, OracleRewards, StoredGroup, TrajectoryStore

PEOPLE = "{name: people, weight: 2, send_hint: true, on_missing: {wait_s: 0, then: mask}}"
ORACLES = f"feedback.oracles=[{{name: brightness}}, {PEOPLE}]"
WITH_PEOPLE = (ORACLES, "feedback.max_inflight=1")
WITHOUT_PEOPLE = ("feedback.oracles=[{name: brightness}]", "feedback.max_inflight=1")
DAY_S = 86_400.0


class Darkness(Oracle):
    """The opposite of what the other oracle rewards, so that it shows who was learnt from; keeps the hints."""

    def __init__(self) -> None:
        self.info = OracleInfo(
            name="people", version="1", reward_min=0, reward_max=1, media_types=("image/png",), max_batch=64
        )
        self.hints: list[float | None] = []

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        self.hints += [one.hint for one in batch]
        return [Scored(sample_id=one.sample.sample_id, reward=1 - float(one.picture.mean()) / 255) for one in batch]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def feedback(oracles: dict[str, Any]) -> HeldBack:
    """Oracle `people` answers when the test says so."""
    oracles["people"] = Darkness()
    held = HeldBack(InProcessFeedback(oracles))
    held.hold_oracles = {"people"}
    return held


def releasing(feedback: HeldBack, *, at: int) -> list[Callable[[Any], None]]:
    def release(line: Any) -> None:
        if line["iteration"] == at:
            feedback.hold_oracles = set()

    return [release]


def surrogate_batches(algorithm: Any) -> list[Any]:
    return [batch for network, batch in algorithm.batches if network == "surrogate"]


def test_each_answer_is_in_an_update_of_its_own_and_in_the_bank_from_then_on(
    make_loop, toy_algorithm, feedback, tmp_path
) -> None:
    algorithm = toy_algorithm()
    overrides = (*WITH_PEOPLE, "run.iterations=5", "algorithm.surrogate.late_updates_per_iteration=3")
    make_loop(*overrides, feedback=feedback, algorithm=algorithm, sinks=releasing(feedback, at=3)).run()
    written = lines(tmp_path / "run")
    assert [line["late"]["used"] for line in written[:3]] == [0, 0, 0]
    assert sum(line["late"]["used"] for line in written) == sum(line["late"]["arrived"] for line in written) >= 12
    assert written[3]["updates"] == {"surrogate": 2 + 3, "fake_score": 1, "student": 1}  # 3 batches of 4 groups
    assert written[3]["late"]["staleness"] == {"1": 4, "2": 8} and written[3]["late"]["mean_staleness"] == 2
    assert written[3]["late"]["waiting"] == 0 and sum(written[3]["late"]["age_s"].values()) == 12
    before, after = surrogate_batches(algorithm)[:6], surrogate_batches(algorithm)[6:9]
    for batch in before:  # bright is good, and nobody says otherwise
        assert np.corrcoef(batch.boundaries[:, -1].flatten(1).mean(1), batch.rewards)[0, 1] > 0.9
    for batch in after:  # people weigh twice as much, and like it dark
        assert np.corrcoef(batch.boundaries[:, -1].flatten(1).mean(1), batch.rewards)[0, 1] < -0.9


def test_what_does_not_fit_into_an_iterations_updates_waits_for_the_next(make_loop, feedback, tmp_path) -> None:
    overrides = (*WITH_PEOPLE, "run.iterations=6", "algorithm.surrogate.late_updates_per_iteration=1")
    make_loop(*overrides, feedback=feedback, sinks=releasing(feedback, at=3)).run()
    late = [line["late"] for line in lines(tmp_path / "run")]
    assert [one["used"] for one in late] == [0, 0, 0, 4, 4, 4]
    assert [one["waiting"] for one in late] == [0, 0, 0, 8, 4, 0]


def test_staler_answers_are_counted_and_not_learnt_from(make_loop, toy_algorithm, feedback, tmp_path) -> None:
    algorithm = toy_algorithm()
    overrides = (*WITH_PEOPLE, "run.iterations=4", "algorithm.surrogate.max_late_staleness=1")
    make_loop(*overrides, feedback=feedback, algorithm=algorithm, sinks=releasing(feedback, at=3)).run()
    (late,) = [line["late"] for line in lines(tmp_path / "run") if line["late"]["arrived"]]
    assert (late["arrived"], late["used"], late["too_stale"]) == (12, 4, 8)
    assert late["staleness"] == {"1": 4, "2": 8}
    assert sum(late["age_s"].values()) == 4  # from picture to use: of what is used
    last = surrogate_batches(algorithm)[6]
    assert np.corrcoef(last.boundaries[:, -1].flatten(1).mean(1), last.rewards)[0, 1] < -0.9
    store = TrajectoryStore(
        tmp_path / "run" / "store" / "rank-0", StoreSettings(segment_bytes=65536, max_bytes=1048576)
    )
    assert all("people" in store.rewards(group_id) for group_id in store.group_ids()[:12])  # known, all the same
    store.close()


def test_an_oracle_that_never_answers_is_never_waited_for(make_loop, feedback, tmp_path) -> None:
    began = time.monotonic()
    make_loop(*WITH_PEOPLE, "run.iterations=5", "feedback.wait_s=600", feedback=feedback).run()
    assert time.monotonic() - began < 60
    for line in lines(tmp_path / "run"):
        assert line["groups"]["rewarded"] == 4 and line["updates"]["student"] == 1
        assert line["outcomes"]["people"]["missing"] == 16
        assert line["late"]["arrived"] == line["late"]["used"] == 0 and line["late"]["mean_age_s"] is None


class FullQueue(HeldBack):
    """Oracle `people` takes no group."""

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        return [
            replace(one, status="refused", results={}) if one.oracle == "people" else one
            for one in super().collect(wait_s=wait_s)
        ]


def test_a_full_queue_of_people_holds_back_no_rollout(make_loop, oracles, tmp_path) -> None:
    oracles["people"] = Darkness()
    make_loop(ORACLES, "run.iterations=5", feedback=FullQueue(InProcessFeedback(oracles))).run()
    assert [line["inflight"] for line in lines(tmp_path / "run")] == [1, 1, 1, 1, 0]
    assert all(line["outcomes"]["people"]["dropped"] == 16 for line in lines(tmp_path / "run"))


def test_unwatched_groups_are_given_up_and_counted(make_loop, feedback, tmp_path) -> None:
    make_loop(*WITH_PEOPLE, "run.iterations=4", "feedback.max_late_groups=6", feedback=feedback).run()
    assert [line["late"]["given_up"] for line in lines(tmp_path / "run")] == [0, 2, 4, 4]
    assert len(feedback.forgotten) == 10


def test_hints_go_to_who_wants_them_and_cost_one_look_a_group(make_loop, toy_algorithm, feedback, oracles) -> None:
    algorithm, asked = toy_algorithm(), []
    opinions = algorithm.opinions

    def counted(batch: Any) -> Any:
        asked.append(batch)
        return opinions(batch)

    algorithm.opinions = counted
    make_loop(*WITH_PEOPLE, "run.iterations=2", feedback=feedback, algorithm=algorithm).run()
    assert len(asked) == 8 and all(batch.num_samples == 4 for batch in asked)
    expected = [round(float(value), 5) for batch in asked for value in opinions(batch)]
    assert [round(hint, 5) for hint in oracles["people"].hints if hint is not None] == expected
    make_loop("run.iterations=2", feedback=InProcessFeedback(oracles), algorithm=algorithm, folder="nobody").run()
    assert len(asked) == 8


class People:
    """A stream in memory, and people at its end: they take pictures over at once and answer when they are told to."""

    def __init__(self, settings: StreamSettings, clock: Callable[[], float]) -> None:
        self.stream = MemoryStream("run", settings, clock)
        self.clock = clock
        self.answering = threading.Event()
        self.held: list[Claim] = []
        self.hints: list[float | None] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Stream]:
        working = [asyncio.ensure_future(one()) for one in (self._brightness, self._people)]
        try:
            yield self.stream
        finally:
            for task in working:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _brightness(self) -> None:
        while True:
            claims = await self.stream.claim("brightness", consumer="w", max_samples=64, lease_s=30, wait_s=0.02)
            outcomes = [(one, Scored(sample_id=one.sample.sample_id, reward=one.picture[-1] / 255)) for one in claims]
            await self.stream.settle("brightness", consumer="w", outcomes=outcomes, version="1")

    async def _people(self) -> None:
        while True:
            claims = await self.stream.claim("people", consumer="p", max_samples=64, lease_s=30, wait_s=0.02)
            until = self.clock() + 7 * DAY_S
            outcomes = [(one, Deferred(sample_id=one.sample.sample_id, until=until)) for one in claims]
            await self.stream.settle("people", consumer="p", outcomes=outcomes, version="1")
            self.held += claims
            self.hints += [one.hint for one in claims]
            while self.answering.is_set() and self.held:
                one = self.held.pop()
                result = Scored(sample_id=one.sample.sample_id, reward=float(one.sample.sample_id[-4] == "0"))
                await self.stream.settle_late("people", group_id=one.sample.group_id, result=result, version="1")


@pytest.mark.parametrize("people_are", ["in the recipe", "added by amendment"])
def test_an_answer_a_day_late_teaches_a_trainer_that_was_started_again_meanwhile(
    make_loop, make_recipe, tmp_path, people_are: str
) -> None:
    now = [time.time()]
    oracles = WITH_PEOPLE if people_are == "in the recipe" else WITHOUT_PEOPLE
    people = People(stream_settings(make_recipe(*oracles)), lambda: now[0])
    if oracles == WITHOUT_PEOPLE:
        RunFolder(tmp_path / "run").adopt(make_recipe(*oracles))
        use = make_recipe(*WITH_PEOPLE).feedback.oracles[1]
        asked = Amendment(amendment_id="a", use=use, requested_unix_s=now[0])
        log = AmendmentLog(tmp_path / "run", make_recipe(*oracles))
        log.rule([asked], from_iteration=1, knows=lambda _: True)

    def train(iterations: int, *, until_used: int) -> list[dict[str, Any]]:
        feedback = BufferFeedback(people.open, oracles=("brightness", "people"), sweep_s=0.05)
        used = []

        def enough(line: Any) -> None:
            used.append(line["late"]["used"])
            if sum(used) >= until_used:
                loop.request_stop()

        overrides = (*oracles, f"run.iterations={iterations}", "store.max_age_s=604800")
        loop = make_loop(*overrides, feedback=feedback, clock=lambda: now[0], sinks=[enough])
        try:
            loop.run()
        finally:
            feedback.close()
        return lines(tmp_path / "run")

    assert [line["late"]["arrived"] for line in train(2, until_used=1)] == [0, 0]
    now[0] += DAY_S + 60
    people.answering.set()
    late = [line["late"] for line in train(500, until_used=8)[2:]]
    assert sum(one["age_s"].get("86400", 0) for one in late) == 8  # both rollouts of before, every group
    assert people.hints and None not in people.hints


def test_the_buffer_knows_a_group_for_as_long_as_the_store_could_learn_from_it(make_recipe) -> None:
    assert stream_settings(make_recipe()).group_ttl_s == 7 * DAY_S  # people may be added while it trains
    assert stream_settings(make_recipe(*WITH_PEOPLE)).group_ttl_s == 7 * DAY_S
    assert stream_settings(make_recipe("store.max_age_s=60")).group_ttl_s == DAY_S
    assert stream_settings(make_recipe(*WITH_PEOPLE)).max_staleness is None
    bounded = make_recipe(*WITH_PEOPLE, "algorithm.surrogate.max_late_staleness=2")
    assert stream_settings(bounded).max_staleness == bounded.feedback.max_staleness == 4


def test_the_bound_is_the_forms_own_where_the_recipe_names_none(make_recipe) -> None:
    assert SurrogateSettings().late_bound is None
    assert SurrogateSettings(form="group_bradley_terry").late_bound == 4
    assert SurrogateSettings(form="group_bradley_terry", max_staleness=9, max_late_staleness=7).late_bound == 7
    assert SurrogateSettings(max_staleness=3, max_late_staleness=7).late_bound == 3
    with pytest.raises(RecipeError, match=r"max_late_staleness is -1: .*greater than or equal to 0"):
        make_recipe("algorithm.surrogate.max_late_staleness=-1")
    with pytest.raises(RecipeError, match=r"late_updates_per_iteration is 0"):
        make_recipe("algorithm.surrogate.late_updates_per_iteration=0")


class BesideAnother(Solo):
    """One of two workers; the other's view is the test's."""

    def __init__(self, other: dict[str, Any]) -> None:
        self.other = other

    def decide(self, view: Any, plan: Any) -> dict[str, Any]:
        always = {"awaited": {}, "stop": False, "refused": False, "without": [], "rewarded": 4, "groups": 4}
        decided: dict[str, Any] = plan([view, always | self.other])
        return decided


def test_workers_take_the_same_number_of_updates_whoever_has_late_answers(make_loop, feedback, tmp_path) -> None:
    beside = BesideAnother({"late": 2, "able": True})
    make_loop(*WITH_PEOPLE, "run.iterations=1", feedback=feedback, coordinator=beside).run()
    (line,) = lines(tmp_path / "run")
    assert line["updates"]["surrogate"] == 2 + 2 and line["late"]["used"] == 0
    feedback.hold_oracles = set()
    beside.other = {"late": 0, "able": False}  # and where one cannot follow, the answers wait
    make_loop(*WITH_PEOPLE, "run.iterations=3", feedback=feedback, coordinator=beside).run()
    assert [line["late"]["used"] for line in lines(tmp_path / "run")] == [0, 0, 0]
    assert lines(tmp_path / "run")[-1]["late"]["waiting"] >= 4


def test_the_queue_is_the_same_after_a_restart_and_its_counts_add_up(tmp_path) -> None:
    now = [100.0]
    store = TrajectoryStore(tmp_path, StoreSettings(), clock=lambda: now[0])
    for number in range(4):
        header = GroupHeader(
            group_id=f"g{number}",
            rollout_index=0,
            policy_version=number,
            prompt="p",
            kind="k",
            checks={},
            sigmas=(1.0, 0.0),
            group_size=2,
        )
        store.add_group(StoredGroup(header=header, boundaries=np.zeros((2, 2, 1, 1, 1), np.float16)))
        said = OracleRewards(
            oracle="a", oracle_version="", policy_version=0, boundary_indices=(1,), rewards=((0.0, 1.0),)
        )
        store.add_rewards(f"g{number}", said)
    bank = ReplayBank(store, max_groups=9)
    queue = LateAnswers(store, bank, bound=5, clock=lambda: now[0])
    for group_id, num_scored in (("g0", 2), ("g1", 2), ("g2", 0), ("gone", 2), ("g3", 2), ("g1", 1)):
        queue.came(LateAnswer(group_id, "a", num_scored))
    again = LateAnswers(store, bank, bound=5, clock=lambda: now[0])
    again.restore(json.loads(json.dumps(queue.state())))
    assert again.take_new() == queue.take_new() and again.take_new() == []
    now[0] += 700.0
    plan = again.plan(6, max_groups=1, informative=list)
    assert list(plan.groups) == ["g1"] and [one.group_id for one in plan.waiting] == ["g3"]
    assert len(again) == 6
    again.accept(plan)
    assert len(again) == 1
    figures = late_figures(plan.counts.counts)
    assert {name: figures[name] for name in ("used", "too_stale", "untaught")} == {
        "used": 2,
        "too_stale": 1,
        "untaught": 2,
    }
    assert figures["staleness"] == {"4": 4}  # 6, 5, 4 and 5 behind; what has left the store is not known
    assert figures["age_s"] == {"600": 2} and figures["mean_age_s"] == 700.0
    assert "g1" in bank and "g0" not in bank and "g3" not in bank
    assert [staleness_class(one) for one in (-1, 0, 1, 2, 3, 4, 1000)] == ["0", "0", "1", "2", "2", "4", "512"]
    store.close()
