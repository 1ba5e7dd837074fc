"""Sampling: trajectories that keep every boundary, deterministic or not, and the guided teacher.

A velocity function hides network, conditioning, precision and device; this module owns only the steps. All sampling
is without gradient: a loss that needs the student's gradient recomputes one step (`flow.euler_step`).

Axis legend: B samples, K steps, C/H/W latent. Boundary k is the state after k steps: 0 is noise, K the clean latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from trainer.diffusion.flow import add_noise, clean_prediction, euler_step, guided_velocity
from trainer.diffusion.schedule import step_sigmas

__all__ = ["Trajectory", "VelocityFn", "sample_guided", "sample_stochastic", "sample_trajectory"]

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, H, W], sigma [B]) -> velocity [B, C, H, W]."""


@dataclass(frozen=True)
class Trajectory:
    """All states of one sampling; if that is deterministic, an endpoint's reward is every boundary's reward exactly."""

    boundaries: Tensor
    """[B, K+1, C, H, W] float32: z_0 (noise) … z_K (clean latent)."""
    sigmas: Tensor
    """[K+1] float32, from 1 down to 0."""

    @property
    def num_steps(self) -> int:
        """K, which is also the number of network forwards a sample (NFE): the student samples without guidance."""
        return int(self.sigmas.shape[0]) - 1

    @property
    def latents(self) -> Tensor:
        """[B, C, H, W]: the clean end, z_K."""
        return self.boundaries[:, -1]


@torch.no_grad()
def sample_trajectory(velocity_fn: VelocityFn, noise: Tensor, sigmas: Tensor) -> Trajectory:
    """Steps from noise to a clean latent at given levels, keeping every boundary.

    Equation: z_{k+1} = z_k - (sigma_k - sigma_{k+1}) * velocity(z_k, sigma_k)   (E4)
    Shapes:   noise [B, C, H, W]; sigmas [K+1], strictly falling from 1 to 0; K forwards of B
    Raises:   ValueError if the levels are no such list
    """
    levels = _checked_levels(sigmas)
    z = noise.float()
    boundaries = [z]
    for sigma, sigma_next in pairwise(levels):
        z = euler_step(z, velocity_fn(z, _filled(z, sigma)), _filled(z, sigma), _filled(z, sigma_next))
        boundaries.append(z)
    return Trajectory(torch.stack(boundaries, dim=1), sigmas.float().to(noise.device))


@torch.no_grad()
def sample_stochastic(velocity_fn: VelocityFn, noise: Tensor, sigmas: Tensor, *, fresh: Tensor) -> Trajectory:
    """The same with steps that are not deterministic: each predicts the clean latent and noises it anew.

    The boundary before such a step no longer says which end it comes to: the end's reward is one noisy draw of what the
    boundary is worth.

    Equation: z_{k+1} = (1 - sigma_{k+1}) * x0_pred(z_k) + sigma_{k+1} * fresh_k   (E3, then E1)
    Shapes:   noise [B, C, H, W]; sigmas [K+1], strictly falling from 1 to 0; fresh [B, K, C, H, W] standard normal, of
              which the last step, to 0, takes nothing
    Raises:   ValueError if the levels are no such list
    """
    levels = _checked_levels(sigmas)
    z = noise.float()
    boundaries = [z]
    for k, (sigma, sigma_next) in enumerate(pairwise(levels)):
        clean = clean_prediction(z, velocity_fn(z, _filled(z, sigma)), _filled(z, sigma))
        z = add_noise(clean, fresh[:, k], _filled(z, sigma_next))
        boundaries.append(z)
    return Trajectory(torch.stack(boundaries, dim=1), sigmas.float().to(noise.device))


@torch.no_grad()
def sample_guided(
    cond_velocity_fn: VelocityFn,
    uncond_velocity_fn: VelocityFn,
    noise: Tensor,
    *,
    num_steps: int,
    guidance_scale: float,
    shift: float,
) -> Tensor:
    """Clean latents of the guided teacher; two forwards a step, so 40 steps are 80 NFE.

    Equation: each step is (E4) with the velocity of (E5), at the levels of `step_sigmas`
    Shapes:   noise [B, C, H, W]; returns [B, C, H, W], float32
    """
    levels = step_sigmas(num_steps, shift=shift).tolist()
    x = noise.float()
    for sigma, sigma_next in pairwise(levels):
        level = _filled(x, sigma)
        velocity = guided_velocity(uncond_velocity_fn(x, level), cond_velocity_fn(x, level), scale=guidance_scale)
        x = euler_step(x, velocity, level, _filled(x, sigma_next))
    return x


def _checked_levels(sigmas: Tensor) -> list[float]:
    levels: list[float] = sigmas.tolist()
    falling = all(high > low for high, low in pairwise(levels))
    if len(levels) < 2 or levels[0] != 1.0 or levels[-1] != 0.0 or not falling:
        raise ValueError(f"sigmas must fall strictly from 1 to 0, not {levels}")
    return levels


def _filled(x: Tensor, sigma: float) -> Tensor:
    return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
