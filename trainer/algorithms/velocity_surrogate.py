"""The publication's surrogate: group Bradley-Terry on a velocity (E9). Axis legend: B samples, C/H/W latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import adam, descend, follow, mean_of
from trainer.algorithms.surrogates import Asked, Renoised, ranking
from trainer.coordination import Workers
from trainer.diffusion.flow import boundary_velocity_target, clean_prediction, guided_velocity
from trainer.losses.denoising import denoising_error
from trainer.losses.group_bradley_terry import GroupBradleyTerry, group_bradley_terry_loss
from trainer.losses.student import velocity_reward_direction
from trainer.models.roles import Roles
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["VelocitySurrogate"]


class VelocitySurrogate:
    """A velocity whose denoising error, against a reference's, is the implicit reward (E9)."""

    def __init__(self, recipe: AlgorithmRecipe, family: Sd3Family, *, roles: Roles, workers: Workers):
        self._settings, self._student, self._family = recipe.surrogate, recipe.student, family
        self._workers, self._at_most = workers, recipe.micro_batch_size
        self.network = roles.new()
        self.lagged = roles.follower(self.network)
        dynamic = self._settings.reference == "surrogate_ema"
        self.reference = roles.follower(self.network) if dynamic else family.teacher
        self.optimizer: torch.optim.Optimizer = adam(self.network, self._settings.optimizer)
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
        if self.reference is not self._family.teacher:
            follow(self.reference, self.network, decay=settings.reference_decay)
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
            teacher = family.velocity(family.teacher, at.x_tau, at.tau, at.cond)
            lagged = family.velocity(self.lagged, at.x_tau, at.tau, at.cond)
            static = self.reference is family.teacher
            reference = teacher if static else family.velocity(self.reference, at.x_tau, at.tau, at.cond)
        return group_bradley_terry_loss(
            family.velocity(self.network, at.x_tau, at.tau, at.cond),
            target=target,
            reference_velocity=reference,
            lagged_velocity=lagged,
            teacher_velocity=teacher,
            advantages=advantages,
            group_index=at.group_index,
            beta=settings.beta,
            weight=at.weight,
            trust_region_c=settings.trust_region_c,
            drift_limit=settings.drift_limit,
            drift_weight=settings.drift_weight,
        )

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
        dynamic = {"surrogate_reference": self.reference} if self.reference is not self._family.teacher else {}
        return {"surrogate": self.network, "surrogate_lagged": self.lagged, **dynamic}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])
