"""The tiny parts of the shapes world's ``StableDiffusion3Pipeline``: real diffusers classes, small configurations.

Owns sizes only. How the parts are trained is in ``autoencoder.py`` and ``teacher.py``; how they are used, in
``trainer.models.sd3``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from tokenizers import AddedToken
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from trainer.worlds.shapes.prompts import all_prompts
from trainer.worlds.shapes.vocabulary import LETTERS, PICTURE_SIZE, WORDS

LATENT_CHANNELS = 8
LATENT_SIZE = PICTURE_SIZE // 4
FLOW_SHIFT = 2.0
"""s of E6. SD3.5's 3 is for 64 times as many latents; small pictures lose their structure at lower noise."""
MAX_TOKENS = 9
_TEXT_WIDTH = 96
_WIDTH = 192


def build_autoencoder() -> AutoencoderKL:
    """An f4 autoencoder with 8 latent channels, under a million parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=PICTURE_SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_transformer() -> SD3Transformer2DModel:
    """An MMDiT of five blocks over 36 picture tokens and ``MAX_TOKENS`` text tokens."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=_WIDTH // 32,
        joint_attention_dim=2 * _TEXT_WIDTH,
        caption_projection_dim=_WIDTH,
        pooled_projection_dim=2 * _TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE // 2,
        qk_norm="rms_norm",
    )


def build_text_encoder(vocabulary_size: int) -> CLIPTextModelWithProjection:
    """A two-layer CLIP text encoder of width 96."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that ships with the pipeline: flow matching, 1000 timesteps, the world's shift (E6)."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=FLOW_SHIFT)


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes a CLIP tokenizer to ``folder`` that reads prompts word by word and quoted words letter by letter.

    The byte-pair part has letters and no merges; the lower-case words of the prompts are added tokens, matched before
    the text is lower-cased, so that ``red`` is one token and ``RED`` is three.

    Raises:
        ValueError: if a spelt word is not read by letter, or a prompt needs more than ``MAX_TOKENS`` tokens.
    """
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters), '"', '"</w>']
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
        bos_token="<|startoftext|>",  # noqa: S106 - a token of text, not a secret
        eos_token="<|endoftext|>",  # noqa: S106
        unk_token="<|endoftext|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
    )
    words = sorted({w for spec in all_prompts() for w in spec.prompt.split() if w.islower() and len(w) > 1})
    tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=False) for w in words])
    _check(tokenizer)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _check(tokenizer: CLIPTokenizer) -> None:
    for spec in all_prompts():
        if len(tokenizer(spec.prompt).input_ids) > MAX_TOKENS:
            raise ValueError(f"{spec.prompt!r} needs more than {MAX_TOKENS} tokens")
    for word in WORDS:
        if len(tokenizer(word).input_ids) != len(word) + 2:
            raise ValueError(f"{word!r} is not read letter by letter; letters are {LETTERS}")


def seed_everything(seed: int) -> torch.Generator:
    """Seeds torch's global generator, from which modules draw their first weights, and returns one of its own."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
