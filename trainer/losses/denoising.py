"""The denoising error of one sample, which several losses are made of.

Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["denoising_error"]


def denoising_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of two velocities, sample by sample.

    Equation: d = mean((v* - v)^2)   (the d of E9)
    Shapes:   both [B, C, H, W]; returns [B], float32 (differences of d are small against d)
    Raises:   ValueError if the shapes differ
    """
    if velocity.shape != target.shape:
        raise ValueError(f"velocity {list(velocity.shape)} and target {list(target.shape)} must be of one shape")
    return (target.float() - velocity.float()).square().flatten(1).mean(dim=1)
