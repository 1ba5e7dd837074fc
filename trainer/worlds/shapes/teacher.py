"""Pre-trains the teacher of the shapes world: flow matching on rendered pictures with noisy captions."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor

from trainer.diffusion.flow import add_noise, flow_velocity
from trainer.diffusion.schedule import shift_sigma
from trainer.models.sd3 import Conditioning, Sd3Family, native_precision
from trainer.worlds.resumable import ResumableTraining, Schedule
from trainer.worlds.shapes.components import (
    FLOW_SHIFT,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
)
from trainer.worlds.shapes.dataset import encoded_pictures

_BATCH = 96
_CAPTION_DROPOUT = 0.1
"""Share of captions replaced by the empty one, so that guidance (E5) has an unconditional velocity."""


def new_pipeline(autoencoder: AutoencoderKL) -> StableDiffusion3Pipeline:
    """An untrained pipeline around a trained autoencoder."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(Path(folder))
    return StableDiffusion3Pipeline(
        transformer=build_transformer(),
        scheduler=build_scheduler(),
        vae=autoencoder,
        text_encoder=build_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=build_text_encoder(len(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def train_teacher(
    work: Path,
    autoencoder: AutoencoderKL,
    *,
    num_steps: int = 5000,
    num_pictures: int = 60_000,
    wrong_share: float = 0.45,
    seed: int = 0,
    start: Sd3Family | None = None,
) -> Sd3Family:
    """Trains, or goes on training, transformer and text encoders together; checkpoints lie in ``work``.

    Without a checkpoint it begins with the networks of ``start``, or with fresh ones. ``wrong_share`` of the captions
    are another prompt's: the more there are, the less strictly the teacher obeys.
    Loss: mean squared error of the velocity (E2) at x_sigma (E1), sigma logit-normal and then shifted (E6).
    """
    dataset = encoded_pictures(
        autoencoder, work / "latents.pt", num_pictures=num_pictures, wrong_share=wrong_share, seed=seed
    )
    torch.manual_seed(seed)
    family = start or Sd3Family(new_pipeline(autoencoder), max_sequence_length=0)
    family.precision = native_precision(torch.device("cpu"))
    pipeline = family.pipeline
    transformer = _compiled(pipeline.transformer)
    encoders = torch.nn.ModuleList([pipeline.text_encoder, pipeline.text_encoder_2])
    modules = {"transformer": pipeline.transformer, "encoders": encoders}
    for module in modules.values():
        module.train().requires_grad_(True)
    schedule = Schedule(num_steps=num_steps, learning_rate=1e-3, warmup_steps=200, ema_decay=0.998)
    training = ResumableTraining("teacher", modules, schedule=schedule, folder=work, seed=seed)
    ids = _token_ids(pipeline, dataset.captions)
    empty = _token_ids(pipeline, [""])

    def loss_at(_: int) -> dict[str, Tensor]:
        rows = torch.randint(len(ids), (_BATCH,))
        latents = dataset.latents[rows].float()
        tokens = torch.where(torch.rand(_BATCH, 1) < _CAPTION_DROPOUT, empty, ids[rows])
        sigma = shift_sigma(torch.randn(_BATCH).sigmoid(), shift=FLOW_SHIFT)
        noise = torch.randn_like(latents)
        with family.autocast():
            cond = _conditioning(pipeline, tokens)
        predicted = family.velocity(transformer, add_noise(latents, noise, sigma), sigma, cond)
        return {"loss": (predicted - flow_velocity(latents, noise)).square().mean()}

    training.run(loss_at)
    training.use_average()
    return Sd3Family(pipeline, max_sequence_length=0)


def _token_ids(pipeline: StableDiffusion3Pipeline, captions: list[str]) -> Tensor:
    """Token ids [N, L] int64, padded as the pipeline pads them."""
    unique = list(dict.fromkeys(captions))
    width = pipeline.tokenizer.model_max_length
    encoded = pipeline.tokenizer(unique, padding="max_length", max_length=width, truncation=True, return_tensors="pt")
    row = {caption: i for i, caption in enumerate(unique)}
    return torch.as_tensor(encoded.input_ids)[torch.tensor([row[c] for c in captions])]


def _conditioning(pipeline: StableDiffusion3Pipeline, ids: Tensor) -> Conditioning:
    """What ``encode_prompt`` computes, with gradient: both encoders' penultimate states side by side, and no T5."""
    outputs = [e(ids, output_hidden_states=True) for e in (pipeline.text_encoder, pipeline.text_encoder_2)]
    return Conditioning(
        tokens=torch.cat([o.hidden_states[-2] for o in outputs], dim=-1),
        pooled=torch.cat([o[0] for o in outputs], dim=-1),
    )


def _compiled(transformer: torch.nn.Module) -> Callable[..., Any]:
    """The transformer with its small operations fused, a quarter faster; as it is where no C++ compiler is found."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    return torch.compile(transformer) if compiler else transformer
