"""The publication's surrogate: group Bradley-Terry on a velocity (E9). Axis legend: B samples, C/H/W latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import descend, follow, mean_of
from trainer.algorithms.surrogates import Renoised, ranking
from trainer.algorithms.velocity_form import VelocityForm
from trainer.coordination import Workers
from trainer.diffusion.flow import boundary_velocity_target
from trainer.losses.group_bradley_terry import GroupBradleyTerry, group_bradley_terry_loss
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family

__all__ = ["VelocitySurrogate"]


class VelocitySurrogate(VelocityForm):
    """A velocity that denoises a group's better samples better, and its worse ones worse (E9)."""

    def __init__(
        self,
        recipe: AlgorithmRecipe,
        family: Sd3Family,
        *,
        roles: Roles,
        workers: Workers,
        network: nn.Module | None = None,
    ):
        super().__init__(recipe, family, roles=roles, workers=workers, network=network)
        self.lagged = roles.follower(self.network)
        self._updates = 0

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
        """One update on the groups of the present rollout; the reward itself is not used, only its advantage."""
        settings = self._settings
        results: list[GroupBradleyTerry] = []

        def losses() -> Iterator[Tensor]:
            for rows, share in micro_batches(at.group_index, at_most=self._at_most, workers=self._workers):
                result = self._loss(at[rows], advantages[rows])
                results.append(result._replace(loss=result.loss.detach()))
                yield share * result.loss

        loss, norm = descend(
            losses(), self.optimizer, max_grad_norm=settings.optimizer.max_grad_norm, workers=self._workers
        )
        self._updates += 1
        decay = min(settings.lagged_decay_step * self._updates, settings.lagged_decay_max)
        follow(self.lagged, self.network, decay=decay)
        self._follow()
        opinions = torch.cat([result.implicit_reward for result in results])
        return {
            "surrogate_loss": loss,
            "surrogate_grad_norm": norm,
            "surrogate_ranking": ranking(opinions, rewards, at.group_index),
            "surrogate_drift": mean_of(torch.stack([result.drift for result in results])),
            "surrogate_trust_stopped": mean_of(torch.cat([result.trust_stopped for result in results])),
        }

    def _loss(self, at: Renoised, advantages: Tensor) -> GroupBradleyTerry:
        settings, family = self._settings, self._family
        target = boundary_velocity_target(at.z_next, at.noise, at.sigma_next, at.tau)
        with torch.no_grad():
            origin = family.velocity(self.origin, at.x_tau, at.tau, at.cond)
            lagged = family.velocity(self.lagged, at.x_tau, at.tau, at.cond)
            static = self.reference is self.origin
            reference = origin if static else family.velocity(self.reference, at.x_tau, at.tau, at.cond)
        return group_bradley_terry_loss(
            family.velocity(self.network, at.x_tau, at.tau, at.cond),
            target=target,
            reference_velocity=reference,
            lagged_velocity=lagged,
            teacher_velocity=origin,
            advantages=advantages,
            group_index=at.group_index,
            beta=settings.beta,
            weight=at.weight,
            trust_region_c=settings.trust_region_c,
            drift_limit=settings.drift_limit,
            drift_weight=settings.drift_weight,
        )

    def networks(self) -> dict[str, nn.Module]:
        return super().networks() | {"surrogate_lagged": self.lagged}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])
