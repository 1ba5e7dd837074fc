"""Feedback without a buffer: the oracles are objects of this process, asked when groups are published.

For research machines and tests. All reward time is exposed: nothing overlaps it, and the figures say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from rewardmesh.kit.oracle import OracleInput
from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.errors import OracleRejected
from rewardmesh.wire.messages import Deferred, OracleInfo, Sample, Scored, ScoreFailure
from trainer.feedback import FeedbackDepth, GroupFeedback, PictureGroup, RewardClock, RewardTimes

__all__ = ["InProcessFeedback", "InProcessOracle"]

Result = Scored | ScoreFailure | Deferred


class InProcessOracle(Protocol):
    """What is asked of an oracle here; `rewardmesh.kit.Oracle` is one."""

    @property
    def info(self) -> OracleInfo:
        """Its name, version, range and largest batch."""

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        """One result a sample, in any order."""


class InProcessFeedback:
    """Asks each oracle for all groups of a `publish` together, in batches as large as it takes."""

    def __init__(self, oracles: Mapping[str, InProcessOracle]) -> None:
        self._oracles = dict(oracles)
        self._ready: list[GroupFeedback] = []
        self._seen: set[tuple[str, str]] = set()
        self._clock = RewardClock()

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        """Raises OracleRejected if a recipe names an oracle that is not here."""
        names = sorted({name for group in groups for name in (*group.awaited, *group.late)})
        for name in names:
            asked = [group for group in groups if name in (*group.awaited, *group.late)]
            fresh = [group for group in asked if (group.group_id, name) not in self._seen]
            pairs = [(group.group_id, name) for group in fresh]
            self._seen.update(pairs)
            self._clock.started(pairs)
            self._clock.blocked(True)
            try:
                self._ready.extend(self._score(name, fresh))
            finally:
                for pair in pairs:
                    self._clock.finished(pair)
                self._clock.blocked(False)

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        """Everything there is; there is nothing to wait for."""
        del wait_s
        ready, self._ready = self._ready, []
        return ready

    def knows(self, oracle: str) -> bool:
        return oracle in self._oracles

    def asked(self) -> Sequence[Amendment]:
        """Nobody else can ask here."""
        return ()

    def rule(self, amendment: Amendment) -> None:
        """Nobody waits for it."""

    def depth(self) -> Mapping[str, FeedbackDepth]:
        return {name: FeedbackDepth() for name in self._oracles}

    def set_policy_version(self, version: int) -> None:
        """Nothing waits here that could grow stale."""

    def set_iteration(self, iteration: int) -> None:
        """Nobody looks at this from outside."""

    def forget(self, group_ids: Sequence[str]) -> None:
        gone = set(group_ids)
        self._seen = {pair for pair in self._seen if pair[0] not in gone}

    def resume(self, pairs: Sequence[tuple[str, str]], *, done: Sequence[str] = ()) -> None:
        """Nothing is known from before: every pair is lost."""
        del done
        self._ready.extend(GroupFeedback(group_id=group, oracle=oracle, status="lost") for group, oracle in pairs)

    def times(self) -> RewardTimes:
        return self._clock.times()

    def close(self) -> None:
        """Leaves the oracles to their owner."""

    def _score(self, name: str, groups: Sequence[PictureGroup]) -> list[GroupFeedback]:
        oracle = self._oracles.get(name)
        if oracle is None:
            raise OracleRejected("no such oracle in this process", name, f"known are {', '.join(self._oracles)}")
        by_group = [
            [
                OracleInput(sample=sample, picture=pictured.picture, hint=pictured.hint)
                for sample, pictured in zip(group.wire_samples(), group.samples, strict=True)
            ]
            for group in groups
        ]
        results: dict[str, Result] = {}
        for batch in _batches(by_group, oracle.info):
            answers = {answer.sample_id: answer for answer in oracle.score(batch)}
            results.update({one.sample.sample_id: _checked(one.sample, answers, oracle.info) for one in batch})
        return [
            GroupFeedback(
                group_id=group.group_id,
                oracle=name,
                results={sample.sample_id: results[sample.sample_id] for sample in group.samples},
                oracle_version=oracle.info.version,
            )
            for group in groups
        ]


def _batches(by_group: Sequence[list[OracleInput]], info: OracleInfo) -> list[list[OracleInput]]:
    """As large as the oracle takes them; one group each, if it judges whole groups. Raises OracleRejected."""
    if info.granularity == "group":
        largest = max(map(len, by_group), default=0)
        if largest > info.max_batch:
            what = f"it judges whole groups of at most {info.max_batch} pictures, and one has {largest}"
            raise OracleRejected(what, info.name, "lower prompts.group_size, or raise its max_batch")
        return list(by_group)
    inputs = [one for group in by_group for one in group]
    return [inputs[start : start + info.max_batch] for start in range(0, len(inputs), info.max_batch)]


def _checked(sample: Sample, answers: Mapping[str, Result], info: OracleInfo) -> Result:
    """The answer, or the failure that its absence or an impossible reward is."""
    answer = answers.get(sample.sample_id)
    if answer is None:
        detail = "the oracle returned nothing for this sample"
        return ScoreFailure(sample_id=sample.sample_id, code="invalid_answer", detail=detail, retryable=False)
    if isinstance(answer, Scored) and not (
        math.isfinite(answer.reward) and info.reward_min <= answer.reward <= info.reward_max
    ):
        detail = f"reward {answer.reward} is outside [{info.reward_min}, {info.reward_max}]"
        return ScoreFailure(sample_id=sample.sample_id, code="invalid_answer", detail=detail, retryable=False)
    return answer
