"""Advantages: rewards normalised inside a group.

Axis legend: B samples, G groups.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["AdvantageStd", "Advantages", "group_advantages", "group_means"]

AdvantageStd = Literal["group", "global"]


class Advantages(NamedTuple):
    """Normalised rewards, and which groups say nothing."""

    values: Tensor
    """[B] float32; exactly 0 for the samples of a tied group."""
    tied: Tensor
    """[G] bool: all rewards of the group are equal (a group of one is), so it carries no signal."""


def group_means(values: Tensor, group_index: Tensor, *, num_groups: int | None = None) -> Tensor:
    """Mean of a group, for each group.

    Shapes:   values [B]; group_index [B] int64 from 0, every group present; returns [G], float32
    """
    count = int(group_index.max()) + 1 if num_groups is None else num_groups
    sums = torch.zeros(count, device=values.device).index_add_(0, group_index, values.float())
    sizes = torch.zeros(count, device=values.device).index_add_(0, group_index, torch.ones_like(values).float())
    return sums / sizes


def group_advantages(
    rewards: Tensor, group_index: Tensor, *, std: AdvantageStd = "group", clip: float = 5.0, epsilon: float = 1e-4
) -> Advantages:
    """How much better than its group a sample is.

    Equation: A_i = clip((r_i - mean_group) / (std + 1e-4), -5, 5); std (of the population) is the group's own, or
              with `std="global"` that of all rewards given
    Shapes:   rewards [B]; group_index [B] int64 from 0, every group present; returns values [B], tied [G]
    Raises:   ValueError if a reward is not finite, or the shapes differ: a failed sample is left out, never passed
    """
    if rewards.shape != group_index.shape or rewards.ndim != 1:
        raise ValueError(f"rewards {list(rewards.shape)} and group_index {list(group_index.shape)} must both be [B]")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("every reward must be finite: leave failed samples out")
    rewards = rewards.float()
    centred = rewards - group_means(rewards, group_index)[group_index]
    if std == "group":
        spread = group_means(centred.square(), group_index).sqrt()[group_index]
    elif std == "global":
        spread = rewards.std(correction=0).expand_as(rewards)
    else:
        raise ValueError(f"no standard deviation {std!r}: group or global")
    tied = _tied(rewards, group_index)
    values = (centred / (spread + epsilon)).clamp(-clip, clip)
    return Advantages(torch.where(tied[group_index], torch.zeros_like(values), values), tied)


def _tied(rewards: Tensor, group_index: Tensor) -> Tensor:
    num_groups = int(group_index.max()) + 1
    highest = torch.full((num_groups,), -torch.inf, device=rewards.device)
    lowest = torch.full((num_groups,), torch.inf, device=rewards.device)
    highest = highest.scatter_reduce(0, group_index, rewards, "amax")
    lowest = lowest.scatter_reduce(0, group_index, rewards, "amin")
    return highest == lowest
