"""The value form of the surrogate: a scalar V(x_tau, tau, prompt), learnt by contrast or by regression of the reward.

The target has no noise of its own (an endpoint's reward is exact for every boundary of its trajectory), so this form
learns from few samples, and from stored ones.

Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["pair_weight", "scale_rewards", "value_contrast_loss", "value_gradient", "value_regression_loss"]


def scale_rewards(rewards: Tensor, *, reward_min: float, reward_max: float) -> Tensor:
    """Rewards brought from their range to unit range about 0, for (E12b).

    Equation: (r - (min + max) / 2) / (max - min)
    Shapes:   rewards any; returns the same shape in [-0.5, 0.5], float32
    Raises:   ValueError if the range is empty
    """
    if not reward_max > reward_min:
        raise ValueError(f"a reward's range must not be empty: [{reward_min}, {reward_max}]")
    return (rewards.float() - (reward_min + reward_max) / 2) / (reward_max - reward_min)


def value_contrast_loss(values: Tensor, *, rewards: Tensor, group_index: Tensor, square_weight: float = 1e-3) -> Tensor:
    """Pairs of a group, ordered as their rewards are, each weighted by the difference of rewards.

    Equation: loss = sum_ij max(r_i - r_j, 0) * softplus(V_j - V_i) / sum_ij max(r_i - r_j, 0) + 0.001 * mean(V^2)
              over pairs i, j of one group, whose noise and tau are shared   (E12a)
    Without any unequal pair only the last term is left.
    Shapes:   values, rewards [B], or [B, M] where each of M prompts is held against every sample and makes pairs of
              its own; group_index [B] int64; returns a scalar, float32
    Raises:   ValueError if shapes differ
    """
    if values.shape != rewards.shape or values.shape[:1] != group_index.shape or values.ndim not in (1, 2):
        raise ValueError("values and rewards must both be [B] or [B, M], and group_index [B]")
    values = values.float().reshape(len(values), -1)
    better = _better(rewards, group_index)
    mistaken = functional.softplus(values[None, :] - values[:, None])
    contrast = (better * mistaken).sum() / better.sum().clamp(min=torch.finfo(torch.float32).tiny)
    return contrast + square_weight * values.square().mean()


def pair_weight(rewards: Tensor, group_index: Tensor) -> Tensor:
    """What (E12a) divides by: the sum over a batch of max(r_i - r_j, 0) within groups; shapes as there, a scalar."""
    return _better(rewards, group_index).sum()


def _better(rewards: Tensor, group_index: Tensor) -> Tensor:
    """[B, B, M]: how much better sample i is than j, 0 where it is not, or of another group."""
    table = rewards.detach().float().reshape(len(rewards), -1)
    difference = (table[:, None] - table[None, :]).clamp(min=0)
    return difference * (group_index[:, None] == group_index[None, :])[..., None]


def value_regression_loss(values: Tensor, *, rewards: Tensor) -> Tensor:
    """Regression of the reward.

    Equation: loss = mean((V - r)^2), r in unit range about 0 (`scale_rewards`)   (E12b)
    Shapes:   values, rewards [B]; returns a scalar, float32
    Raises:   ValueError if shapes differ
    """
    if values.shape != rewards.shape:
        raise ValueError(f"values {list(values.shape)} and rewards {list(rewards.shape)} must be of one shape")
    return (values.float() - rewards.detach().float()).square().mean()


def value_gradient(values: Tensor, x_tau: Tensor) -> Tensor:
    """Gradient of each sample's value with respect to its own x_tau; the graph is used up.

    Equation: grad_{x_tau} V   (E12)
    Shapes:   values [B], computed from x_tau [B, C, H, W], which requires a gradient; returns [B, C, H, W], float32
    """
    (gradient,) = torch.autograd.grad(values.sum(), x_tau)
    return gradient.detach().float()
