"""What the loop asks of an algorithm, and what it hands to it. Owns no mathematics.

Axis legend: B samples, G group size, K steps, C/H/W latent. Boundary k of a trajectory is the state after k steps:
`boundaries[:, 0]` is noise, `boundaries[:, K]` the clean latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Algorithm", "RolloutTrajectory", "TrajectoryBatch"]


class RolloutTrajectory(Protocol):
    """What a rollout returns: every boundary of every sample, and where the steps lie."""

    @property
    def boundaries(self) -> Tensor:
        """[B, K+1, C, H, W] float32, samples of one prompt next to each other, prompts in the order asked."""

    @property
    def sigmas(self) -> Tensor:
        """[K+1] float32, from 1 down to 0."""


@dataclass(frozen=True)
class TrajectoryBatch:
    """What one update learns from: whole groups, so that noise can be shared inside a group.

    Rewards and advantages are given once for the finished picture, and apply to every boundary of the trajectory
    (exact, because the path is deterministic); where each boundary was scored on its own, the `boundary_…` tensors
    hold one column a boundary. Read both through `rewards_at` and `advantages_at`.
    """

    boundaries: Tensor
    """[B, K+1, C, H, W] float32."""
    prompts: list[str]
    """One prompt a sample, B in all."""
    group_index: Tensor
    """[B] int64: 0, 1, … in order of appearance; the samples of a group stand together."""
    rewards: Tensor | None = None
    """[B] float32: the combined reward of the finished picture. None where an update needs no reward."""
    advantages: Tensor | None = None
    """[B] float32: normalised inside the group."""
    boundary_rewards: Tensor | None = None
    """[B, K+1] float32, or None where only the finished picture was scored. Column 0 (noise) repeats column 1."""
    boundary_advantages: Tensor | None = None
    """[B, K+1] float32, beside `boundary_rewards`."""
    shortfall: Tensor | None = None
    """[B] float32 in [0, 1]: what the finished picture's reward lacks of the highest, 1 where that is not known. None
    where the student's update does not weigh the learned reward by it."""

    @property
    def num_samples(self) -> int:
        return int(self.boundaries.shape[0])

    @property
    def num_groups(self) -> int:
        return int(self.group_index.max().item()) + 1 if self.num_samples else 0

    def rewards_at(self, boundary: int | Tensor) -> Tensor:
        """Reward credited to a boundary: one index for all, or one a sample ([B] int64). Returns [B] float32."""
        return _credited(self.rewards, self.boundary_rewards, boundary)

    def advantages_at(self, boundary: int | Tensor) -> Tensor:
        """Advantage credited to a boundary: one index for all, or one a sample ([B] int64). Returns [B] float32."""
        return _credited(self.advantages, self.boundary_advantages, boundary)

    def to(self, device: torch.device | str) -> TrajectoryBatch:
        """The same batch on another device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return TrajectoryBatch(
            boundaries=self.boundaries.to(device),
            prompts=self.prompts,
            group_index=self.group_index.to(device),
            rewards=moved(self.rewards),
            advantages=moved(self.advantages),
            boundary_rewards=moved(self.boundary_rewards),
            boundary_advantages=moved(self.boundary_advantages),
            shortfall=moved(self.shortfall),
        )


def _credited(endpoint: Tensor | None, by_boundary: Tensor | None, boundary: int | Tensor) -> Tensor:
    if by_boundary is None:
        if endpoint is None:
            raise ValueError("this batch carries no rewards: it is for updates that need none")
        return endpoint
    if isinstance(boundary, int):
        return by_boundary[:, boundary]
    return by_boundary.gather(1, boundary[:, None].to(by_boundary.device)).squeeze(1)


class Algorithm(Protocol):
    """One post-training algorithm: four networks, their optimisers, and one method an update.

    Every method runs on the algorithm's own device and leaves the networks it does not train untouched. The figures
    that an update returns are plain floats, logged as they are. With several workers (`coordination.Workers`) each
    brings whole groups, all make the same updates in the same order, and gradients are averaged before each step.
    """

    @property
    def num_steps(self) -> int:
        """K: student steps a picture."""

    def rollout(
        self, prompts: Sequence[str], group_size: int, rng: torch.Generator | Sequence[torch.Generator]
    ) -> RolloutTrajectory:
        """Samples `group_size` trajectories a prompt with the student, no gradient.

        Draws come from `rng` (CPU): one for all, or one for each prompt.
        """

    def surrogate_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the surrogate; needs rewards."""

    def fake_score_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the fake score; needs no reward."""

    def opinions(self, batch: TrajectoryBatch) -> Tensor:
        """What the surrogate thinks of each finished picture [B]; only differences within a group mean anything.

        Needs no reward. The same again for the same surrogate: nothing is drawn from what updates draw from.
        """

    def student_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the student and of its EMA; needs no reward, as the surrogate carries it."""

    def state_dict(self) -> dict[str, Any]:
        """All that learning goes on from: nested dictionaries of tensors, numbers, strings and lists, nothing else.

        `networks` maps names (`student`, `ema_student`, `fake_score`, `surrogate`, …) to their state dicts, and is
        saved as safetensors; all other keys are saved together. What never changes (the teacher) is not in it.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`."""
