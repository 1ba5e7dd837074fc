"""Noise levels: the flow shift, the steps of a sampler, and the levels that losses are taken at.

Owns every conversion between `sigma` in [0, 1] (1 is pure noise), its unshifted coordinate `u` (E6) and the network's
input `timestep` in [0, 1000]. Owns no noising of latents: that is `flow.py`.

Axis legend: B samples, K steps. Draws come from the generator that is passed, on its own device, and are then moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "NUM_TRAIN_TIMESTEPS",
    "TAU_MARGIN",
    "draw_boundary_steps",
    "draw_tau",
    "pipeline_sigmas",
    "shift_sigma",
    "sigma_from_timestep",
    "step_sigmas",
    "timestep_from_sigma",
    "unshift_sigma",
]

NUM_TRAIN_TIMESTEPS = 1000
TAU_MARGIN = 0.02
"""How far above its lower bound a drawn tau stays, in the unshifted coordinate: (E8) is singular at the bound."""


def timestep_from_sigma(sigma: Tensor) -> Tensor:
    """The network's time input for a noise level.

    Equation: timestep = 1000 * sigma   (E2)
    Shapes:   sigma any; returns the same shape, float32
    """
    return sigma.float() * NUM_TRAIN_TIMESTEPS


def sigma_from_timestep(timestep: Tensor) -> Tensor:
    """Inverse of `timestep_from_sigma` (E2); same shape, float32."""
    return timestep.float() / NUM_TRAIN_TIMESTEPS


def shift_sigma(u: Tensor, *, shift: float) -> Tensor:
    """Noise level of an unshifted coordinate.

    Equation: sigma = s * u / (1 + (s - 1) * u)   (E6)
    Shapes:   u any, in [0, 1]; returns the same shape, float32
    Raises:   ValueError if the shift is not positive
    """
    _check_shift(shift)
    u = u.float()
    return shift * u / (1 + (shift - 1) * u)


def unshift_sigma(sigma: Tensor, *, shift: float) -> Tensor:
    """Unshifted coordinate of a noise level.

    Equation: u = sigma / (s - (s - 1) * sigma)   (inverse of E6)
    Shapes:   sigma any, in [0, 1]; returns the same shape, float32
    Raises:   ValueError if the shift is not positive
    """
    _check_shift(shift)
    sigma = sigma.float()
    return sigma / (shift - (shift - 1) * sigma)


def step_sigmas(num_steps: int, *, shift: float) -> Tensor:
    """Noise levels of a sampler: even in the unshifted coordinate, so K = 4 at shift 3 gives 1, .9, .75, .5, 0.

    These are not diffusers' own levels for K steps, whose last step is nearly empty; a plain pipeline is given
    `pipeline_sigmas` of these.

    Shapes:   returns [K + 1] float32, from exactly 1 down to exactly 0   (E6)
    Raises:   ValueError if there is no step
    """
    if num_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, not {num_steps}")
    return shift_sigma(torch.linspace(1.0, 0.0, num_steps + 1), shift=shift)


def pipeline_sigmas(sigmas: Tensor | Sequence[float], *, shift: float) -> list[float]:
    """What to pass as `sigmas=` to a diffusers pipeline whose scheduler has this shift, to sample at `sigmas`.

    The scheduler shifts what it is given once more, and appends the final 0 itself: so, unshifted and without it.

    Shapes:   sigmas [K + 1], descending to 0; returns K floats   (inverse of E6)
    """
    levels = torch.as_tensor(sigmas, dtype=torch.float64)
    unshifted = levels / (shift - (shift - 1) * levels)  # float64: the values are stored with an export, in decimal
    return [float(value) for value in unshifted[:-1]]


def draw_tau(
    boundary_sigma: Tensor,
    *,
    shift: float,
    rng: torch.Generator,
    lower_u: float = TAU_MARGIN,
    upper_u: float = 1.0,
    power: float = 1.0,
    group_index: Tensor | None = None,
) -> Tensor:
    """Levels to diffuse boundaries to: tau above each boundary's own sigma.

    Equation: u = lower + (upper - lower) * rand^power, tau = sigma(u)   (E6),
              lower = max(lower_u, u(boundary_sigma) + 0.02)
    The plain draw is uniform in u (power 1). The value form's low-favoured draw is lower_u 0.3, upper_u 0.9, power 2,
    that is u = 0.3 + 0.6 * rand^2, with the boundary's own bound where that is higher. A boundary too near to `upper_u`
    keeps a range of one margin above its lower bound, 1 at most.

    Shapes:   boundary_sigma [B] in [0, 1); group_index [B] int64 from 0 shares one rand inside each group;
              returns [B] float32 on boundary_sigma's device
    Raises:   ValueError if the bounds are no range within [0, 1], or a shape is wrong
    """
    if boundary_sigma.ndim != 1:
        raise ValueError(f"boundary_sigma must be [B], not {tuple(boundary_sigma.shape)}")
    if not 0 <= lower_u < upper_u <= 1 or power <= 0:
        raise ValueError(f"tau needs 0 <= lower_u < upper_u <= 1 and power > 0: {lower_u}, {upper_u}, {power}")
    if group_index is not None and group_index.shape != boundary_sigma.shape:
        raise ValueError(f"group_index must be one a sample, not {tuple(group_index.shape)}")
    num_draws = boundary_sigma.shape[0] if group_index is None else int(group_index.max()) + 1
    draws = torch.rand(num_draws, generator=rng, device=rng.device).to(boundary_sigma.device)
    if group_index is not None:
        draws = draws[group_index]
    lower = (unshift_sigma(boundary_sigma, shift=shift) + TAU_MARGIN).clamp(min=lower_u, max=1.0)
    upper = torch.maximum((lower + TAU_MARGIN).clamp(max=1.0), torch.full_like(lower, upper_u))
    return shift_sigma(lower + (upper - lower) * draws**power, shift=shift)


def draw_boundary_steps(num_draws: int, num_steps: int, *, rng: torch.Generator) -> Tensor:
    """Steps k -> k+1 for the surrogate, drawn with probability proportional to k + 1: cleaner ones count more (E9).

    Shapes:   returns [num_draws] int64 in 0 .. num_steps - 1, on the generator's device
    """
    weights = torch.arange(1, num_steps + 1, dtype=torch.float32, device=rng.device)
    return torch.multinomial(weights, num_draws, replacement=True, generator=rng)


def _check_shift(shift: float) -> None:
    if not shift > 0:
        raise ValueError(f"the flow shift must be positive, not {shift}")
