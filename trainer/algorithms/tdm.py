"""TDM: a K-step student learns to match its teacher's distribution along its own deterministic trajectories.

Owns the student, its running average and the fake score, and what one update of each is. Plain distillation is this
class; ``TdmR1`` adds a learned reward to the student's loss and nothing else.

Axis legend: B samples, K steps, C/H/W latent. One step k -> k+1 of the student gives ``x0_s`` (E3) and ``z_next`` (E4).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.algorithm_recipe import AlgorithmRecipe, TauRange
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.networks import adam, descend, follow, rms
from trainer.diffusion.flow import clean_prediction, draw_noise, euler_step, renoise_boundary
from trainer.diffusion.schedule import draw_tau
from trainer.diffusion.trajectory import Trajectory, sample_trajectory
from trainer.losses.fake_score import fake_score_loss, fake_score_target
from trainer.losses.student import direction_term, distillation_loss, guidance_direction, matching_direction
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["MAX_TAU", "NUM_STUDENT_STEPS", "StudentStep", "Tdm", "Terms"]

NUM_STUDENT_STEPS = 4
MAX_TAU = 0.999
"""Levels stay just below pure noise, where nothing of a boundary is left and (1 - tau) divides."""


@dataclass(frozen=True)
class StudentStep:
    """One step of the student for every sample, each at a step of its own."""

    k: Tensor
    """[B] int64: the step is k -> k+1."""
    z_next: Tensor
    """[B, C, H, W] float32, detached (E4)."""
    x0_s: Tensor
    """[B, C, H, W] float32, with the student's gradient where it was asked for (E3)."""
    sigma_next: Tensor
    """[B] float32."""
    group_index: Tensor
    """[B] int64."""
    cond: Conditioning


@dataclass(frozen=True)
class Terms:
    """The terms of a student's loss (E10), one value a sample, and the guided teacher they are measured against."""

    matching: Tensor
    guidance: Tensor
    x0_target: Tensor
    figures: dict[str, float]


class Tdm:
    """Trajectory distribution matching.

    Args:
        recipe: the algorithm section of a recipe.
        family: the loaded pipeline; its transformer is the teacher.
        weights: folder with ``student`` and ``fake_score`` to start from; without it both start as the teacher.
        seed: of every draw that an update makes.
    """

    def __init__(self, recipe: AlgorithmRecipe, family: Sd3Family, *, weights: Path | None = None, seed: int = 0):
        self.recipe, self.family = recipe, family
        self.student = family.new_transformer(weights / "student" if weights else None)
        shipped = weights if recipe.fake_score.initial_weights == "shipped" else None
        self.fake_score = family.new_transformer(shipped / "fake_score" if shipped else None)
        self.ema_student = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.sigmas = family.student_sigmas(NUM_STUDENT_STEPS).to(family.device)
        self.rng = torch.Generator().manual_seed(seed)
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "student": adam(self.student, recipe.student.optimizer),
            "fake_score": adam(self.fake_score, recipe.fake_score.optimizer),
        }

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimizers

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.sigmas) - 1

    @torch.no_grad()
    def rollout(self, prompts: Sequence[str], group_size: int, rng: torch.Generator) -> Trajectory:
        """Trajectories of the student as it stands: [len(prompts) * group_size, K+1, C, H, W], a prompt's together."""
        cond = self.family.encode_prompts(prompts).repeat_interleave(group_size)
        noise = torch.randn(len(prompts) * group_size, *self.family.latent_shape, generator=rng)
        return sample_trajectory(self.family.velocity_fn(self.student, cond), noise.to(self.family.device), self.sigmas)

    def sample(self, prompts: Sequence[str], noise: Tensor) -> Tensor:
        """Pictures [B, H, W, 3] uint8 of the running average, from given noise [B, C, H, W]."""
        cond = self.family.encode_prompts(prompts)
        velocity = self.family.velocity_fn(self.ema_student, cond)
        return self.family.decode(sample_trajectory(velocity, noise.to(self.family.device), self.sigmas).latents)

    def fake_score_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the fake score on the student's own boundaries; needs no reward."""
        settings = self.recipe.fake_score
        step = self._student_step(batch, torch.randint(self.num_steps, (batch.num_groups,), generator=self.rng))
        tau, noise = self._draw(step, settings.tau)
        x_tau = renoise_boundary(step.z_next, noise, step.sigma_next, tau).x_tau
        target = fake_score_target(
            settings.target,
            x_tau=x_tau,
            x0_s=step.x0_s,
            z_next=step.z_next,
            noise=noise,
            sigma_next=step.sigma_next,
            tau=tau,
        )
        with torch.no_grad():
            teacher = self.family.velocity(self.family.teacher, x_tau, tau, step.cond)
        predicted = self.family.velocity(self.fake_score, x_tau, tau, step.cond)
        loss = fake_score_loss(
            predicted, target=target, teacher_velocity=teacher, teacher_weight=settings.teacher_weight
        )
        norm = descend(loss, self._optimizers["fake_score"], max_grad_norm=settings.optimizer.max_grad_norm)
        return {"fake_score_loss": float(loss.detach()), "fake_score_grad_norm": norm}

    def student_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the student, of its running average with it, by matching and guidance alone."""
        step = self._student_step(batch, self._student_boundaries(batch.num_groups), gradient=True)
        terms = self._terms(step)
        loss = distillation_loss(matching=terms.matching, guidance=terms.guidance)
        return self._descend_student(loss) | terms.figures

    def _student_boundaries(self, num_groups: int) -> Tensor:
        """A step for each group [G], out of the few that this update takes."""
        few = min(self.recipe.student.boundaries_per_update, self.num_steps)
        chosen = torch.randperm(self.num_steps, generator=self.rng)[:few]
        return chosen[(torch.arange(num_groups) + torch.randint(few, (1,), generator=self.rng)) % few]

    def _student_step(self, batch: TrajectoryBatch, steps: Tensor, *, gradient: bool = False) -> StudentStep:
        """Recomputes the student's step k -> k+1 of each sample; ``steps`` [G] gives each group's k."""
        device = self.family.device
        group_index = batch.group_index.to(device)
        k = steps.to(device)[group_index]
        z = batch.boundaries.to(device)[torch.arange(len(k), device=device), k].float()
        sigma, sigma_next = self.sigmas[k], self.sigmas[k + 1]
        cond = self.family.encode_prompts(batch.prompts)
        with torch.set_grad_enabled(gradient):
            velocity = self.family.velocity(self.student, z, sigma, cond)
            x0_s = clean_prediction(z, velocity, sigma)
        z_next = euler_step(z, velocity.detach(), sigma, sigma_next)
        return StudentStep(k, z_next, x0_s, sigma_next, group_index, cond)

    def _draw(self, step: StudentStep, tau: TauRange, *, shared: bool = False) -> tuple[Tensor, Tensor]:
        """Levels [B] and noise [B, C, H, W] to diffuse boundaries with; one draw a group where ``shared``."""
        group_index = step.group_index if shared else None
        levels = draw_tau(
            step.sigma_next,
            shift=self.family.shift,
            rng=self.rng,
            lower_u=tau.lower,
            upper_u=tau.upper,
            power=tau.power,
            group_index=group_index,
        )
        return levels.clamp(max=MAX_TAU), draw_noise(step.z_next, rng=self.rng, group_index=group_index)

    def _terms(self, step: StudentStep) -> Terms:
        """Matching and guidance at a fresh level, in clean-prediction space (E10)."""
        settings = self.recipe.student
        tau, noise = self._draw(step, settings.tau)
        x_tau = renoise_boundary(step.z_next, noise, step.sigma_next, tau).x_tau
        with torch.no_grad():
            cond, uncond = self._teacher_velocities(x_tau, tau, step.cond)
            fake = self.family.velocity(self.fake_score, x_tau, tau, step.cond)
        matching = matching_direction(teacher_velocity=cond, fake_velocity=fake, tau=tau)
        guidance = guidance_direction(
            cond_velocity=cond, uncond_velocity=uncond, tau=tau, scale=settings.guidance_scale
        )
        x0_target = clean_prediction(x_tau, cond, tau) + guidance
        return Terms(
            matching=direction_term(step.x0_s, direction=matching, x0_target=x0_target),
            guidance=direction_term(step.x0_s, direction=guidance, x0_target=x0_target),
            x0_target=x0_target,
            figures={"matching_rms": rms(matching), "guidance_rms": rms(guidance)},
        )

    def _teacher_velocities(self, x_tau: Tensor, tau: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional velocity of the teacher, in one forward."""
        both = cond.cat(self.family.unconditional(len(tau)))
        velocity = self.family.velocity(self.family.teacher, x_tau.repeat(2, 1, 1, 1), tau.repeat(2), both)
        first, second = velocity.chunk(2)
        return first, second

    def _descend_student(self, loss: Tensor) -> dict[str, float]:
        settings = self.recipe.student
        norm = descend(loss, self._optimizers["student"], max_grad_norm=settings.optimizer.max_grad_norm)
        follow(self.ema_student, self.student, decay=settings.ema_decay)
        return {"student_loss": float(loss.detach()), "student_grad_norm": norm}

    def _networks(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds, by name."""
        return {"student": self.student, "ema_student": self.ema_student, "fake_score": self.fake_score}

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": {name: network.state_dict() for name, network in self._networks().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, network in self._networks().items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.rng.set_state(state["rng"].cpu())
