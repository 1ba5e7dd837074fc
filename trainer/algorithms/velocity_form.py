"""What the surrogates that are a velocity share: a network, what it is measured against, and the direction it gives.

How the network learns is the business of each form: `velocity_surrogate` (E9), `tilt_surrogate` (E11).
Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.networks import adam, follow
from trainer.algorithms.surrogates import Asked, Renoised
from trainer.coordination import Workers
from trainer.diffusion.flow import boundary_velocity_target, clean_prediction, guided_velocity
from trainer.losses.denoising import denoising_error
from trainer.losses.student import velocity_reward_direction
from trainer.models.roles import Roles
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["VelocityForm"]


class VelocityForm:
    """A velocity whose denoising error, against a reference's, is the implicit reward."""

    def __init__(
        self,
        recipe: AlgorithmRecipe,
        family: Sd3Family,
        *,
        roles: Roles,
        workers: Workers,
        network: nn.Module | None = None,
    ):
        """`network`: what learns; one of its own that begins as the teacher, unless said otherwise.

        Its origin, what it began as, is what it is kept near to, and its reference unless the recipe has a dynamic one.
        """
        self._settings, self._student, self._family = recipe.surrogate, recipe.student, family
        self._workers, self._at_most = workers, recipe.micro_batch_size
        self.network = roles.new() if network is None else network
        self.origin = family.teacher if network is None else roles.follower(network)
        self._is_dynamic = self._settings.reference == "surrogate_ema"
        self.reference = roles.follower(self.network) if self._is_dynamic else self.origin
        self.optimizer: torch.optim.Optimizer = adam(self.network, self._settings.optimizer)

    def _follow(self) -> None:
        """Moves a dynamic reference after an update."""
        if self._is_dynamic:
            follow(self.reference, self.network, decay=self._settings.reference_decay)

    @torch.no_grad()
    def opinions(self, at: Renoised) -> Tensor:
        """-(d(surrogate) - d(reference)), the implicit reward."""
        target = boundary_velocity_target(at.z_next, at.noise, at.sigma_next, at.tau)
        own = self._family.velocity(self.network, at.x_tau, at.tau, at.cond)
        reference = self._family.velocity(self.reference, at.x_tau, at.tau, at.cond)
        return denoising_error(reference, target) - denoising_error(own, target)

    @torch.no_grad()
    def directions(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor | None]]:
        """x0_surrogate(guidance rl_cfg) - x0_reference(no guidance), and the guided surrogate as the target."""
        return [self._direction(*one) for one in asked]

    def _direction(self, x_tau: Tensor, tau: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        family = self._family
        both = cond.cat(family.unconditional(len(tau)))
        velocities = family.velocity(self.network, x_tau.repeat(2, 1, 1, 1), tau.repeat(2), both)
        conditional, unconditional = velocities.chunk(2)
        guided = guided_velocity(unconditional, conditional, scale=self._student.rl_cfg)
        reference = family.velocity(self.reference, x_tau, tau, cond)
        direction = velocity_reward_direction(surrogate_velocity=guided, reference_velocity=reference, tau=tau)
        return direction, clean_prediction(x_tau, guided, tau)

    def networks(self) -> dict[str, nn.Module]:
        origin = {} if self.origin is self._family.teacher else {"surrogate_origin": self.origin}
        dynamic = {"surrogate_reference": self.reference} if self._is_dynamic else {}
        return {"surrogate": self.network, **origin, **dynamic}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from besides networks and optimiser."""
