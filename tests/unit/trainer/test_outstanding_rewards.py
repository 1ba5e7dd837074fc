"""Whatever is outstanding when a trainer is killed, anywhere: no reward is lost, none counted or asked for twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.test_loop import lines
from trainer.feedback import FeedbackDepth, GroupFeedback, PictureGroup, RewardTimes
from trainer.in_process_feedback import InProcessFeedback
from trainer.run_folder import RunFolder
from trainer.trajectory_store import TrajectoryStore

Pair = tuple[str, str]


class Killed(BaseException):
    """As little as possible is done on the way out, as with SIGKILL."""


class Buffer:
    """What outlives trainers: every answer, from when its time has come until its group is forgotten."""

    def __init__(self, oracles: Any, rng: random.Random) -> None:
        self.oracles, self.rng = oracles, rng
        self.looks = 0
        self.answers: dict[Pair, GroupFeedback] = {}
        self.due: dict[Pair, int] = {}
        self.forgotten: set[str] = set()

    def ask(self, group: PictureGroup) -> None:
        assert group.group_id not in self.forgotten
        for oracle in (*group.awaited, *group.late):
            if (group.group_id, oracle) in self.answers:
                continue
            asked = InProcessFeedback(self.oracles)
            asked.publish([group_for(group, oracle)])
            (answer,) = asked.collect()
            self.answers[group.group_id, oracle] = answer
            self.due[group.group_id, oracle] = self.looks + self.rng.randrange(3 if oracle in group.awaited else 40)


def group_for(group: PictureGroup, oracle: str) -> PictureGroup:
    return PictureGroup(
        run_id=group.run_id,
        group_id=group.group_id,
        policy_version=group.policy_version,
        prompt=group.prompt,
        checks=group.checks,
        samples=group.samples,
        awaited=(oracle,),
    )


class Trainer:
    """One trainer's feedback; its `calls_left`-th call is its last, before or after it has had its effect."""

    def __init__(self, buffer: Buffer, *, calls_left: int) -> None:
        self.buffer = buffer
        self.calls_left = calls_left
        self.watched: set[Pair] = set()

    def _call(self) -> None:
        self.calls_left -= 1
        if self.calls_left <= 0 and self.buffer.rng.random() < 0.5:
            raise Killed

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        for group in groups:
            self._call()
            self.buffer.ask(group)
            self.watched.update((group.group_id, oracle) for oracle in (*group.awaited, *group.late))
        self._call()

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        self._call()
        self.buffer.looks += 1
        ready = sorted(pair for pair in self.watched if self.buffer.due[pair] <= self.buffer.looks)
        self.watched -= set(ready)
        self._call()
        return [self.buffer.answers[pair] for pair in ready]

    def forget(self, group_ids: Sequence[str]) -> None:
        self._call()
        self.buffer.forgotten.update(group_ids)
        self._call()

    def resume(self, pairs: Sequence[Pair], *, done: Sequence[str] = ()) -> None:
        self.watched.update(pairs)
        self.buffer.forgotten.update(done)

    def knows(self, oracle: str) -> bool:
        return oracle in self.buffer.oracles

    def asked(self) -> Any:
        return ()

    def rule(self, amendment: Any) -> None: ...

    def depth(self) -> dict[str, FeedbackDepth]:
        return {}

    def set_policy_version(self, version: int) -> None:
        self._call()

    def set_iteration(self, iteration: int) -> None: ...

    def times(self) -> RewardTimes:
        return RewardTimes()

    def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(4))
def test_no_reward_is_lost_or_taken_twice(
    make_loop, make_recipe, oracles, brightness, tmp_path: Path, seed: int
) -> None:
    oracles["people"] = brightness("people")
    buffer = Buffer(oracles, random.Random(seed))
    late = "{name: people, on_missing: {wait_s: 0, then: mask}}"
    overrides = (
        f"feedback.oracles=[{{name: brightness, applies: objects}}, {{name: spelled, applies: text}}, {late}]",
        "run.iterations=12",
        "run.checkpoint_every=3",
    )
    kills = 0
    while True:
        feedback = Trainer(buffer, calls_left=buffer.rng.randrange(5, 90) if kills < 6 else 10**9)
        try:
            make_loop(*overrides, feedback=feedback).run()
            break
        except Killed:
            kills += 1
    assert kills > 2
    names = {name: Counter(oracle.seen) for name, oracle in oracles.items()}
    assert all(count == 1 for counts in names.values() for count in counts.values())
    written = lines(tmp_path / "run")
    assert [line["iteration"] for line in written] == list(range(1, 13))
    assert sum(line["late"]["arrived"] for line in written) > 5
    store = TrajectoryStore(RunFolder(tmp_path / "run").store(0), make_recipe(*overrides).store)
    try:
        for name, counts in names.items():
            outcomes = [line["outcomes"].get(name, {}) for line in written]
            learnt = sum(one.get("scored", 0) + one.get("late", 0) for one in outcomes)
            asked = sum(one.get("asked", 0) for one in outcomes)
            stored = sum(
                store.rewards(group)[name].num_scored for group in store.group_ids() if name in store.rewards(group)
            )
            outstanding = sum(4 for (_, oracle) in feedback.watched if oracle == name)
            assert learnt == stored
            assert learnt + outstanding == asked == sum(counts.values())
    finally:
        store.close()
