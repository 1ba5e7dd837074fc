"""A one-dimensional world in which everything is known: a boundary law that is a mixture of Gaussians, and a reward.

Latents are [N, 1], so that the functions under test see one pixel. Closed forms are in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diffusion.flow import renoise_coefficients


def filled(value: float, count: int) -> Tensor:
    return torch.full((count,), value)


def coefficients(sigma: float, tau: float) -> tuple[float, float]:
    a, b = renoise_coefficients(torch.tensor([sigma]), torch.tensor([tau]))
    return float(a), float(b)


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians at -1.2 and 1.2; the reward is 1 in the right one and 0 in the left one, by membership."""

    mean: float = 1.2
    std: float = 0.4
    sigma: float = 0.5
    """The boundary's own level."""

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Boundaries [count, 1] and rewards [count]."""
        right = torch.rand(count, generator=rng) < 0.5
        centre = torch.where(right, self.mean, -self.mean)
        return (centre + self.std * torch.randn(count, generator=rng))[:, None], right.float()

    def _parts(self, x: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """Log densities of x_tau under each component, [2, N], and their centres, [2, 1]."""
        a, b = coefficients(self.sigma, tau)
        variance = (a * self.std) ** 2 + b**2
        centres = torch.tensor([[-a * self.mean], [a * self.mean]], dtype=torch.float64)
        return -((x.double() - centres) ** 2) / (2 * variance), centres

    def log_density(self, x: Tensor, tau: float) -> Tensor:
        """Up to a constant; x [N]."""
        return torch.logsumexp(self._parts(x, tau)[0], dim=0)

    def value(self, x: Tensor, tau: float) -> Tensor:
        """E[reward | x_tau], [N]."""
        return torch.softmax(self._parts(x, tau)[0], dim=0)[1]

    def value_slope(self, x: Tensor, tau: float) -> Tensor:
        """Gradient of `value`, [N]."""
        x = x.double().requires_grad_(True)
        return torch.autograd.grad(self.value(x, tau).sum(), x)[0]

    def velocity(self, x: Tensor, tau: float) -> Tensor:
        """Velocity of the boundary's own diffused law, [N]: -x / (1 - tau) - tau / (1 - tau) * score."""
        x = x.double().requires_grad_(True)
        score = torch.autograd.grad(self.log_density(x, tau).sum(), x)[0]
        return (-x.detach() - tau * score) / (1 - tau)

    def posterior(self, x: float, tau: float, *, points: int = 20001) -> tuple[Tensor, Tensor, Tensor]:
        """Quadrature over the boundary given one x_tau: z [points], weights that sum to 1, and E[reward | z]."""
        a, b = coefficients(self.sigma, tau)
        z = torch.linspace(-6, 6, points, dtype=torch.float64)
        logs = torch.stack([-((z - c) ** 2) / (2 * self.std**2) for c in (-self.mean, self.mean)])
        log_weight = torch.logsumexp(logs, dim=0) - (x - a * z) ** 2 / (2 * b**2)
        return z, torch.softmax(log_weight, dim=0), torch.softmax(logs, dim=0)[1]


class RadialModel:
    """A function of one number, linear in bumps: enough for any curve on [-3, 3], and trained in a second."""

    def __init__(self) -> None:
        self.centres = torch.linspace(-3.5, 3.5, 15)
        self.weights = torch.zeros(15, requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, 1] -> [N]."""
        return torch.exp(-((x - self.centres) ** 2) / (2 * 0.5**2)) @ self.weights
