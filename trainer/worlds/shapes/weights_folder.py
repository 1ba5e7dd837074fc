"""The shipped weights of the shapes world: what lies where, written in half precision, with checksums.

The folder is a pipeline that plain diffusers loads (its transformer is the teacher), with ``student``, ``fake_score``
and ``surrogate.safetensors`` beside it. Tokenizer and configuration files are listed too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel

from trainer.models.sd3 import Sd3Family, forget_paths

WEIGHTS = Path(__file__).parent / "weights"
CHECKSUMS = "SHA256SUMS"


def write_teacher(folder: Path, family: Sd3Family, *, num_steps: int) -> None:
    """Writes the pipeline in half precision; the family's own networks stay as they are."""
    pipeline = family.pipeline
    parts = [pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2]
    for part in parts:
        part.half()
    try:
        family.export(folder, pipeline.transformer, num_steps=num_steps)
    finally:
        for part in parts:
            part.float()
    write_checksums(folder)


def write_transformer(folder: Path, transformer: SD3Transformer2DModel) -> None:
    """Writes one transformer in half precision."""
    half = SD3Transformer2DModel.from_config(transformer.config)
    half.load_state_dict(transformer.state_dict())
    half.to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    forget_paths(folder)


def write_checksums(folder: Path) -> None:
    """Lists every file of the folder but the list itself and the page of scores, as ``sha256sum`` does."""
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.suffix != ".py" and p.name not in (CHECKSUMS, "README.md")
    )
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n")
