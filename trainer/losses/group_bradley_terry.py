"""The paper's surrogate: a group preference on denoising errors, with its two brakes.

Positive samples are denoised better than the reference does, negative ones worse, and a group that is already well
ordered is weighted down. Left alone this has no minimum, which is why both brakes matter.

Axis legend: B samples, C/H/W latent. All velocities are predicted at one (x_tau, tau), whose noise and tau the members
of a group share; `target` is (E8) at the boundary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.losses.advantages import group_means
from trainer.losses.denoising import denoising_error

__all__ = ["GroupBradleyTerry", "boundary_weight", "group_bradley_terry_loss", "lagged_decay"]


class GroupBradleyTerry(NamedTuple):
    """The loss and what to watch beside it; all but the loss are detached."""

    loss: Tensor
    """Scalar."""
    group_weight: Tensor
    """[G] w_g: 0.5 at the reference, towards 0 for groups that are well ordered."""
    trust_stopped: Tensor
    """[B] bool: outside the trust region."""
    drift_stopped: Tensor
    """[B] bool: moved far enough already, while the surrogate is too far from the teacher."""
    drift: Tensor
    """Scalar: mean squared velocity distance to the teacher."""
    implicit_reward: Tensor
    """[B] -(d(surrogate) - d(reference))."""


def lagged_decay(step: int, *, increment: float = 1e-3, maximum: float = 0.3) -> float:
    """EMA decay of the lagged surrogate after `step` updates: 0.001, 0.002, … 0.3 (E9)."""
    return min(maximum, increment * (step + 1))


def boundary_weight(steps: Tensor, num_steps: int) -> Tensor:
    """Weight of the step k -> k+1 in the surrogate's loss: cleaner boundaries count more.

    Equation: (k + 1) / K   (E9)
    Shapes:   steps [B] int64 in 0 .. K-1; returns [B], float32
    """
    return (steps + 1).float() / num_steps


def group_bradley_terry_loss(  # noqa: PLR0913 - four velocities and the settings of two brakes
    velocity: Tensor,
    *,
    target: Tensor,
    reference_velocity: Tensor,
    lagged_velocity: Tensor,
    teacher_velocity: Tensor,
    advantages: Tensor,
    group_index: Tensor,
    beta: float,
    weight: Tensor | None = None,
    trust_region_c: float = 1e-3,
    drift_limit: float = 0.05,
    drift_weight: float = 1e-3,
) -> GroupBradleyTerry:
    """Group Bradley-Terry on the surrogate's velocity.

    Equation: logit_g = sum_i A_i * beta * (d_i(surrogate) - d_i(reference)) / G, w_g = sg[sigmoid(logit_g)],
              loss = mean_i(c_k * (w_g * A_i * d_i(surrogate) + 0.001 * drift_i)), c_k = (k + 1) / K   (E9)
    Brakes:   d_i loses its gradient where exp(d(lagged) - d(surrogate)) has left [1 - c, 1 + c] in the direction of
              A_i; and, while the mean of drift_i = mean((v - v_teacher)^2) exceeds the limit, where the sample already
              is denoised better (A_i > 0) or worse (A_i <= 0) than by the reference
    Shapes:   velocities [B, C, H, W]; advantages, weight [B]; group_index [B] int64 from 0, every group present;
              gradient through `velocity` alone
    Raises:   ValueError if shapes differ
    """
    if advantages.shape != group_index.shape or advantages.shape != velocity.shape[:1]:
        raise ValueError(f"advantages and group_index must be one a sample, [{velocity.shape[0]}]")
    target, advantages = target.detach(), advantages.detach().float()
    error = denoising_error(velocity, target)
    with torch.no_grad():
        error_now = error.detach()
        error_reference = denoising_error(reference_velocity, target)
        logit = group_means(advantages * beta * (error_now - error_reference), group_index)
        group_weight = torch.sigmoid(logit)
        ratio = torch.exp(denoising_error(lagged_velocity, target) - error_now)
        wanted = advantages > 0
        trust_stopped = torch.where(wanted, ratio > 1 + trust_region_c, ratio < 1 - trust_region_c)
    drift_by_sample = denoising_error(velocity, teacher_velocity.detach())
    with torch.no_grad():
        drift = drift_by_sample.mean()
        moved = torch.where(wanted, error_now < error_reference, error_now > error_reference)
        drift_stopped = moved & (drift > drift_limit)
    kept = torch.where(trust_stopped | drift_stopped, error_now, error)
    by_sample = group_weight[group_index] * advantages * kept + drift_weight * drift_by_sample
    loss = (by_sample if weight is None else weight * by_sample).mean()
    return GroupBradleyTerry(loss, group_weight, trust_stopped, drift_stopped, drift, error_reference - error_now)
