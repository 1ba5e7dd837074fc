"""Learning from stored groups: which of them make a batch, and the updates of one iteration.

Axis legend: B samples, G group size, K steps, C/H/W latent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.interface import Algorithm, TrajectoryBatch
from trainer.losses.advantages import group_advantages
from trainer.replay_bank import ReplayBank
from trainer.rewards import CombinedRewards, RewardRule
from trainer.trajectory_store import TrajectoryStore

__all__ = ["Learner", "UpdateTally", "batch_advantages"]


class UpdateTally:
    """Figures and seconds of one iteration's updates, by network."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._figures: dict[str, dict[str, list[float]]] = {}

    def add(self, network: str, figures: Mapping[str, float], seconds: float) -> None:
        """Takes one update in. A figure that is not finite (a ranking of no pairs, say) says nothing: left out."""
        self.seconds[network] = self.seconds.get(network, 0.0) + seconds
        self.counts[network] = self.counts.get(network, 0) + 1
        kept = self._figures.setdefault(network, {})
        for name, value in figures.items():
            if math.isfinite(value):
                kept.setdefault(name, []).append(float(value))

    def means(self) -> dict[str, dict[str, float]]:
        """Mean of each figure over the updates of its network."""
        return {
            network: {name: math.fsum(values) / len(values) for name, values in figures.items()}
            for network, figures in self._figures.items()
        }


class Learner:
    """Makes batches of whole groups and runs the algorithm's updates on them."""

    def __init__(
        self,
        algorithm: Algorithm,
        recipe: AlgorithmRecipe,
        *,
        group_size: int,
        rule: RewardRule,
        store: TrajectoryStore,
        bank: ReplayBank,
    ) -> None:
        self._algorithm = algorithm
        self._recipe = recipe
        self._rule = rule
        self._store = store
        self._bank = bank
        self.groups_per_batch = max(1, recipe.batch_size // group_size)

    def combined(self, group_id: str) -> CombinedRewards | None:
        """The group's reward, from the oracles that the bank holds for it, or from all that the store does."""
        answers = self._store.rewards(group_id)
        if group_id in self._bank:
            taken_in = self._bank.oracles(group_id)
            answers = {name: answer for name, answer in answers.items() if name in taken_in}
        return self._rule.combine(self._store.header(group_id), answers)

    def informative(self, group_ids: Sequence[str]) -> list[str]:
        """Groups that the surrogate can learn from: a contrast needs two rewards that differ, a regression does not.

        Those whose rewards lie closer together than the recipe's `min_spread` are left out by all.
        """
        settings, found = self._recipe.surrogate, []
        for group_id in group_ids:
            combined = self.combined(group_id)
            if combined is None or combined.spread < settings.min_spread:
                continue
            if settings.form == "value_regression" or not combined.tied:
                found.append(group_id)
        return found

    def surrogate_groups(self, fresh: Sequence[str], *, policy_version: int, rng: np.random.Generator) -> list[str]:
        """Groups of one surrogate batch: `fresh_share` of them from `fresh`, the rest from the bank.

        Where one has too few, the other fills in. Nothing older than `max_staleness` is taken from the bank.
        """
        settings = self._recipe.surrogate
        wanted = self.groups_per_batch
        from_fresh = _some(fresh, max(1, round(wanted * settings.fresh_share)), rng)
        if settings.fresh_share == 1:
            return from_fresh
        from_bank = self._from_bank(wanted - len(from_fresh), exclude=fresh, policy_version=policy_version, rng=rng)
        more = [group_id for group_id in fresh if group_id not in from_fresh]
        return from_fresh + from_bank + _some(more, wanted - len(from_fresh) - len(from_bank), rng)

    def late_groups(self, late: Sequence[str], *, policy_version: int, rng: np.random.Generator) -> list[str]:
        """Groups of a surrogate batch: all of `late`, filled up from the bank where the form has one."""
        room = self.groups_per_batch - len(late) if self._recipe.surrogate.fresh_share < 1 else 0
        return [*late, *self._from_bank(room, exclude=late, policy_version=policy_version, rng=rng)]

    def _from_bank(
        self, count: int, *, exclude: Sequence[str], policy_version: int, rng: np.random.Generator
    ) -> list[str]:
        """Up to `count` informative groups, none older than the surrogate may learn from."""
        if count <= 0:
            return []
        bound = self._recipe.surrogate.staleness_bound
        oldest = None if bound is None else policy_version - bound
        drawn = self._bank.sample(2 * self.groups_per_batch, rng=rng, exclude=exclude, min_policy_version=oldest)
        return self.informative(drawn)[:count]

    def update_surrogate(self, group_ids: Sequence[str], tally: UpdateTally) -> None:
        self._update("surrogate", self._algorithm.surrogate_step, self.rewarded_batch(group_ids), tally)

    def update_fake_score(self, group_ids: Sequence[str], tally: UpdateTally, *, rng: np.random.Generator) -> None:
        batch = self.plain_batch(_some(group_ids, self.groups_per_batch, rng))
        self._update("fake_score", self._algorithm.fake_score_step, batch, tally)

    def update_student(self, group_ids: Sequence[str], tally: UpdateTally, *, rng: np.random.Generator) -> None:
        batch = self.student_batch(_some(group_ids, self.groups_per_batch, rng))
        self._update("student", self._algorithm.student_step, batch, tally)

    def plain_batch(self, group_ids: Sequence[str]) -> TrajectoryBatch:
        """Whole groups, without rewards."""
        parts = [torch.from_numpy(self._store.boundaries(group_id)).float() for group_id in group_ids]
        return self._batch(group_ids, parts)

    def student_batch(self, group_ids: Sequence[str]) -> TrajectoryBatch:
        """Whole groups, with what their rewards lack where the recipe weighs the learned reward by that."""
        batch = self.plain_batch(group_ids)
        if self._recipe.student.reward_weighting == "even":
            return batch
        return replace(batch, shortfall=torch.cat([self._shortfall(group_id) for group_id in group_ids]))

    def _shortfall(self, group_id: str) -> Tensor:
        """[G]; a sample without a reward lacks all of it, for all that is known."""
        lacking = torch.ones(self._store.header(group_id).group_size)
        combined = self.combined(group_id)
        if combined is not None:
            lacking[combined.kept] = torch.from_numpy(combined.shortfall)
        return lacking

    def rewarded_batch(self, group_ids: Sequence[str]) -> TrajectoryBatch:
        """The samples that have a reward, with rewards and advantages. Raises ValueError for a group that has none."""
        parts, rewards, by_boundary = [], [], []
        for group_id in group_ids:
            combined = self.combined(group_id)
            if combined is None:
                raise ValueError(f"group {group_id} has no reward to learn from")
            kept = torch.from_numpy(self._store.boundaries(group_id)[combined.kept]).float()
            parts.append(kept)
            rewards.append(torch.from_numpy(combined.rewards))
            if combined.boundary_rewards is not None:
                by_boundary.append(torch.from_numpy(combined.boundary_rewards))
        plain = self._batch(group_ids, parts)
        joined = torch.cat(rewards)
        table = torch.cat(by_boundary) if by_boundary else None
        return TrajectoryBatch(
            boundaries=plain.boundaries,
            prompts=plain.prompts,
            group_index=plain.group_index,
            rewards=joined,
            advantages=self._advantages(joined, plain.group_index),
            boundary_rewards=table,
            boundary_advantages=None
            if table is None
            else torch.stack([self._advantages(column, plain.group_index) for column in table.unbind(1)], dim=1),
        )

    def _advantages(self, rewards: Tensor, group_index: Tensor) -> Tensor:
        settings = self._recipe.surrogate
        if self._rule.join == "gdpo":
            return batch_advantages(rewards, group_index, clip=settings.advantage_clip)
        return group_advantages(rewards, group_index, std=settings.advantage_std, clip=settings.advantage_clip).values

    def _batch(self, group_ids: Sequence[str], parts: Sequence[Tensor]) -> TrajectoryBatch:
        sizes = torch.tensor([part.shape[0] for part in parts])
        prompts = [self._store.header(group_id).prompt for group_id in group_ids]
        return TrajectoryBatch(
            boundaries=torch.cat(list(parts)),
            prompts=[prompt for prompt, part in zip(prompts, parts, strict=True) for _ in range(part.shape[0])],
            group_index=torch.repeat_interleave(torch.arange(len(parts)), sizes),
        )

    def _update(
        self,
        network: str,
        step: Callable[[TrajectoryBatch], dict[str, float]],
        batch: TrajectoryBatch,
        tally: UpdateTally,
    ) -> None:
        began = time.perf_counter()
        figures = step(batch)
        tally.add(network, figures, time.perf_counter() - began)


def batch_advantages(joined: Tensor, group_index: Tensor, *, clip: float) -> Tensor:
    """Joined rewards that are normalised within their groups already, brought to one scale over the batch.

    Equation: (E14) A = clip((r - mean_batch) / (std_batch + 1e-4)); 0 in a group whose rewards are all equal
    Shapes:   joined [B] float32; group_index [B] int64 from 0, every group present; returns [B]
    Raises:   ValueError as `group_advantages` does
    """
    tied = group_advantages(joined, group_index).tied[group_index]
    values = (joined - joined.mean()) / (joined.std(correction=0) + 1e-4)
    return torch.where(tied, torch.zeros_like(values), values.clamp(-clip, clip))


def _some(group_ids: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Up to `count` of them, evenly drawn, none twice."""
    if count <= 0:
        return []
    if len(group_ids) <= count:
        return list(group_ids)
    return [group_ids[int(i)] for i in rng.choice(len(group_ids), size=count, replace=False)]
