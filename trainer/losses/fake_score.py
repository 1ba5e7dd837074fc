"""The fake score's loss: denoising regression on the student's own boundaries, held a little to the teacher.

Axis legend: B samples, C/H/W latent. One step k -> k+1 of the student gives `x0_s` (E3) and `z_next` (E4), both without
gradient; `z_next` is diffused to `x_tau` (E7).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trainer.diffusion.flow import boundary_velocity_target, per_sample
from trainer.losses.denoising import denoising_error

__all__ = [
    "FakeScoreTarget",
    "boundary_score_target",
    "clean_prediction_target",
    "fake_score_loss",
    "fake_score_target",
]

FakeScoreTarget = Literal["clean_prediction", "boundary_score"]


def clean_prediction_target(x_tau: Tensor, *, x0_s: Tensor, tau: Tensor) -> Tensor:
    """The published target: the velocity that leads from the re-noised boundary to the student's clean prediction.

    Equation: v* = (x_tau - x0_s) / tau   (E3 solved for the velocity)
    Where sigma_{k+1} > 0 its mean is not the velocity of the boundary's own diffused distribution, because the noise
    left in `z_next` is not independent of `x0_s`; at the last boundary it is.
    Shapes:   x_tau, x0_s [B, C, H, W]; tau [B] in (0, 1]; returns [B, C, H, W], float32
    """
    return (x_tau.float() - x0_s.float()) / per_sample(tau, x_tau)


def boundary_score_target(z_next: Tensor, *, noise: Tensor, sigma_next: Tensor, tau: Tensor) -> Tensor:
    """The target whose mean is exact for any law of the boundary, (E8); equal to the other one at the last boundary.

    Shapes:   z_next, noise [B, C, H, W]; sigma_next, tau [B]; returns [B, C, H, W], float32
    """
    return boundary_velocity_target(z_next, noise, sigma_next, tau)


def fake_score_target(
    name: FakeScoreTarget,
    *,
    x_tau: Tensor,
    x0_s: Tensor,
    z_next: Tensor,
    noise: Tensor,
    sigma_next: Tensor,
    tau: Tensor,
) -> Tensor:
    """The target that a recipe names.

    Shapes:   tensors [B, C, H, W], levels [B]; returns [B, C, H, W], float32
    Raises:   ValueError if there is no target of that name
    """
    if name == "clean_prediction":
        return clean_prediction_target(x_tau, x0_s=x0_s, tau=tau)
    if name == "boundary_score":
        return boundary_score_target(z_next, noise=noise, sigma_next=sigma_next, tau=tau)
    raise ValueError(f"no fake score target {name!r}: clean_prediction or boundary_score")


def fake_score_loss(
    velocity: Tensor, *, target: Tensor, teacher_velocity: Tensor, teacher_weight: float = 0.02
) -> Tensor:
    """Regression of the target, with a pull towards the teacher.

    Equation: loss = mean((v* - v)^2) + 0.02 * mean((v_teacher - v)^2)
    Shapes:   all [B, C, H, W], at the same (x_tau, tau); returns a scalar, float32; gradient through velocity alone
    """
    regression = denoising_error(velocity, target.detach()).mean()
    return regression + teacher_weight * denoising_error(velocity, teacher_velocity.detach()).mean()
