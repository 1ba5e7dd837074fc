"""What one iteration learns, and from which groups: takes a rollout's rewards in and runs the updates.

All workers run the same updates in the same order, as rank 0 planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.coordination import Coordinator
from trainer.intake import Intake
from trainer.iteration_record import GroupCounts
from trainer.learning import Learner, UpdateTally
from trainer.recipe import Recipe
from trainer.replay_bank import ReplayBank
from trainer.rewards import RewardRule
from trainer.rollouts import Rollout
from trainer.trajectory_store import TrajectoryStore

__all__ = ["Learned", "Updates"]


@dataclass(frozen=True)
class Learned:
    """What came of one iteration."""

    counts: Mapping[str, Any]
    """This worker's, to be added over workers."""
    staleness: int
    """Policy versions between the rollout and the student that learnt from it."""
    empty: bool
    """Not one group of any worker had a reward."""


class Updates:
    """The learning part of an iteration."""

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        *,
        intake: Intake,
        store: TrajectoryStore,
        bank: ReplayBank,
        rule: RewardRule,
        coordinator: Coordinator,
    ) -> None:
        self._recipe = recipe
        self._learner = learner
        self._intake = intake
        self._store = store
        self._bank = bank
        self._rule = rule
        self._coordinator = coordinator

    def learn(self, rollout: Rollout, tally: UpdateTally, rng: np.random.Generator) -> Learned:
        """Surrogate, fake score, student, in this order; the policy version grows if the student learnt."""
        recipe, intake, version = self._recipe.algorithm, self._intake, self._intake.policy_version
        staleness = version - rollout.policy_version
        counts, fresh = self._take_in(rollout)
        late_counts, late = self._take_late(version)
        limit = recipe.surrogate.max_staleness
        candidates = self._learner.informative([*(fresh if limit is None or staleness <= limit else ()), *late])
        groups = self._learner.surrogate_groups(candidates, policy_version=version, rng=rng)

        def plan(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            rewarded = any(view["rewarded"] for view in views)
            current = staleness <= self._recipe.feedback.max_staleness
            return {
                "surrogate": recipe.surrogate.updates_per_iteration if all(view["groups"] for view in views) else 0,
                "student": recipe.student.updates_per_iteration if rewarded and current else 0,
                "empty": not rewarded,
            }

        updates = self._coordinator.decide({"rewarded": len(fresh), "groups": len(groups)}, plan)
        for _ in range(updates["surrogate"]):
            self._learner.update_surrogate(groups, tally)
            groups = self._learner.surrogate_groups(candidates, policy_version=version, rng=rng)
        for _ in range(recipe.fake_score.updates_per_iteration - tally.counts.get("fake_score", 0)):
            self._learner.update_fake_score(rollout.group_ids, tally, rng=rng)
        for _ in range(updates["student"]):
            self._learner.update_student(rollout.group_ids, tally, rng=rng)
        if updates["student"]:
            intake.advance_policy()
        given_up = intake.give_up(oldest_version=0 if limit is None else intake.policy_version - limit)
        return Learned({**counts, "late": {**late_counts, "given_up": given_up}}, staleness, updates["empty"])

    def _take_in(self, rollout: Rollout) -> tuple[dict[str, Any], list[str]]:
        """Lets the rollout's rewarded groups into the bank; returns counts and those groups."""
        tallied = GroupCounts(self._rule.oracles)
        fresh = []
        for group_id in rollout.group_ids:
            answers = self._store.rewards(group_id)
            combined = self._learner.combined(group_id)
            tallied.add(combined, answers)
            if combined is not None:
                self._bank.add(group_id, answers)
                fresh.append(group_id)
        pairs = {"refused": rollout.refused, "lost": rollout.lost, "missing": len(rollout.awaited)}
        self._intake.finish(rollout)
        return {**tallied.counts, "pairs": pairs}, fresh

    def _take_late(self, version: int) -> tuple[dict[str, Any], list[str]]:
        """Groups whose late answers have come since the last iteration, and are not too old for the surrogate."""
        limit = self._recipe.algorithm.surrogate.max_staleness
        arrived = [group_id for group_id in self._intake.arrived_late if group_id in self._store]
        self._intake.arrived_late.clear()
        ages = {group_id: version - self._store.header(group_id).policy_version for group_id in arrived}
        usable = [
            group_id for group_id, age in ages.items() if group_id in self._bank and (limit is None or age <= limit)
        ]
        return {"arrived": len(arrived), "used": len(usable), "staleness_sum": sum(ages.values())}, usable
