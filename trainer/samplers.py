"""Samplers for evaluation: a network and how it is sampled, as one callable from prompts and seeds to pictures.

Noise comes from each picture's own seed, drawn on the CPU, so that a picture depends on neither batch nor device, and
before and after start from the same noise.

Axis legend: N pictures, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.diffusion.trajectory import sample_guided, sample_trajectory
from trainer.evaluate import Pictures, Sampler
from trainer.models.sd3 import Sd3Family

__all__ = ["seeded_noise", "student_sampler", "teacher_sampler"]


def seeded_noise(seeds: Sequence[int], latent_shape: Sequence[int]) -> Tensor:
    """[N, C, H, W] float32, each picture's from its own seed."""
    draws = [torch.randn(tuple(latent_shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)


def student_sampler(family: Sd3Family, transformer: torch.nn.Module, *, num_steps: int) -> tuple[Sampler, int]:
    """A few-step student without guidance, and its NFE."""
    sigmas = family.student_sigmas(num_steps)

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        noise = seeded_noise(seeds, family.latent_shape).to(family.device)
        velocity_fn = family.velocity_fn(transformer, family.encode_prompts(prompts))
        return _decoded(family, sample_trajectory(velocity_fn, noise, sigmas).latents)

    return sample, num_steps


def teacher_sampler(
    family: Sd3Family, transformer: torch.nn.Module, *, num_steps: int = 40, guidance_scale: float
) -> tuple[Sampler, int]:
    """A many-step teacher with guidance, and its NFE: two forwards a step."""

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        noise = seeded_noise(seeds, family.latent_shape).to(family.device)
        latents = sample_guided(
            family.velocity_fn(transformer, family.encode_prompts(prompts)),
            family.velocity_fn(transformer, family.unconditional(len(prompts))),
            noise,
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            shift=family.shift,
        )
        return _decoded(family, latents)

    return sample, 2 * num_steps


def _decoded(family: Sd3Family, latents: Tensor) -> Pictures:
    return np.asarray(family.decode(latents).numpy(), dtype=np.uint8)
