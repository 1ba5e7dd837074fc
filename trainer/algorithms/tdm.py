"""TDM: a K-step student learns to match its teacher's distribution along its own deterministic trajectories.

Owns the student, its running average and the fake score, and what one update of each is. Plain distillation is this
class; ``TdmR1`` adds a learned reward to the student's loss and nothing else.

Axis legend: B samples, K steps, C/H/W latent. One step k -> k+1 of the student gives ``x0_s`` (E3) and ``z_next`` (E4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainer.algorithm_recipe import AdamSettings, AlgorithmRecipe
from trainer.algorithms.draws import Draws, Level, seeded
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.micro_batches import MicroBatch, micro_batches
from trainer.algorithms.networks import adam, descend, follow, restore, rms
from trainer.algorithms.student_steps import Pull, Start, StudentStep
from trainer.coordination import Solo, Workers
from trainer.diffusion.flow import clean_prediction, euler_step, renoise_boundary
from trainer.diffusion.trajectory import Trajectory, sample_trajectory
from trainer.losses.fake_score import fake_score_loss, fake_score_target
from trainer.losses.student import direction_term, distillation_loss, guidance_direction, matching_direction
from trainer.models.full_copies import FullCopies
from trainer.models.roles import Roles
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["NUM_STUDENT_STEPS", "Tdm"]

NUM_STUDENT_STEPS = 4
_DRAWN_FOR: Final = ("fake_score", "student", "surrogate", "ranking")
"""What draws are made for; the place in this list is part of their key."""


class Tdm:
    """Trajectory distribution matching.

    Args:
        recipe: the algorithm section of a recipe.
        family: the loaded pipeline; its transformer is the teacher.
        roles: how the networks beside the teacher are had: full copies of it, unless said otherwise.
        weights: folder of what ships, to start from; without it all start as the teacher.
        seed: of every draw that an update makes, the same on all workers.
        workers: those that learn the same networks; alone, unless said otherwise.
    """

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
        self.recipe, self.family, self.seed = recipe, family, seed
        self.roles: Roles = roles or FullCopies(family)
        self.workers: Workers = workers or Solo()
        shipped = self.roles.shipped(weights) if weights else None
        with seeded(seed, 0):
            self.student = self.roles.new(_start(shipped, "student", recipe.student.initial_weights))
            self.fake_score = self.roles.new(_start(shipped, "fake_score", recipe.fake_score.initial_weights))
            self.ema_student = self.roles.follower(self.student)
        self.sigmas = family.student_sigmas(NUM_STUDENT_STEPS).to(family.device)
        self._updates: Counter[str] = Counter()
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
    def rollout(
        self, prompts: Sequence[str], group_size: int, rng: torch.Generator | Sequence[torch.Generator]
    ) -> Trajectory:
        """Trajectories of the student as it stands: [len(prompts) * group_size, K+1, C, H, W], a prompt's together."""
        cond = self.family.encode_prompts(prompts).repeat_interleave(group_size)
        rngs = [rng] * len(prompts) if isinstance(rng, torch.Generator) else rng
        noise = torch.cat([torch.randn(group_size, *self.family.latent_shape, generator=one) for one in rngs])
        return sample_trajectory(self.family.velocity_fn(self.student, cond), noise.to(self.family.device), self.sigmas)

    def sample(self, prompts: Sequence[str], noise: Tensor) -> Tensor:
        """Pictures [B, H, W, 3] uint8 of the running average, from given noise [B, C, H, W]."""
        cond = self.family.encode_prompts(prompts)
        velocity = self.family.velocity_fn(self.ema_student, cond)
        return self.family.decode(sample_trajectory(velocity, noise.to(self.family.device), self.sigmas).latents)

    def fake_score_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the fake score on the student's own boundaries; needs no reward."""
        settings = self.recipe.fake_score
        draws = self._draws("fake_score", batch)
        start = self._start(batch, draws.steps(self.num_steps))
        level = draws.level(start.sigma_next, settings.tau, shift=self.family.shift, shape=self.family.latent_shape)
        pieces = self._micro_batches(batch)
        losses = (share * self._fake_score_loss(start[rows], level[rows]) for rows, share in pieces)
        return self._descend("fake_score", losses, settings.optimizer)

    def _fake_score_loss(self, start: Start, level: Level) -> Tensor:
        settings, (tau, noise) = self.recipe.fake_score, (level.tau, level.noise)
        step = self._student_step(start)
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
        return fake_score_loss(
            predicted, target=target, teacher_velocity=teacher, teacher_weight=settings.teacher_weight
        )

    def student_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        """One update of the student, and of its running average with it.

        A piece of the batch at a time is gone through with gradient. Where there are several, all are first gone
        through without: what one is drawn to may depend on the others (the size of a value's gradient does).
        """
        settings, pieces = self.recipe.student, self._micro_batches(batch)
        draws = self._draws("student", batch)
        start = self._start(batch, draws.few_steps(self.num_steps, few=settings.boundaries_per_update))
        whole = len(pieces) == 1
        steps = [self._student_step(start[rows], gradient=whole) for rows, _ in pieces]
        pulls = self._pulls(start, steps, [rows for rows, _ in pieces], draws)

        def losses() -> Iterator[Tensor]:
            for (rows, share), step, pull in zip(pieces, steps, pulls, strict=True):
                again = step if whole else self._student_step(start[rows], gradient=True)
                yield share * self._student_loss(again, pull)

        figures = self._descend("student", losses(), settings.optimizer)
        follow(self.ema_student, self.student, decay=settings.ema_decay)
        return figures | self._pull_figures(pulls)

    def _student_loss(self, step: StudentStep, pull: Pull) -> Tensor:
        """Matching and guidance alone."""
        return distillation_loss(
            matching=direction_term(step.x0_s, direction=pull.matching, x0_target=pull.x0_target),
            guidance=direction_term(step.x0_s, direction=pull.guidance, x0_target=pull.x0_target),
        )

    def _pulls(self, start: Start, steps: Sequence[StudentStep], pieces: Sequence[slice], draws: Draws) -> list[Pull]:
        """Where each piece's samples are drawn to; `start` is of the whole batch."""
        settings = self.recipe.student
        level = draws.level(start.sigma_next, settings.tau, shift=self.family.shift, shape=self.family.latent_shape)
        return [self._pull(step, level[rows]) for step, rows in zip(steps, pieces, strict=True)]

    @torch.no_grad()
    def _pull(self, step: StudentStep, level: Level) -> Pull:
        """Matching and guidance at a fresh level."""
        tau, family = level.tau, self.family
        x_tau = renoise_boundary(step.z_next, level.noise, step.sigma_next, tau).x_tau
        cond, uncond = self._teacher_velocities(x_tau, tau, step.cond)
        fake = family.velocity(self.fake_score, x_tau, tau, step.cond)
        scale = self.recipe.student.guidance_scale
        guidance = guidance_direction(cond_velocity=cond, uncond_velocity=uncond, tau=tau, scale=scale)
        return Pull(
            matching=matching_direction(teacher_velocity=cond, fake_velocity=fake, tau=tau),
            guidance=guidance,
            x0_target=clean_prediction(x_tau, cond, tau) + guidance,
        )

    def _pull_figures(self, pulls: Sequence[Pull]) -> dict[str, float]:
        return {
            "matching_rms": rms(torch.cat([pull.matching for pull in pulls])),
            "guidance_rms": rms(torch.cat([pull.guidance for pull in pulls])),
        }

    def _start(self, batch: TrajectoryBatch, steps: Tensor) -> Start:
        """Boundary k of each sample; ``steps`` [G] gives each group's k."""
        device = self.family.device
        k = steps[batch.group_index.cpu()].to(device)
        z = batch.boundaries.to(device)[torch.arange(len(k), device=device), k].float()
        cond = self.family.encode_prompts(batch.prompts)
        shortfall = torch.ones(batch.num_samples) if batch.shortfall is None else batch.shortfall
        return Start(k, z, self.sigmas[k], self.sigmas[k + 1], cond, shortfall.to(device))

    def _student_step(self, start: Start, *, gradient: bool = False) -> StudentStep:
        """Recomputes the student's step k -> k+1 of each sample."""
        with torch.set_grad_enabled(gradient):
            velocity = self.family.velocity(self.student, start.z, start.sigma, start.cond)
            x0_s = clean_prediction(start.z, velocity, start.sigma)
        z_next = euler_step(start.z, velocity.detach(), start.sigma, start.sigma_next)
        return StudentStep(start.k, z_next, x0_s, start.sigma_next, start.cond)

    def _teacher_velocities(self, x_tau: Tensor, tau: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional velocity of the teacher, in one forward."""
        both = cond.cat(self.family.unconditional(len(tau)))
        velocity = self.family.velocity(self.family.teacher, x_tau.repeat(2, 1, 1, 1), tau.repeat(2), both)
        first, second = velocity.chunk(2)
        return first, second

    def _draws(self, name: str, batch: TrajectoryBatch) -> Draws:
        """Those of the next update of a network."""
        self._updates[name] += 1
        sizes = torch.bincount(batch.group_index.cpu()).tolist()
        first, apart = self.workers.rank, self.workers.world_size
        numbers = range(first, first + apart * len(sizes), apart)
        return Draws(self.seed, _DRAWN_FOR.index(name), self._updates[name], numbers=numbers, sizes=sizes)

    def _micro_batches(self, batch: TrajectoryBatch) -> list[MicroBatch]:
        return micro_batches(batch.group_index, at_most=self.recipe.micro_batch_size, workers=self.workers)

    def _descend(self, name: str, losses: Iterable[Tensor], settings: AdamSettings) -> dict[str, float]:
        loss, norm = descend(losses, self._optimizers[name], max_grad_norm=settings.max_grad_norm, workers=self.workers)
        return {f"{name}_loss": loss, f"{name}_grad_norm": norm}

    def _networks(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint holds, by name."""
        return {"student": self.student, "ema_student": self.ema_student, "fake_score": self.fake_score}

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": {name: network.state_dict() for name, network in self._networks().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "updates": dict(self._updates),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, network in self._networks().items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers.items():
            restore(optimizer, state["optimizers"][name])
        self._updates = Counter(state["updates"])


def _start(shipped: Path | None, name: str, initial_weights: str) -> Path | None:
    """The folder that a network starts from; None is the teacher."""
    return shipped / name if shipped is not None and initial_weights == "shipped" else None
