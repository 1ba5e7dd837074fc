"""The algebra of flow matching: noising, velocities, clean predictions, steps, and boundaries noised further.

Pure functions of tensors, float32 whatever comes in: differences of denoising errors are small against the errors
themselves. Owns no network, no schedule and no randomness but `draw_noise`.

Axis legend: B samples, C/H/W latent. Every `[B, C, H, W]` may be any `[B, ...]`; levels (sigma, tau) are always [B].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Renoised",
    "add_noise",
    "boundary_velocity_target",
    "clean_prediction",
    "draw_noise",
    "euler_step",
    "flow_velocity",
    "guided_velocity",
    "per_sample",
    "renoise_boundary",
    "renoise_coefficients",
]


class Renoised(NamedTuple):
    """A boundary diffused further: x_tau = a * z + b * noise   (E7)."""

    x_tau: Tensor
    """[B, C, H, W] float32."""
    a: Tensor
    """[B] float32, what is left of the boundary."""
    b: Tensor
    """[B] float32, standard deviation of the noise added."""


def per_sample(level: Tensor, like: Tensor) -> Tensor:
    """A [B] level as [B, 1, …, 1] float32, ready to multiply `like` [B, ...].

    Raises: ValueError if it is not one value per sample
    """
    if level.shape != like.shape[:1]:
        raise ValueError(f"expected one value per sample, [{like.shape[0]}], not {list(level.shape)}")
    return level.float().reshape(-1, *[1] * (like.ndim - 1))


def draw_noise(like: Tensor, *, rng: torch.Generator, group_index: Tensor | None = None) -> Tensor:
    """Standard normal noise of the shape of `like`, on its device, float32; shared inside each group where given.

    Shapes:   like [B, C, H, W]; group_index [B] int64 from 0; returns [B, C, H, W]
    """
    num_draws = like.shape[0] if group_index is None else int(group_index.max()) + 1
    noise = torch.randn(num_draws, *like.shape[1:], generator=rng, device=rng.device).to(like.device)
    return noise if group_index is None else noise[group_index]


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """A clean latent diffused to a noise level.

    Equation: x_sigma = (1 - sigma) * x0 + sigma * noise   (E1)
    Shapes:   x0, noise [B, C, H, W]; sigma [B]; returns [B, C, H, W], float32
    Raises:   ValueError if sigma is not one value per sample
    """
    level = per_sample(sigma, x0)
    return (1 - level) * x0.float() + level * noise.float()


def flow_velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """What the network learns to predict.

    Equation: velocity = noise - x0   (E2)
    Shapes:   x0, noise [B, C, H, W]; returns [B, C, H, W], float32
    """
    return noise.float() - x0.float()


def clean_prediction(x_sigma: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean prediction from a flow-matching velocity.

    Equation: x0_pred = x_sigma - sigma * velocity   (E3)
    Shapes:   x_sigma, velocity [B, C, H, W]; sigma [B]; returns [B, C, H, W], float32
    Raises:   ValueError if sigma is not one value per sample
    """
    return x_sigma.float() - per_sample(sigma, x_sigma) * velocity.float()


def euler_step(x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One deterministic step.

    Equation: x_next = x - (sigma - sigma_next) * velocity   (E4)
    Shapes:   x, velocity [B, C, H, W]; sigma, sigma_next [B]; returns [B, C, H, W], float32
    Raises:   ValueError if a level is not one value per sample
    """
    return x.float() - (per_sample(sigma, x) - per_sample(sigma_next, x)) * velocity.float()


def guided_velocity(velocity_uncond: Tensor, velocity_cond: Tensor, *, scale: float) -> Tensor:
    """Classifier-free guidance.

    Equation: v_cfg = v_uncond + w * (v_cond - v_uncond)   (E5)
    Shapes:   both [B, C, H, W]; returns [B, C, H, W], float32
    """
    uncond = velocity_uncond.float()
    return uncond + scale * (velocity_cond.float() - uncond)


def renoise_coefficients(sigma: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """What a boundary at `sigma` and fresh noise weigh at the level tau >= sigma.

    Equation: a = (1 - tau) / (1 - sigma), b = sqrt(tau^2 - (sigma * a)^2)   (E7)
    Shapes:   sigma [B] in [0, 1); tau [B] in [sigma, 1]; returns a, b [B], float32
    Raises:   ValueError if tau lies below sigma, or sigma is 1 (looked at on the CPU only: elsewhere, looking waits)
    """
    if sigma.shape != tau.shape:
        raise ValueError(f"sigma and tau must be of one shape, not {list(sigma.shape)} and {list(tau.shape)}")
    sigma, tau = sigma.float(), tau.float()
    if sigma.device.type == "cpu" and (bool((tau < sigma).any()) or bool((sigma >= 1).any())):
        raise ValueError("a boundary can only be noised further: sigma <= tau <= 1 and sigma < 1 for every sample")
    a = (1 - tau) / (1 - sigma)
    # The difference of squares as a product: near tau = sigma the squares would cancel to rounding error.
    b = ((tau - sigma * a) * (tau + sigma * a)).sqrt()
    return a, b


def renoise_boundary(z: Tensor, noise: Tensor, sigma: Tensor, tau: Tensor) -> Renoised:
    """A boundary state diffused further, from its own level sigma to tau.

    Equation: x_tau = a * z + b * noise, coefficients as in `renoise_coefficients`   (E7)
    Shapes:   z, noise [B, C, H, W]; sigma, tau [B]; returns x_tau [B, C, H, W], a [B], b [B], float32
    Raises:   ValueError if tau lies below sigma, or a level is not one value per sample
    """
    a, b = renoise_coefficients(sigma, tau)
    return Renoised(per_sample(a, z) * z.float() + per_sample(b, z) * noise.float(), a, b)


def boundary_velocity_target(z: Tensor, noise: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
    """Velocity whose mean given x_tau is that of the boundary's own diffused distribution, whatever its law.

    Equation: v* = -z / (1 - sigma) + (noise / b) * (tau + sigma^2 * a / (1 - sigma))   (E8)
    At sigma = 0 this is noise - z, (E2). Singular at tau = sigma, and large near it.
    Shapes:   z, noise [B, C, H, W]; sigma, tau [B]; returns [B, C, H, W], float32
    Raises:   ValueError if tau lies below sigma, or a level is not one value per sample
    """
    a, b = renoise_coefficients(sigma, tau)
    sigma, tau = sigma.float(), tau.float()
    noise_weight = (tau + sigma**2 * a / (1 - sigma)) / b
    return per_sample(noise_weight, z) * noise.float() - z.float() / per_sample(1 - sigma, z)
