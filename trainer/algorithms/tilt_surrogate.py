"""The tilt: a velocity that regresses what the advantages put on the boundaries' law (E11).

Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import descend
from trainer.algorithms.surrogates import Renoised, ranking
from trainer.algorithms.velocity_form import VelocityForm
from trainer.coordination import Workers
from trainer.diffusion.flow import boundary_velocity_target
from trainer.losses.tilt import tilt_loss
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family

__all__ = ["TiltSurrogate"]


class TiltSurrogate(VelocityForm):
    """Bounded, as its target is: it needs neither of (E9)'s brakes."""

    def __init__(
        self, recipe: AlgorithmRecipe, family: Sd3Family, *, roles: Roles, workers: Workers, fake_score: nn.Module
    ):
        """`fake_score`: the algorithm's own, trained on (E8); only read here."""
        super().__init__(recipe, family, roles=roles, workers=workers)
        self._fake_score = fake_score

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
        """One update on the groups of the present rollout, as the fake score knows present boundaries only."""
        before = self.opinions(at)

        def losses() -> Iterator[Tensor]:
            for rows, share in micro_batches(at.group_index, at_most=self._at_most, workers=self._workers):
                yield share * self._loss(at[rows], advantages[rows])

        bound = self._settings.optimizer.max_grad_norm
        loss, norm = descend(losses(), self.optimizer, max_grad_norm=bound, workers=self._workers)
        self._follow()
        return {
            "surrogate_loss": loss,
            "surrogate_grad_norm": norm,
            "surrogate_ranking": ranking(before, rewards, at.group_index),
        }

    def _loss(self, at: Renoised, advantages: Tensor) -> Tensor:
        family = self._family
        with torch.no_grad():
            reference = family.velocity(self.reference, at.x_tau, at.tau, at.cond)
            fake = family.velocity(self._fake_score, at.x_tau, at.tau, at.cond)
        return tilt_loss(
            family.velocity(self.network, at.x_tau, at.tau, at.cond),
            reference_velocity=reference,
            fake_velocity=fake,
            target=boundary_velocity_target(at.z_next, at.noise, at.sigma_next, at.tau),
            advantages=advantages,
        )
