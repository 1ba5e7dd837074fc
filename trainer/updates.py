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
from trainer.late_answers import LateCounts, LatePlan
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
        """Surrogate (late answers first), fake score, student; the policy version grows if the student learnt."""
        recipe, intake, version = self._recipe.algorithm, self._intake, self._intake.policy_version
        staleness = version - rollout.policy_version
        tallied, fresh, without = self._take_in(rollout)
        bound = recipe.surrogate.staleness_bound
        candidates = self._learner.informative(fresh if bound is None or staleness <= bound else ())
        groups = self._learner.surrogate_groups(candidates, policy_version=version, rng=rng)
        late = self._plan_late(version)
        waiting, size = list(late.groups), self._learner.groups_per_batch
        batches = [waiting[start : start + size] for start in range(0, len(waiting), size)]

        def plan(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            rewarded = any(view["rewarded"] for view in views)
            current = staleness <= self._recipe.feedback.max_staleness
            return {
                "surrogate": recipe.surrogate.updates_per_iteration if all(view["groups"] for view in views) else 0,
                "late": max(view["late"] for view in views) if all(view["able"] for view in views) else 0,
                "student": recipe.student.updates_per_iteration if rewarded and current else 0,
                "empty": not rewarded,
                "aborting": sorted({oracle for view in views for oracle in view["without"]}),
            }

        view = {
            "rewarded": len(fresh),
            "groups": len(groups),
            "late": len(batches),
            "able": bool(batches or groups),
            "without": sorted(without),
        }
        updates = self._coordinator.decide(view, plan)
        for number in range(updates["late"]):
            # A worker with fewer late answers than another keeps step with what it has.
            own = batches[number % len(batches)] if batches else ()
            batch = self._learner.late_groups(own, policy_version=version, rng=rng) if own else groups
            self._learner.update_surrogate(batch, tally)
        for _ in range(updates["surrogate"]):
            self._learner.update_surrogate(groups, tally)
            # What another draw from the bank finds may teach nothing; then what is at hand is learnt from again.
            groups = self._learner.surrogate_groups(candidates, policy_version=version, rng=rng) or groups
        for _ in range(recipe.fake_score.updates_per_iteration - tally.counts.get("fake_score", 0)):
            self._learner.update_fake_score(rollout.group_ids, tally, rng=rng)
        for _ in range(updates["student"]):
            self._learner.update_student(rollout.group_ids, tally, rng=rng)
        if updates["student"]:
            intake.advance_policy()
        self._count_late(tallied, late if updates["late"] >= len(batches) else None)
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

    def _plan_late(self, version: int) -> LatePlan:
        limit = self._recipe.algorithm.surrogate.late_updates_per_iteration * self._learner.groups_per_batch
        return self._intake.late_answers.plan(version, max_groups=limit, informative=self._learner.informative)

    def _count_late(self, tallied: GroupCounts, plan: LatePlan | None) -> None:
        """Late answers that came since the last iteration, and those that leave the queue. None: all of them wait."""
        queue = self._intake.late_answers
        new = queue.take_new()
        for answer in new:
            tallied.add_late(answer.oracle, answer.num_scored)
        if plan is not None:
            queue.accept(plan)
        counts = (plan.counts if plan is not None else LateCounts()).counts
        tallied.counts["late"] = {
            **counts,
            "arrived": len(new),
            "waiting": len(queue),
            "given_up": self._intake.give_up(),
        }
