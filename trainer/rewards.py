"""From what the oracles said of a group to one reward a sample: who is asked what, and what is done without it.

Owns the recipe's oracles and the amendments to them; the arithmetic is in `trainer.joining`.
Axis legend: G group size, K steps, P scored boundaries. Advantages are taken later, over whole batches
(`trainer.losses.advantages`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewardmesh.wire.errors import ChecksMissing
from rewardmesh.wire.oracle_use import OracleUse
from trainer.joining import Normalisation, join, normalise, shortfall
from trainer.recipe_sections import FeedbackSettings
from trainer.trajectory_store import GroupHeader, OracleRewards

__all__ = ["CombinedRewards", "RewardRule", "scored_boundaries"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CombinedRewards:
    """One group's rewards, joined over its oracles."""

    kept: NDArray[np.int64]
    """Samples that every oracle scored which may not be masked, as indices into the group; at least two."""
    rewards: Floats
    """[len(kept)]: of the finished picture."""
    boundary_rewards: Floats | None
    """[len(kept), K+1], or None where only the finished picture is scored."""
    masked: Mapping[str, int]
    """Pictures of kept samples (all scored boundaries) that go without this oracle's reward, for those it was asked."""

    @property
    def shortfall(self) -> Floats:
        """[len(kept)]: what the finished picture's reward lacks of the highest; of rewards on their range alone."""
        return shortfall(self.rewards)

    @property
    def tied(self) -> bool:
        """All equal, at every boundary: no order to learn."""
        return self.spread == 0

    @property
    def spread(self) -> float:
        """From the lowest to the highest, at the boundary where they are farthest apart."""
        table = self.rewards[:, None] if self.boundary_rewards is None else self.boundary_rewards
        return float(np.ptp(table, axis=0).max())


def scored_boundaries(pictures: str, num_steps: int) -> tuple[int, ...]:
    """Boundaries whose pictures are sent, K (the finished picture) last.

    `every_boundary` and `both` send the clean prediction at 1 .. K-2 beside the finished picture. Not at K-1: the last
    step ends at sigma 0, so the clean prediction there *is* the finished picture, and its reward is credited. Nor at 0,
    which is noise that no update learns from.
    """
    if pictures == "endpoint":
        return (num_steps,)
    return (*range(1, num_steps - 1), num_steps)


class RewardRule:
    """The recipe's oracles, as a rule."""

    def __init__(self, feedback: FeedbackSettings, *, num_steps: int, permute_seed: int | None = None) -> None:
        """`permute_seed` makes it the control: rewards are permuted within each group, always the same way."""
        self._feedback = feedback
        self._added: tuple[tuple[int, OracleUse], ...] = ()
        self._num_steps = num_steps
        self._permute_seed = permute_seed
        self.boundaries = scored_boundaries(feedback.pictures, num_steps)
        self.join = feedback.join

    def amend(self, added: Iterable[tuple[int, OracleUse]]) -> None:
        """Oracles that were added while the run trained, each with the first rollout that it is asked about."""
        self._added = tuple(added)

    def oracles(self, rollout_index: int) -> tuple[OracleUse, ...]:
        """The oracles that hold for a rollout."""
        return (*self._feedback.oracles, *(use for first, use in self._added if rollout_index >= first))

    def bounds_s(self, rollout_index: int) -> dict[str, float]:
        """Longest wait for each oracle's rewards of a rollout."""
        return {use.name: self._feedback.bound_s(use) for use in self.oracles(rollout_index)}

    def asked(self, checks: Mapping[str, Any], rollout_index: int) -> tuple[OracleUse, ...]:
        """Oracles that have something to verify in these checks (GenEval's metadata, plus `text`)."""
        is_text = checks.get("text") is not None
        is_objects = bool(checks.get("include") or checks.get("exclude"))
        applies = {"all": True, "text": is_text, "objects": is_objects}
        return tuple(use for use in self.oracles(rollout_index) if applies[use.applies])

    def awaited(self, checks: Mapping[str, Any], rollout_index: int) -> tuple[str, ...]:
        """Names of the oracles that an iteration waits for."""
        return tuple(use.name for use in self.asked(checks, rollout_index) if not use.is_late)

    def late(self, checks: Mapping[str, Any], rollout_index: int) -> tuple[str, ...]:
        """Names of the oracles whose answers are taken whenever they come."""
        return tuple(use.name for use in self.asked(checks, rollout_index) if use.is_late)

    def wants_hint(self, oracles: Iterable[str], rollout_index: int) -> bool:
        """Whether some of these oracles are sent the surrogate's opinion."""
        named = set(oracles)
        return any(use.send_hint and use.name in named for use in self.oracles(rollout_index))

    def reuse_answers_s(self, rollout_index: int) -> dict[str, float]:
        """How old an answer may be that is taken again, for the oracles whose answers may be."""
        uses = self.oracles(rollout_index)
        return {use.name: use.reuse_answers_s for use in uses if use.reuse_answers_s is not None}

    def check_prompts(self, prompts: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Raises ChecksMissing, naming the first prompt all of whose rewards might be masked, or that has none."""
        for prompt, checks in prompts:
            if not any(use.is_needed for use in self.asked(checks, 0)):
                raise ChecksMissing(
                    "no oracle of the recipe that may not be masked applies to a prompt",
                    repr(prompt),
                    "add an oracle whose `applies` covers it, or leave its kind out with prompts.kinds",
                )

    def combine(self, header: GroupHeader, answers: Mapping[str, OracleRewards]) -> CombinedRewards | None:
        """One reward a sample, over the oracles that were asked (E13), (E14).

        None if an answer is missing that may not be masked, or fewer than two samples have all rewards of that sort.
        """
        uses = self.asked(header.checks, header.rollout_index)
        if any(use.is_needed and use.name not in answers for use in uses):
            return None
        tables = {use: self._columns(answers[use.name]) for use in uses if use.name in answers}
        needed = [known.all(axis=0) for use, (_, known) in tables.items() if use.is_needed]
        kept = np.flatnonzero(np.logical_and.reduce(needed)) if needed else np.zeros(0, np.int64)
        if len(kept) < 2:
            return None
        terms = []
        for use, (values, known) in tables.items():
            how: Normalisation = "group_z" if self.join == "gdpo" else use.normalisation
            rewards, given = values[:, kept].T.astype(np.float64), known[:, kept].T
            scaled = normalise(rewards, given, how=how, bounds=(use.reward_min, use.reward_max))
            terms.append((use.weight, *scaled))
        by_boundary = join(terms).astype(np.float32)
        if self._feedback.pictures == "both":
            by_boundary = np.float32(0.5) * (by_boundary + by_boundary[:, -1:])
        if self._permute_seed is not None:
            rng = np.random.default_rng([self._permute_seed, zlib.crc32(header.group_id.encode())])
            by_boundary = by_boundary[rng.permutation(len(kept))]
        endpoint_only = self.boundaries == (self._num_steps,)
        return CombinedRewards(
            kept,
            by_boundary[:, -1].copy(),
            None if endpoint_only else by_boundary,
            masked={use.name: self._without(answers.get(use.name), kept) for use in uses},
        )

    def _without(self, answer: OracleRewards | None, kept: NDArray[np.int64]) -> int:
        """Pictures of the kept samples for which there is no reward."""
        pictures = len(kept) * len(self.boundaries)
        return pictures if answer is None else pictures - int(answer.table()[1][:, kept].sum())

    def _columns(self, answer: OracleRewards) -> tuple[Floats, NDArray[np.bool_]]:
        """Rewards and whether they are known, [K+1, G]: a boundary has those of the next one that was scored."""
        values, known = answer.table()
        scored = answer.boundary_indices
        rows = [
            next((row for row, index in enumerate(scored) if index >= boundary), len(scored) - 1)
            for boundary in range(self._num_steps + 1)
        ]
        return values[rows], known[rows]
