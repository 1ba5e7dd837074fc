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
    aborting: tuple[str, ...]
    """Oracles that left a whole group of some worker without a reward, and whose absence ends the run."""


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
        tallied, fresh, without = self._take_in(rollout)
        late = self._take_late(tallied, version)
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
                "aborting": sorted({oracle for view in views for oracle in view["without"]}),
            }

        view = {"rewarded": len(fresh), "groups": len(groups), "without": sorted(without)}
        updates = self._coordinator.decide(view, plan)
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
        tallied.counts["late"]["given_up"] = given_up
        return Learned(tallied.counts, staleness, updates["empty"], tuple(updates["aborting"]))

    def _take_in(self, rollout: Rollout) -> tuple[GroupCounts, list[str], set[str]]:
        """Lets the rollout's rewarded groups into the bank.

        Returns counts, those groups, and the oracles with the policy `abort` that left a whole group without a reward.
        """
        tallied = GroupCounts(self._rule.oracles(rollout.index))
        gone = rollout.refused | rollout.lost
        fresh: list[str] = []
        without: set[str] = set()
        for group_id in rollout.group_ids:
            header, answers = self._store.header(group_id), self._store.rewards(group_id)
            for use in self._rule.asked(header.checks, rollout.index):
                answer = answers.get(use.name)
                tallied.add_outcomes(
                    use.name,
                    answer,
                    num_pictures=header.group_size * len(self._rule.boundaries),
                    is_gone=(group_id, use.name) in gone,
                )
                if use.on_missing.then == "abort" and (answer is None or not answer.num_scored):
                    without.add(use.name)
            combined = self._learner.combined(group_id)
            tallied.add(combined, answers)
            if combined is not None:
                self._bank.add(group_id, answers)
                fresh.append(group_id)
        tallied.counts["pairs"] = {
            "refused": len(rollout.refused),
            "lost": len(rollout.lost),
            "missing": len(rollout.awaited),
        }
        self._intake.finish(rollout)
        return tallied, fresh, without

    def _take_late(self, tallied: GroupCounts, version: int) -> list[str]:
        """Groups whose late answers have come since the last iteration, and are not too old for the surrogate."""
        limit = self._recipe.algorithm.surrogate.max_staleness
        arrived = [late for late in self._intake.arrived_late if late.group_id in self._store]
        self._intake.arrived_late.clear()
        ages = [version - self._store.header(late.group_id).policy_version for late in arrived]
        for late in arrived:
            tallied.add_late(late.oracle, late.num_scored)
        usable = dict.fromkeys(
            late.group_id
            for late, age in zip(arrived, ages, strict=True)
            if late.group_id in self._bank and (limit is None or age <= limit)
        )
        tallied.counts["late"] = {"arrived": len(arrived), "used": len(usable), "staleness_sum": sum(ages)}
        return list(usable)
