"""DGPO on the many-step teacher: group Bradley-Terry (E9) on its own guided pictures, to be distilled afterwards.

Axis legend: B samples, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from trainer.algorithms.tdm_r1 import TdmR1
from trainer.algorithms.velocity_surrogate import VelocitySurrogate
from trainer.diffusion.trajectory import Trajectory, sample_guided

__all__ = ["TunedTeacher"]

NUM_STEPS: Final = 10
"""Of its rollouts: with guidance 20 forwards a picture, a quarter of what it is judged with."""


class TunedTeacher(TdmR1):
    """The surrogate is the teacher to be: it makes the pictures too. Student and fake score stand still.

    A path of the teacher is one step from noise to a clean latent here, so that (E8) is (E2) and the boundary that is
    learnt from is always the clean one.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.sigmas = torch.tensor([1.0, 0.0], device=self.family.device)

    @torch.no_grad()
    def rollout(
        self, prompts: Sequence[str], group_size: int, rng: torch.Generator | Sequence[torch.Generator]
    ) -> Trajectory:
        """Noise and clean latents of the teacher as it stands, with the guidance `rl_cfg`: [B, 2, C, H, W]."""
        assert isinstance(self.surrogate, VelocitySurrogate)
        family, network = self.family, self.surrogate.network
        rngs = [rng] * len(prompts) if isinstance(rng, torch.Generator) else rng
        noise = torch.cat([torch.randn(group_size, *family.latent_shape, generator=one) for one in rngs])
        noise = noise.to(family.device)
        cond = family.encode_prompts(prompts).repeat_interleave(group_size)
        latents = sample_guided(
            family.velocity_fn(network, cond),
            family.velocity_fn(network, family.unconditional(len(noise))),
            noise,
            num_steps=NUM_STEPS,
            guidance_scale=self.recipe.student.rl_cfg,
            shift=family.shift,
        )
        return Trajectory(torch.stack([noise, latents], dim=1), self.sigmas)
