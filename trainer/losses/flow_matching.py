"""The pre-training loss of the teacher.

Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

from torch import Tensor

from trainer.diffusion.flow import flow_velocity
from trainer.losses.denoising import denoising_error

__all__ = ["flow_matching_loss"]


def flow_matching_loss(velocity: Tensor, *, x0: Tensor, noise: Tensor) -> Tensor:
    """Regression of the flow's velocity.

    Equation: loss = mean((noise - x0 - velocity)^2)   (E2)
    Shapes:   velocity (predicted at x_sigma of E1), x0, noise [B, C, H, W]; returns a scalar, float32
    """
    return denoising_error(velocity, flow_velocity(x0, noise)).mean()
