"""The student's loss: directions in clean-prediction space, each made a squared distance with its own normaliser.

Never a denoising loss on the few-step student itself: it fights the matching term, and pictures blur.

Axis legend: B samples, C/H/W latent. `x0_s` is the student's clean prediction of a step k -> k+1, with gradient; all
else is detached. Terms are kept one value a sample until `student_loss`, because a batch may mix boundary steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.diffusion.flow import per_sample

__all__ = [
    "RunningRms",
    "direction_term",
    "distillation_loss",
    "guidance_direction",
    "matching_direction",
    "student_loss",
    "value_direction",
    "velocity_reward_direction",
]

SMALLEST_NORMALISER = 1e-6
"""Keeps (E10) finite where a student already is its target exactly."""


def matching_direction(*, teacher_velocity: Tensor, fake_velocity: Tensor, tau: Tensor) -> Tensor:
    """Reverse KL between the student's boundary distribution and the teacher's, without guidance.

    Equation: x0_teacher_cond - x0_fake = tau * (v_fake - v_teacher_cond)   (E3)
    Shapes:   velocities [B, C, H, W] at (x_tau, tau); tau [B]; returns [B, C, H, W], float32
    """
    return _x0_difference(teacher_velocity, fake_velocity, tau)


def guidance_direction(*, cond_velocity: Tensor, uncond_velocity: Tensor, tau: Tensor, scale: float = 3.5) -> Tensor:
    """The teacher's guidance, taken as a reward.

    Equation: scale * (x0_teacher_cond - x0_teacher_uncond)   (E3)
    Shapes:   velocities [B, C, H, W] at (x_tau, tau); tau [B]; returns [B, C, H, W], float32
    """
    return scale * _x0_difference(cond_velocity, uncond_velocity, tau)


def velocity_reward_direction(*, surrogate_velocity: Tensor, reference_velocity: Tensor, tau: Tensor) -> Tensor:
    """The learned reward of a surrogate that is a velocity, (E9) or (E11).

    Equation: x0_surrogate(guidance rl_cfg, E5) - x0_reference(no guidance)   (E3)
    Shapes:   velocities [B, C, H, W] at (x_tau, tau_r); tau [B]; returns [B, C, H, W], float32
    """
    return _x0_difference(surrogate_velocity, reference_velocity, tau)


@dataclass
class RunningRms:
    """Running root mean square of the value's gradients, unbiased from the first update on."""

    decay: float = 0.99
    mean_square: float = 0.0
    weight: float = 0.0

    def update(self, gradient: Tensor) -> float:
        """Takes a batch in and returns the root mean square so far; a batch that is not finite is not taken in."""
        return self.take(float(gradient.detach().float().square().mean()))

    def take(self, mean_square: float) -> float:
        """The same, from the batch's mean square."""
        if mean_square < float("inf"):  # also False for NaN
            self.mean_square = self.decay * self.mean_square + (1 - self.decay) * mean_square
            self.weight = self.decay * self.weight + (1 - self.decay)
        return self.value

    @property
    def value(self) -> float:
        return float((self.mean_square / self.weight) ** 0.5) if self.weight else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "mean_square": self.mean_square, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decay, self.mean_square = float(state["decay"]), float(state["mean_square"])
        self.weight = float(state["weight"])


def value_direction(
    gradient: Tensor, *, rms: float, scale: float, clip: float = 2.0, tau: Tensor | None = None
) -> Tensor:
    """The learned reward of the value form, brought to a chosen size.

    Equation: scale * clip_i(g_i) / rms, g = grad V, or with `tau` given tau^2 / (1 - tau) * grad V   (E12)
    clip_i shrinks a sample whose own root mean square exceeds `clip * rms` to that. With `tau`, the direction is the
    same quantity as the other forms'; without, tau and k are weighted differently, no more.
    `rms` is `RunningRms.update` of what is passed here: of the weighted gradient, where tau is given.

    Shapes:   gradient [B, C, H, W]; tau [B] in [0, 1); returns [B, C, H, W], float32; zeros if rms is 0
    """
    pull = gradient.detach().float()
    if tau is not None:
        pull = tilt_factor(tau).reshape(-1, *[1] * (pull.ndim - 1)) * pull
    if rms <= 0:
        return torch.zeros_like(pull)
    own = pull.flatten(1).square().mean(dim=1).sqrt()
    shrink = (clip * rms / own.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1.0)
    return scale / rms * per_sample(shrink, pull) * pull


def direction_term(x0_s: Tensor, *, direction: Tensor, x0_target: Tensor) -> Tensor:
    """One term of the student's loss, sample by sample.

    Equation: mean((x0_s - sg[x0_s + direction])^2) / sg[mean|x0_s - x0_target|]   (E10)
    x0_target is the guided teacher's clean prediction for matching, guidance and the value form, and the guided
    surrogate's for a reward from velocities.
    Shapes:   x0_s, direction, x0_target [B, C, H, W]; returns [B], float32
    """
    x0_s = x0_s.float()
    wanted = (x0_s + direction.float()).detach()
    normaliser = (x0_s - x0_target.float()).detach().abs().flatten(1).mean(dim=1).clamp(min=SMALLEST_NORMALISER)
    return (x0_s - wanted).square().flatten(1).mean(dim=1) / normaliser


def distillation_loss(*, matching: Tensor, guidance: Tensor) -> Tensor:
    """Plain TDM, which makes the student in the first place: matching + guidance (E10 terms, [B] each); a scalar."""
    return (matching + guidance).mean()


def student_loss(
    *,
    matching: Tensor,
    guidance: Tensor,
    reward: Tensor | None,
    guidance_weight: float = 0.3,
    rewarded: Tensor | None = None,
) -> Tensor:
    """All terms of TDM-R1 together.

    Equation: matching + m * guidance + (1 - m) * reward on boundary steps that get the reward,
              m * (matching + guidance) beyond them   (E10)
    Shapes:   terms [B]; rewarded [B] bool (None: all of them, or none if there is no reward); returns a scalar
    Raises:   ValueError if samples are to be rewarded and there is no reward
    """
    m = guidance_weight
    unrewarded = m * (matching + guidance)
    if reward is None:
        if rewarded is not None and bool(rewarded.any()):
            raise ValueError("samples are marked as rewarded, and no reward term was given")
        return unrewarded.mean()
    full = matching + m * guidance + (1 - m) * reward
    return (full if rewarded is None else torch.where(rewarded, full, unrewarded)).mean()


def tilt_factor(tau: Tensor) -> Tensor:
    """tau^2 / (1 - tau), which turns the gradient of a value into a direction in clean-prediction space (E12); [B]."""
    tau = tau.float()
    return tau.square() / (1 - tau)


def _x0_difference(velocity: Tensor, velocity_from: Tensor, tau: Tensor) -> Tensor:
    difference = (velocity_from.float() - velocity.float()).detach()
    return per_sample(tau, difference) * difference
