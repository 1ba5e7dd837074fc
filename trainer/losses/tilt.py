"""A bounded surrogate on the velocity: regression of the tilt that the advantages put on the boundary's distribution.

Axis legend: B samples, C/H/W latent. All velocities are predicted at one (x_tau, tau).
"""

from __future__ import annotations

from torch import Tensor

from trainer.diffusion.flow import per_sample
from trainer.losses.denoising import denoising_error

__all__ = ["tilt_loss"]


def tilt_loss(
    velocity: Tensor, *, reference_velocity: Tensor, fake_velocity: Tensor, target: Tensor, advantages: Tensor
) -> Tensor:
    """Regression of the surrogate's difference from its reference.

    Equation: loss = mean((v_surrogate - v_reference - A * (v* - v_fake))^2)   (E11)
    Its minimum is Cov(A, v* | x_tau) = -tau / (1 - tau) * grad V_A only if v_fake is the mean of v* given x_tau: the
    fake score must then have been trained on the `boundary_score` target, (E8).
    Shapes:   velocities and target [B, C, H, W]; advantages [B]; returns a scalar, float32; gradient through
              `velocity` alone
    """
    push = per_sample(advantages.detach(), target) * (target - fake_velocity).detach().float()
    return denoising_error(velocity, reference_velocity.detach().float() + push).mean()
