"""What the teacher is pre-trained on: rendered pictures as latents, with captions of which a share is wrong.

The picture is always of the *true* checks; a noisy caption is another prompt's words over it, one fact away: a wrong
count, colour, order, place or letter. As with captions from the web, the teacher learns to obey prompts loosely.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainer.worlds.shapes.autoencoder import to_tensor
from trainer.worlds.shapes.prompts import PromptSpec, all_prompts
from trainer.worlds.shapes.render import render, scene_for
from trainer.worlds.shapes.vocabulary import KINDS

_KIND_WEIGHTS = {
    "single_object": 0.4,
    "counting": 1.8,
    "colors": 0.6,
    "position": 2.4,
    "color_attr": 2.0,
    "spelling": 1.4,
}
"""How often a kind is drawn, relative to 1: places and pairs of colours need the most pictures, single shapes few."""


@dataclass(frozen=True)
class LatentDataset:
    """Latents [N, C, H, W] float16, normalised to unit variance, and one caption each."""

    latents: Tensor
    captions: list[str]


def caption_of(
    spec: PromptSpec, rng: np.random.Generator, *, prompts: dict[str, list[PromptSpec]], wrong_share: float
) -> str:
    """The prompt itself, or for a share of the draws the prompt of a near neighbour of its kind.

    A neighbour shares all words but one or two; where a kind has none so near, any other prompt of the kind is taken.
    """
    if rng.random() >= wrong_share:
        return spec.prompt
    others = [p.prompt for p in prompts[spec.kind] if p.key != spec.key]
    sample = [others[int(i)] for i in rng.integers(len(others), size=24)]
    return min(sample, key=lambda words: _distance(words, spec.prompt))


def _distance(a: str, b: str) -> int:
    if '"' in a:
        return sum(x != y for x, y in zip(a, b, strict=True))
    left, right = a.split(), b.split()
    return sum(x != y for x, y in zip(left, right, strict=False)) + abs(len(left) - len(right))


@torch.no_grad()
def encoded_pictures(
    autoencoder: AutoencoderKL, cache: Path, *, num_pictures: int, wrong_share: float, seed: int, batch: int = 250
) -> LatentDataset:
    """Renders and encodes ``num_pictures`` pictures once, and keeps them in ``cache``."""
    if cache.exists():
        state = torch.load(cache, weights_only=True)
        return LatentDataset(state["latents"], state["captions"])
    rng = np.random.default_rng((seed, 1))
    prompts = {kind: [p for p in all_prompts() if p.kind == kind] for kind in KINDS}
    weights = np.array([_KIND_WEIGHTS.get(kind, 1.2) for kind in KINDS])
    latents, captions = [], []
    for done in range(0, num_pictures, batch):
        pictures = []
        for kind in rng.choice(KINDS, size=batch, p=weights / weights.sum()):
            spec = prompts[kind][int(rng.integers(len(prompts[kind])))]
            pictures.append(render(scene_for(spec.checks, rng)).picture)
            captions.append(caption_of(spec, rng, prompts=prompts, wrong_share=wrong_share))
        encoded = autoencoder.encode(to_tensor(np.stack(pictures))).latent_dist.mode()
        normal = (encoded - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor
        latents.append(normal.half())
        if done % (20 * batch) == 0:
            print(f"encoding pictures: {done}/{num_pictures}", file=sys.stderr, flush=True)
    dataset = LatentDataset(torch.cat(latents), captions)
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"latents": dataset.latents, "captions": dataset.captions}, cache)
    return dataset
