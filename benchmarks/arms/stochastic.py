"""TDM-R1 whose student samples stochastically: each step noises its clean prediction anew (E3, then E1).

The end's reward is then one noisy draw of what a boundary is worth, where a deterministic path gives it exactly.
Axis legend: B samples, N pictures, K steps, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from trainer.algorithms.draws import seed_for
from trainer.algorithms.student_steps import Start, StudentStep
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.diffusion.flow import add_noise
from trainer.diffusion.trajectory import Trajectory, sample_stochastic
from trainer.evaluate import Pictures, Sampler
from trainer.models.sd3 import Sd3Family

__all__ = ["StochasticTdmR1", "stochastic_sampler"]


class StochasticTdmR1(TdmR1):
    """Rollouts, and the step that an update computes again, are stochastic; all else is TDM-R1."""

    @torch.no_grad()
    def rollout(
        self, prompts: Sequence[str], group_size: int, rng: torch.Generator | Sequence[torch.Generator]
    ) -> Trajectory:
        rngs = [rng] * len(prompts) if isinstance(rng, torch.Generator) else rng
        shape, steps = self.family.latent_shape, self.num_steps
        drawn = torch.cat([torch.randn(group_size, steps + 1, *shape, generator=one) for one in rngs])
        drawn = drawn.to(self.family.device)
        cond = self.family.encode_prompts(prompts).repeat_interleave(group_size)
        velocity = self.family.velocity_fn(self.student, cond)
        return sample_stochastic(velocity, drawn[:, 0], self.sigmas, fresh=drawn[:, 1:])

    def _student_step(self, start: Start, *, gradient: bool = False) -> StudentStep:
        """Its noise follows from the seed and from how many updates there were."""
        step = super()._student_step(start, gradient=gradient)
        rng = torch.Generator().manual_seed(seed_for(self.seed, 6, sum(self._updates.values())))
        fresh = torch.randn(step.x0_s.shape, generator=rng).to(step.x0_s.device)
        return replace(step, z_next=add_noise(step.x0_s.detach(), fresh, step.sigma_next))


def stochastic_sampler(family: Sd3Family, transformer: nn.Module, *, num_steps: int) -> tuple[Sampler, int]:
    """As `trainer.samplers.student_sampler`, from the same first noise; what is drawn later has the same seed."""
    sigmas = family.student_sigmas(num_steps)

    def noises(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randn(family.latent_shape, generator=rng) for _ in range(num_steps + 1)])

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        drawn = torch.stack([noises(seed) for seed in seeds]).to(family.device)
        velocity = family.velocity_fn(transformer, family.encode_prompts(prompts))
        latents = sample_stochastic(velocity, drawn[:, 0], sigmas, fresh=drawn[:, 1:]).latents
        return np.asarray(family.decode(latents).numpy(), dtype=np.uint8)

    return sample, num_steps
