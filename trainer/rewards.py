"""From what the oracles said of a group to one reward a sample: which oracle is asked what, and how answers are joined.

Axis legend: G group size, K steps, P scored boundaries. Advantages are taken later, over whole batches
(`trainer.losses.advantages`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardmesh.wire.errors import ChecksMissing
from trainer.recipe_sections import FeedbackSettings, OracleUse
from trainer.trajectory_store import GroupHeader, OracleRewards

__all__ = ["CombinedRewards", "RewardRule", "scored_boundaries"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CombinedRewards:
    """One group's rewards, joined over its oracles."""

    kept: NDArray[np.int64]
    """Samples that every required oracle scored, as indices into the group; at least two."""
    rewards: Floats
    """[len(kept)]: of the finished picture."""
    boundary_rewards: Floats | None
    """[len(kept), K+1], or None where only the finished picture is scored."""

    @property
    def tied(self) -> bool:
        """All equal, at every boundary: no order to learn."""
        table = self.rewards[:, None] if self.boundary_rewards is None else self.boundary_rewards
        return bool(np.all(table == table[:1]))


def scored_boundaries(pictures: str, num_steps: int) -> tuple[int, ...]:
    """Boundaries whose pictures are sent, K (the finished picture) last.

    `every_boundary` sends the clean prediction at 1 .. K-2 beside the finished picture. Not at K-1: the last step ends
    at sigma 0, so the clean prediction there *is* the finished picture, and its reward is credited. Nor at 0, which is
    noise that no update learns from.
    """
    if pictures == "endpoint":
        return (num_steps,)
    return (*range(1, num_steps - 1), num_steps)


class RewardRule:
    """The recipe's oracles, as a rule."""

    def __init__(self, feedback: FeedbackSettings, *, num_steps: int, permute_seed: int | None = None) -> None:
        """`permute_seed` makes it the control: rewards are permuted within each group, always the same way."""
        self._oracles = {use.name: use for use in feedback.oracles}
        self._num_steps = num_steps
        self._permute_seed = permute_seed
        self.boundaries = scored_boundaries(feedback.pictures, num_steps)

    @property
    def oracles(self) -> Sequence[OracleUse]:
        return tuple(self._oracles.values())

    def asked(self, checks: Mapping[str, Any]) -> tuple[OracleUse, ...]:
        """Oracles that have something to verify in these checks (GenEval's metadata, plus `text`)."""
        is_text = checks.get("text") is not None
        is_objects = bool(checks.get("include") or checks.get("exclude"))
        applies = {"all": True, "text": is_text, "objects": is_objects}
        return tuple(use for use in self._oracles.values() if applies[use.applies])

    def required(self, checks: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the oracles that an iteration waits for."""
        return tuple(use.name for use in self.asked(checks) if use.role == "required")

    def late(self, checks: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the oracles whose answers are taken whenever they come."""
        return tuple(use.name for use in self.asked(checks) if use.role == "late")

    def check_prompts(self, prompts: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Raises ChecksMissing, naming the first prompt that no required oracle could verify."""
        for prompt, checks in prompts:
            if not self.required(checks):
                raise ChecksMissing(
                    "no required oracle of the recipe applies to a prompt",
                    repr(prompt),
                    "add an oracle whose `applies` covers it, or leave its kind out with prompts.kinds",
                )

    def combine(self, header: GroupHeader, answers: Mapping[str, OracleRewards]) -> CombinedRewards | None:
        """The weighted mean over the oracles that apply to the group's prompt.

        A sample that a required oracle failed is left out; None if fewer than two remain or a required answer is
        missing. A late oracle counts once it has scored every sample that is kept.
        """
        required = self.required(header.checks)
        if not required or any(name not in answers for name in required):
            return None
        tables = {name: self._columns(answers[name]) for name in answers if name in self._oracles}
        kept = np.flatnonzero(np.logical_and.reduce([tables[name][1].all(axis=0) for name in required]))
        if len(kept) < 2:
            return None
        total = np.zeros((len(kept), self._num_steps + 1), dtype=np.float64)
        weight = 0.0
        for use in self.asked(header.checks):
            if use.name not in tables or not tables[use.name][1][:, kept].all():
                continue
            total += use.weight * _normalised(use, tables[use.name][0][:, kept].T.astype(np.float64))
            weight += use.weight
        by_boundary = (total / weight).astype(np.float32)
        if self._permute_seed is not None:
            rng = np.random.default_rng([self._permute_seed, zlib.crc32(header.group_id.encode())])
            by_boundary = by_boundary[rng.permutation(len(kept))]
        endpoint_only = self.boundaries == (self._num_steps,)
        return CombinedRewards(kept, by_boundary[:, -1].copy(), None if endpoint_only else by_boundary)

    def _columns(self, answer: OracleRewards) -> tuple[Floats, NDArray[np.bool_]]:
        """Rewards and whether they are known, [K+1, G]: a boundary has those of the next one that was scored."""
        values, known = answer.table()
        scored = answer.boundary_indices
        rows = [
            next((row for row, index in enumerate(scored) if index >= boundary), len(scored) - 1)
            for boundary in range(self._num_steps + 1)
        ]
        return values[rows], known[rows]


def _normalised(use: OracleUse, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards [n, K+1] on the scale that the recipe names."""
    if use.normalisation == "unit_range":
        return (rewards - use.reward_min) / (use.reward_max - use.reward_min) - 0.5
    if use.normalisation == "group_std":
        centred: NDArray[np.float64] = rewards - rewards.mean(axis=0)
        spread: NDArray[np.float64] = rewards.std(axis=0) + 1e-4
        return np.divide(centred, spread)
    return rewards
