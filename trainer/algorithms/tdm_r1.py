"""TDM-R1: TDM with a learned reward in the student's loss.

Owns the surrogate beside what ``Tdm`` owns, and how the three terms come together. The rewards arrive in the batch:
where they came from is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.draws import Draws, seeded
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.networks import mean_square, rms
from trainer.algorithms.student_steps import Pull, Start, StudentStep
from trainer.algorithms.surrogate_forms import build_surrogate
from trainer.algorithms.surrogates import Asked, Renoised, Surrogate, ranking
from trainer.algorithms.tdm import Tdm
from trainer.coordination import Workers
from trainer.diffusion.flow import draw_noise, per_sample, renoise_boundary
from trainer.diffusion.schedule import shift_sigma
from trainer.losses.student import RunningRms, direction_term, student_loss
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family

__all__ = ["TdmR1"]


class TdmR1(Tdm):
    """Trajectory distribution matching, reinforced; see ``trainer.algorithms.interface`` for what a loop calls."""

    def __init__(
        self,
        recipe: AlgorithmRecipe,
        family: Sd3Family,
        *,
        roles: Roles | None = None,
        weights: Path | None = None,
        seed: int = 0,
        workers: Workers | None = None,
    ):
        super().__init__(recipe, family, roles=roles, weights=weights, seed=seed, workers=workers)
        with seeded(seed, 1):
            self.surrogate = self._new_surrogate(weights)
        self._shortfall_rms = RunningRms()
        self._optimizers["surrogate"] = self.surrogate.optimizer

    def _new_surrogate(self, weights: Path | None) -> Surrogate:
        """What the recipe names."""
        return build_surrogate(
            self.recipe,
            self.family,
            roles=self.roles,
            weights=weights,
            workers=self.workers,
            fake_score=self.fake_score,
        )

    def surrogate_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the surrogate, at a boundary and a level drawn for each group."""
        at, k_next = self.renoised(batch)
        device = self.family.device
        return self.surrogate.step(
            at, rewards=batch.rewards_at(k_next).to(device), advantages=batch.advantages_at(k_next).to(device)
        )

    def surrogate_ranking(self, batch: TrajectoryBatch) -> float:
        """Share of unequal pairs of a group that the surrogate orders rightly, at boundaries drawn as for an update."""
        at, k_next = self.renoised(batch, name="ranking")
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

    def renoised(self, batch: TrajectoryBatch, *, name: str = "surrogate") -> tuple[Renoised, Tensor]:
        """Each group's boundary k+1 at a level above it, noise shared; and k+1 [B] on the CPU.

        ``name``: what it is drawn for; an update of the surrogate, unless said otherwise.
        """
        family, device = self.family, self.family.device
        draws = self._draws(name, batch)
        k = draws.cleaner_steps(self.num_steps)[batch.group_index.cpu()].to(device)
        z_next = batch.boundaries.to(device)[torch.arange(len(k), device=device), k + 1].float()
        sigma_next = self.sigmas[k + 1]
        level = draws.level(
            sigma_next, self.recipe.surrogate.tau, shift=family.shift, shape=family.latent_shape, shared=True
        )
        at = Renoised(
            x_tau=renoise_boundary(z_next, level.noise, sigma_next, level.tau).x_tau,
            tau=level.tau,
            z_next=z_next,
            noise=level.noise,
            sigma_next=sigma_next,
            weight=(k + 1).float() / self.num_steps,
            group_index=batch.group_index.to(device),
            cond=family.encode_prompts(batch.prompts),
        )
        return at, (k + 1).cpu()

    def _pulls(self, start: Start, steps: Sequence[StudentStep], pieces: Sequence[slice], draws: Draws) -> list[Pull]:
        """Matching, guidance and, at a level of its own that the group shares, the learned reward."""
        pulls = super()._pulls(start, steps, pieces, draws)
        settings, family = self.recipe.student.reward_tau, self.family
        level = draws.level(start.sigma_next, settings, shift=family.shift, shape=family.latent_shape, shared=True)
        asked = []
        for step, rows in zip(steps, pieces, strict=True):
            x_tau = renoise_boundary(step.z_next, level.noise[rows], step.sigma_next, level.tau[rows]).x_tau
            asked.append(Asked(x_tau, level.tau[rows], step.cond))
        directions, weights = self.surrogate.directions(asked), self._weights(start.shortfall)
        return [
            replace(pull, reward=per_sample(weights[rows], direction) * direction, reward_target=target)
            for pull, (direction, target), rows in zip(pulls, directions, pieces, strict=True)
        ]

    def _weights(self, shortfall: Tensor) -> Tensor:
        """What each sample's learned reward weighs [B]: its shortfall, on the scale on which their running mean square
        is 1, so that the pull keeps its size however few samples it falls to.
        """
        if self.recipe.student.reward_weighting == "even":
            return shortfall
        size = self._shortfall_rms.take(mean_square(shortfall, self.workers))
        return shortfall / size if size > 0 else shortfall

    def _student_loss(self, step: StudentStep, pull: Pull) -> Tensor:
        """Matching, guidance and the learned reward (E10)."""
        settings = self.recipe.student
        limit = self.num_steps if settings.reward_steps is None else settings.reward_steps
        assert pull.reward is not None
        reward_target = pull.x0_target if pull.reward_target is None else pull.reward_target
        return student_loss(
            matching=direction_term(step.x0_s, direction=pull.matching, x0_target=pull.x0_target),
            guidance=direction_term(step.x0_s, direction=pull.guidance, x0_target=pull.x0_target),
            reward=direction_term(step.x0_s, direction=pull.reward, x0_target=reward_target),
            guidance_weight=settings.guidance_weight,
            rewarded=step.k < limit,
        )

    def _pull_figures(self, pulls: Sequence[Pull]) -> dict[str, float]:
        rewards = [pull.reward for pull in pulls if pull.reward is not None]
        return super()._pull_figures(pulls) | {"reward_rms": rms(torch.cat(rewards))}

    def _networks(self) -> dict[str, torch.nn.Module]:
        return super()._networks() | self.surrogate.networks()

    def state_dict(self) -> dict[str, Any]:
        own = {"surrogate": self.surrogate.state_dict(), "shortfall_rms": self._shortfall_rms.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.surrogate.load_state_dict(state["surrogate"])
        if "shortfall_rms" in state:  # else it finds itself in the first update
            self._shortfall_rms.load_state_dict(state["shortfall_rms"])
