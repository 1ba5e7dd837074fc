"""TDM-R1: TDM with a learned reward in the student's loss.

Owns the surrogate beside what ``Tdm`` owns, and how the three terms come together. The rewards arrive in the batch:
where they came from is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.networks import rms
from trainer.algorithms.surrogates import Renoised, build_surrogate, ranking
from trainer.algorithms.tdm import MAX_TAU, StudentStep, Tdm
from trainer.diffusion.flow import draw_noise, renoise_boundary
from trainer.diffusion.schedule import draw_boundary_steps, draw_tau, shift_sigma
from trainer.losses.student import direction_term, student_loss
from trainer.models.sd3 import Sd3Family

__all__ = ["TdmR1"]


class TdmR1(Tdm):
    """Trajectory distribution matching, reinforced; see ``trainer.algorithms.interface`` for what a loop calls."""

    def __init__(self, recipe: AlgorithmRecipe, family: Sd3Family, *, weights: Path | None = None, seed: int = 0):
        super().__init__(recipe, family, weights=weights, seed=seed)
        self.surrogate = build_surrogate(recipe, family, weights=weights)
        self._optimizers["surrogate"] = self.surrogate.optimizer

    def surrogate_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the surrogate, at a boundary and a level drawn for each group."""
        at, k_next = self.renoised(batch)
        device = self.family.device
        return self.surrogate.step(
            at, rewards=batch.rewards_at(k_next).to(device), advantages=batch.advantages_at(k_next).to(device)
        )

    def surrogate_ranking(self, batch: TrajectoryBatch) -> float:
        """Share of unequal pairs of a group that the surrogate orders rightly, at boundaries drawn as for an update."""
        at, k_next = self.renoised(batch)
        return ranking(self.surrogate.opinions(at), batch.rewards_at(k_next).to(self.family.device), at.group_index)

    @torch.no_grad()
    def opinions(self, batch: TrajectoryBatch) -> Tensor:
        """Of the clean boundaries, at the lowest level that the surrogate is trained at, under one fixed noise."""
        device, count = self.family.device, batch.num_samples
        z_next = batch.boundaries[:, -1].to(device).float()
        clean = torch.zeros(count, device=device)
        tau = shift_sigma(torch.full_like(clean, self.recipe.surrogate.tau.lower), shift=self.family.shift)
        alike = torch.zeros(count, dtype=torch.int64, device=device)
        noise = draw_noise(z_next, rng=torch.Generator().manual_seed(0), group_index=alike)
        at = Renoised(
            x_tau=renoise_boundary(z_next, noise, clean, tau).x_tau,
            tau=tau,
            z_next=z_next,
            noise=noise,
            sigma_next=clean,
            weight=torch.ones_like(clean),
            group_index=batch.group_index.to(device),
            cond=self.family.encode_prompts(batch.prompts),
        )
        return self.surrogate.opinions(at).float().cpu()

    def renoised(self, batch: TrajectoryBatch) -> tuple[Renoised, Tensor]:
        """Each group's boundary k+1 at a level above it, noise shared; and k+1 [B] on the CPU."""
        device = self.family.device
        steps = draw_boundary_steps(batch.num_groups, self.num_steps, rng=self.rng)
        group_index = batch.group_index.to(device)
        k = steps.to(device)[group_index]
        z_next = batch.boundaries.to(device)[torch.arange(len(k), device=device), k + 1].float()
        sigma_next = self.sigmas[k + 1]
        settings = self.recipe.surrogate.tau
        tau = draw_tau(
            sigma_next,
            shift=self.family.shift,
            rng=self.rng,
            lower_u=settings.lower,
            upper_u=settings.upper,
            power=settings.power,
            group_index=group_index,
        ).clamp(max=MAX_TAU)
        noise = draw_noise(z_next, rng=self.rng, group_index=group_index)
        at = Renoised(
            x_tau=renoise_boundary(z_next, noise, sigma_next, tau).x_tau,
            tau=tau,
            z_next=z_next,
            noise=noise,
            sigma_next=sigma_next,
            weight=(k + 1).float() / self.num_steps,
            group_index=group_index,
            cond=self.family.encode_prompts(batch.prompts),
        )
        return at, (k + 1).cpu()

    def student_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the student by matching, guidance and the learned reward (E10)."""
        settings = self.recipe.student
        step = self._student_step(batch, self._student_boundaries(batch.num_groups), gradient=True)
        terms = self._terms(step)
        reward, figures = self._reward_term(step, terms.x0_target)
        limit = self.num_steps if settings.reward_steps is None else settings.reward_steps
        loss = student_loss(
            matching=terms.matching,
            guidance=terms.guidance,
            reward=reward,
            guidance_weight=settings.guidance_weight,
            rewarded=step.k < limit,
        )
        return self._descend_student(loss) | terms.figures | figures

    def _reward_term(self, step: StudentStep, x0_teacher: Tensor) -> tuple[Tensor, dict[str, float]]:
        tau, noise = self._draw(step, self.recipe.student.reward_tau, shared=True)
        x_tau = renoise_boundary(step.z_next, noise, step.sigma_next, tau).x_tau
        direction, target = self.surrogate.direction(x_tau, tau, step.cond)
        term = direction_term(step.x0_s, direction=direction, x0_target=x0_teacher if target is None else target)
        return term, {"reward_rms": rms(direction)}

    def _networks(self) -> dict[str, torch.nn.Module]:
        return super()._networks() | self.surrogate.networks()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"surrogate": self.surrogate.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.surrogate.load_state_dict(state["surrogate"])
