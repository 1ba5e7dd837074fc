"""The surrogate reward behind one interface: what an update is, and which way it sends the student.

Two families: a velocity (``velocity_form``), learnt by group Bradley-Terry as published (E9, ``velocity_surrogate``)
or by regression of a tilt (E11, ``tilt_surrogate``); and a scalar value (``value_surrogate``), learnt by contrast in a
group (E12a) or by regression (E12b). ``surrogate_forms`` makes what a recipe names.

Axis legend: B samples, M prompts held against each, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainer.models.sd3 import Conditioning

__all__ = ["Asked", "Renoised", "Surrogate", "ranking"]


@dataclass(frozen=True)
class Renoised:
    """Boundaries diffused further, noise and tau shared by each group, with what is known of them."""

    x_tau: Tensor
    """[B, C, H, W]."""
    tau: Tensor
    """[B]."""
    z_next: Tensor
    """[B, C, H, W]: the boundary itself."""
    noise: Tensor
    """[B, C, H, W]."""
    sigma_next: Tensor
    """[B]: the boundary's own level."""
    weight: Tensor
    """[B]: (k + 1) / K."""
    group_index: Tensor
    """[B] int64."""
    cond: Conditioning

    def __getitem__(self, rows: slice) -> Renoised:
        """Samples of some groups, whole ones, which are counted from 0 again."""
        return Renoised(
            x_tau=self.x_tau[rows],
            tau=self.tau[rows],
            z_next=self.z_next[rows],
            noise=self.noise[rows],
            sigma_next=self.sigma_next[rows],
            weight=self.weight[rows],
            group_index=self.group_index[rows] - self.group_index[rows.start],
            cond=self.cond[rows],
        )


class Asked(NamedTuple):
    """Where the student asks for a direction."""

    x_tau: Tensor
    """[B, C, H, W]."""
    tau: Tensor
    """[B]."""
    cond: Conditioning


class Surrogate(Protocol):
    """A differentiable stand-in for the oracles."""

    optimizer: torch.optim.Optimizer

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
        """One update; rewards and advantages [B]."""

    def opinions(self, at: Renoised) -> Tensor:
        """What it thinks of each sample [B], without gradient; only differences within a group mean anything."""

    def directions(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor | None]]:
        """Where reward grows, in clean-prediction space [B, C, H, W], and the normaliser's target if it has its own.

        For each piece of one batch: all of it, on all workers, has one scale.
        """

    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides networks and optimiser."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def ranking(opinions: Tensor, rewards: Tensor, group_index: Tensor) -> float:
    """Share of unequal pairs of a group that the surrogate orders as the rewards do; 0.5 is chance, NaN is no pair.

    Opinions and rewards are [B], or [B, M] where several prompts are held against each sample.
    """
    same = (group_index[:, None] == group_index[None, :]).reshape(*[len(group_index)] * 2, *[1] * (rewards.ndim - 1))
    better = (rewards[:, None] > rewards[None, :]) & same
    agreed = (opinions[:, None] > opinions[None, :]) & better
    return float(agreed.sum() / better.sum()) if bool(better.any()) else float("nan")
