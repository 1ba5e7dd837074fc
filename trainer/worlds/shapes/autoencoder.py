"""Trains the autoencoder of the shapes world on pictures rendered as it goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from trainer.worlds.resumable import ResumableTraining, Schedule
from trainer.worlds.shapes.components import build_autoencoder
from trainer.worlds.shapes.prompts import train_prompts
from trainer.worlds.shapes.render import random_scene, render, scene_for

_KL_WEIGHT = 2e-4
_BATCH = 64


def train_autoencoder(work: Path, *, num_steps: int = 900, seed: int = 0) -> AutoencoderKL:
    """Trains, or goes on training, an autoencoder; returns it with its latents' shift and scale measured.

    The loss is the absolute error of pixels and of their differences (edges are what a detector and a reader need),
    plus a weak Kullback-Leibler term that keeps the latents smooth. Checkpoints lie in ``work``.
    """
    torch.manual_seed(seed)
    autoencoder = build_autoencoder().to(memory_format=torch.channels_last)
    schedule = Schedule(num_steps=num_steps, learning_rate=2e-3, ema_decay=0.99)
    training = ResumableTraining("autoencoder", {"autoencoder": autoencoder}, schedule=schedule, folder=work, seed=seed)

    def loss_at(step: int) -> dict[str, Tensor]:
        pictures = _pictures(np.random.default_rng((seed, step)), _BATCH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = autoencoder.encode(pictures).latent_dist
            decoded = autoencoder.decode(posterior.sample()).sample
        error = decoded.float() - pictures
        pixel, edge = error.abs().mean(), _edges(error).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = pixel + edge + 2 * error.square().mean() + _KL_WEIGHT * divergence
        return {"loss": loss, "pixel": pixel, "divergence": divergence}

    training.run(loss_at)
    training.use_average()
    autoencoder.eval()
    _normalise_latents(autoencoder, seed=seed)
    return autoencoder


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures [B, H, W, 3] uint8 to [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _pictures(rng: np.random.Generator, count: int) -> Tensor:
    """Half of them answer a training prompt, half show anything."""
    prompts = train_prompts()
    kinds = sorted({p.kind for p in prompts})
    by_kind = {kind: [p for p in prompts if p.kind == kind] for kind in kinds}
    pictures = []
    for i in range(count):
        if i % 2:
            scene = random_scene(rng)
        else:
            of_kind = by_kind[kinds[int(rng.integers(len(kinds)))]]
            scene = scene_for(of_kind[int(rng.integers(len(of_kind)))].checks, rng)
        pictures.append(render(scene).picture)
    return to_tensor(np.stack(pictures))


def _edges(x: Tensor) -> Tensor:
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], dim=1)


@torch.no_grad()
def _normalise_latents(autoencoder: AutoencoderKL, *, seed: int) -> None:
    """Stores the shift and the scale that give latents zero mean and unit variance overall."""
    latents = autoencoder.encode(_pictures(np.random.default_rng((seed, 10**9)), 512)).latent_dist.mode()
    autoencoder.register_to_config(
        shift_factor=round(latents.mean().item(), 5), scaling_factor=round(1 / latents.std().item(), 5)
    )


@torch.no_grad()
def reconstruction_error(autoencoder: AutoencoderKL, *, seed: int = 1) -> float:
    """Mean absolute error of 256 fresh pictures, in grey levels of 255."""
    pictures = _pictures(np.random.default_rng((seed, 10**9 + 1)), 256)
    decoded = autoencoder.decode(autoencoder.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return F.l1_loss(decoded, pictures).item() * 127.5
