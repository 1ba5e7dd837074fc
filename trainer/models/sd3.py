"""The SD3 family: diffusers' ``SD3Transformer2DModel`` with CLIP text encoders and an ``AutoencoderKL``.

Owns everything that is SD3's own: conditioning, the velocity call, decoding, and the folder that plain diffusers loads.
The tiny pipeline of the shapes world and SD3.5-M differ by the folder alone. Knows no loss and no optimiser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from trainer.diffusion.schedule import pipeline_sigmas, step_sigmas, timestep_from_sigma
from trainer.diffusion.trajectory import VelocityFn

SAMPLING_FILE = "sampling.json"
"""Lies beside ``model_index.json``: the levels that a student must be sampled at."""


@dataclass(frozen=True)
class Conditioning:
    """What the transformer sees of the prompts: ``tokens`` [B, L, D] and ``pooled`` [B, P]."""

    tokens: Tensor
    pooled: Tensor

    def __getitem__(self, index: Tensor | slice) -> Conditioning:
        return Conditioning(self.tokens[index], self.pooled[index])

    def repeat_interleave(self, times: int) -> Conditioning:
        """Each prompt's conditioning ``times`` times in a row."""
        return Conditioning(self.tokens.repeat_interleave(times, 0), self.pooled.repeat_interleave(times, 0))

    def cat(self, other: Conditioning) -> Conditioning:
        return Conditioning(torch.cat([self.tokens, other.tokens]), torch.cat([self.pooled, other.pooled]))


class Sd3Family:
    """A loaded pipeline, with its text encoders and autoencoder frozen.

    Args:
        pipeline: the pipeline; its transformer is the teacher.
        device: where it runs.
        precision: autocast type of the transformer's forwards; float32 means no autocast.
        gradient_checkpointing: blocks of networks that are trained keep no activations and compute them again.
        max_sequence_length: how many empty tokens stand for the missing T5; diffusers' default is 256, the tiny
            pipeline was trained with none and must be called with none.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        *,
        device: str | torch.device = "cpu",
        precision: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
        max_sequence_length: int = 256,
    ):
        self.pipeline = pipeline
        self.max_sequence_length = max_sequence_length
        self.device = torch.device(device)
        self.precision = precision
        self.gradient_checkpointing = gradient_checkpointing
        self._cache: dict[str, tuple[Tensor, Tensor]] = {}
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            part.to(self.device).eval().requires_grad_(False)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str | torch.device = "cpu",
        precision: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
    ) -> Sd3Family:
        """Loads a pipeline folder without T5, in float32.

        Raises:
            FileNotFoundError: if ``folder`` holds no pipeline; the message says which command makes one.
        """
        if not (folder / "model_index.json").exists():
            raise FileNotFoundError(
                f"no pipeline in {folder}: model_index.json is missing; `rewardmesh world` makes the shapes world's, "
                "or give the folder of a downloaded one"
            )
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32, low_cpu_mem_usage=False
        )
        sampling = read_sampling(folder)
        length = int(sampling.get("max_sequence_length", 256))
        return cls(
            pipeline,
            device=device,
            precision=precision,
            gradient_checkpointing=gradient_checkpointing,
            max_sequence_length=length,
        )

    @property
    def teacher(self) -> SD3Transformer2DModel:
        return self.pipeline.transformer

    @property
    def shift(self) -> float:
        """s of E6, as the pipeline's scheduler has it."""
        return float(self.pipeline.scheduler.config.shift)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        config = self.teacher.config
        return (int(config.in_channels), int(config.sample_size), int(config.sample_size))

    def student_sigmas(self, num_steps: int) -> Tensor:
        """Levels [K+1] of a K-step student: even in the unshifted coordinate (E6)."""
        return step_sigmas(num_steps, shift=self.shift)

    def new_transformer(self, folder: Path | None = None) -> SD3Transformer2DModel:
        """A trainable copy of the teacher, or the transformer that lies in ``folder``, in float32."""
        if folder is None:
            copy = SD3Transformer2DModel.from_config(self.teacher.config)
            copy.load_state_dict(self.teacher.state_dict())
        else:
            copy = SD3Transformer2DModel.from_pretrained(folder, dtype=torch.float32, low_cpu_mem_usage=False)
        return self._recomputing(copy.to(self.device).train().requires_grad_(True))

    def tied_transformer(self) -> SD3Transformer2DModel:
        """Another transformer around the teacher's own tensors, frozen: what is put into it is not in the teacher."""
        with torch.device("meta"):
            tied = SD3Transformer2DModel.from_config(self.teacher.config)
        tied.load_state_dict(self.teacher.state_dict(), assign=True)
        return self._recomputing(tied.eval().requires_grad_(False))

    def _recomputing(self, transformer: SD3Transformer2DModel) -> SD3Transformer2DModel:
        """With the recipe's word for it, blocks whose activations are computed again, by the very same kernels."""

        def recomputed(block: nn.Module, *inputs: Any) -> Any:
            contexts = (nullcontext(), self.attention())  # of the first time, which is within it, and of the second
            return checkpoint(
                block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts
            )

        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing(recomputed)
        return transformer

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of prompts, as the pipeline computes it; each prompt is encoded once and kept."""
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if missing:
            tokens, _, pooled, _ = self.pipeline.encode_prompt(
                prompt=missing,
                prompt_2=None,
                prompt_3=None,
                device=self.device,
                do_classifier_free_guidance=False,
                max_sequence_length=self.max_sequence_length,
            )
            self._cache.update({p: (tokens[i].float(), pooled[i].float()) for i, p in enumerate(missing)})
        rows = [self._cache[p] for p in prompts]
        return Conditioning(torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows]))

    def velocity(self, transformer: Callable[..., Any], x: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
        """What a transformer predicts (E2): x [B, C, H, W], sigma [B] -> [B, C, H, W] float32."""
        with self.attention(), self.autocast():
            predicted = transformer(
                hidden_states=x,
                timestep=timestep_from_sigma(sigma),
                encoder_hidden_states=cond.tokens,
                pooled_projections=cond.pooled,
                return_dict=False,
            )[0]
        return torch.as_tensor(predicted).float()

    def autocast(self) -> AbstractContextManager[None]:
        """The family's precision; on the CPU, too."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def attention(self) -> AbstractContextManager[None]:
        """Attention by plain matrix products on the CPU, where the fused kernel's backward is slow on short sequences.

        On a hundred sequences of 45 tokens in bfloat16 it took 29 ms against 4, and two fifths of a training step.
        """
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    @property
    def feature_width(self) -> int:
        """D of ``trunk_tokens``."""
        return int(self.teacher.inner_dim)

    @property
    def text_width(self) -> int:
        """D of ``Conditioning.tokens``."""
        return int(self.teacher.config.joint_attention_dim)

    def new_trunk(self, num_blocks: int | None = None) -> SD3Transformer2DModel:
        """A trainable copy of the teacher's first blocks, to read features from; see `cut_to_trunk`."""
        return self.cut_to_trunk(self.new_transformer(), num_blocks)

    def cut_to_trunk(self, transformer: SD3Transformer2DModel, num_blocks: int | None) -> SD3Transformer2DModel:
        """The transformer with its first blocks only, three fifths of them by default, and its end frozen.

        Raises:
            ValueError: if it has not so many.
        """
        blocks = len(transformer.transformer_blocks)
        kept = math.ceil(0.6 * blocks) if num_blocks is None else num_blocks
        if not 1 <= kept <= blocks:
            raise ValueError(f"a trunk of {kept} blocks was asked for, and the backbone has {blocks}")
        transformer.transformer_blocks = transformer.transformer_blocks[:kept]
        for unused in (transformer.norm_out, transformer.proj_out):
            unused.requires_grad_(False)
        return transformer

    def trunk_tokens(self, trunk: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
        """A trunk's last hidden picture tokens under the empty prompt: x [B, C, H, W], sigma [B] -> [B, N, D]."""
        kept: list[Tensor] = []
        blocks: Any = trunk.transformer_blocks
        hook = blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output[1]))
        try:
            self.velocity(trunk, x, sigma, self.unconditional(len(x)))
        finally:
            hook.remove()
        return kept[0]

    def velocity_fn(self, transformer: nn.Module, cond: Conditioning) -> VelocityFn:
        """``velocity`` with network and conditioning filled in, as samplers take it."""
        return lambda x, sigma: self.velocity(transformer, x, sigma, cond)

    def unconditional(self, batch: int) -> Conditioning:
        """The empty prompt, ``batch`` times."""
        return self.encode_prompts([""]).repeat_interleave(batch)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, chunk: int = 64) -> Tensor:
        """Latents [B, C, H, W] to pictures [B, H, W, 3] uint8, on the CPU, as the pipeline's own decoder does."""
        vae = self.pipeline.vae
        pictures = []
        for part in latents.split(chunk):
            decoded = vae.decode(part / vae.config.scaling_factor + vae.config.shift_factor).sample
            pictures.append(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
        return torch.cat(pictures)

    def export(self, folder: Path, transformer: nn.Module, *, num_steps: int, **facts: Any) -> None:
        """Writes a pipeline that plain diffusers loads, with ``transformer`` in it and its sampling levels beside."""
        teacher = self.pipeline.transformer
        self.pipeline.transformer = transformer
        try:
            self.pipeline.save_pretrained(folder, safe_serialization=True)
        finally:
            self.pipeline.transformer = teacher
        forget_paths(folder)
        self.write_sampling(folder, num_steps=num_steps, **facts)

    def write_sampling(self, folder: Path, *, num_steps: int, **facts: Any) -> None:
        """Writes ``sampling.json``, which says what to pass to the pipeline.

        ``sigmas`` are unshifted, because the scheduler shifts what it is given; ``facts`` (scores, say) are stored too.
        """
        sigmas = self.student_sigmas(num_steps)
        sampling = {
            "num_inference_steps": num_steps,
            "guidance_scale": 1.0,
            "max_sequence_length": self.max_sequence_length,
            "sigmas": pipeline_sigmas(sigmas, shift=self.shift),
            "sigmas_as_sampled": sigmas.tolist(),
            "height": self.latent_shape[1] * self.pipeline.vae_scale_factor,
            "width": self.latent_shape[2] * self.pipeline.vae_scale_factor,
            **facts,
        }
        (folder / SAMPLING_FILE).write_text(json.dumps(sampling, indent=2) + "\n")


def native_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies matrices in it by itself, else float32.

    Of CPUs those with AMX: without, float32 is faster, AVX-512's own bfloat16 included (`benchmarks.precision`).
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch has none
        native = bool(known.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def read_sampling(folder: Path) -> dict[str, Any]:
    """What ``sampling.json`` of a pipeline folder says; nothing where there is none."""
    file = folder / SAMPLING_FILE
    return dict(json.loads(file.read_text())) if file.exists() else {}


def forget_paths(folder: Path) -> None:
    """Takes out of the configurations below ``folder`` where on this machine the pipeline or a part was loaded from."""
    for file in (*folder.rglob("config.json"), *folder.rglob("model_index.json")):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")
