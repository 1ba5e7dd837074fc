"""Measures how well the oracles read rendered pictures, and how often they pass what they should not.

Owns the held-out pictures and the figures; `deploy.train_oracles` prints them and writes them beside the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deploy.oracle_training import augment
from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import Checks, Sample, Scored
from services.oracles.object_count import ObjectCount, ObjectCountSettings
from services.oracles.ocr_spelling import OcrSpelling
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts
from trainer.worlds.shapes.render import render, scene_for
from trainer.worlds.shapes.vocabulary import KINDS

__all__ = ["Figures", "measure", "table"]

_SEED = 20_000  # training draws from the seeds of its own, far below
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured for one kind of prompt; shares in [0, 1]."""

    kind: str
    num_pictures: int
    strict: float  # pictures of the prompt that pass it
    strict_softened: float  # the same, blurred, smoothed and noisy
    passes_other: float  # pictures that pass the checks of another prompt of the kind
    reward_other: float  # mean reward by the checks of another prompt
    ms_per_picture: float


def measure(folder: Path, *, per_kind: int, progress: Callable[[str], None]) -> list[Figures]:
    """Judges `per_kind` held-out pictures of every kind, three times. Raises: WeightsMissing."""
    rng = np.random.default_rng(_SEED)
    noise = torch.Generator().manual_seed(_SEED)
    count: Oracle = ObjectCount(ObjectCountSettings(weights_folder=folder))
    spelling: Oracle = OcrSpelling()
    figures = []
    for kind in KINDS:
        oracle = spelling if kind == "spelling" else count
        specs = [spec for spec in heldout_prompts() if spec.kind == kind]
        asked = [specs[index % len(specs)] for index in range(per_kind)]
        pictures = np.stack([render(scene_for(spec.checks, rng)).picture for spec in asked])
        others = [_other(spec, specs, rng) for spec in asked]
        _judge(oracle, asked[:_BATCH], pictures[:_BATCH])  # the first batch warms up
        started = time.perf_counter()
        right = _judge(oracle, asked, pictures)
        elapsed_s = time.perf_counter() - started
        softened = _judge(oracle, asked, _soften(pictures, noise))
        wrong = _judge(oracle, others, pictures)
        figures.append(
            Figures(
                kind=kind,
                num_pictures=per_kind,
                strict=float(np.mean(right == 1.0)),
                strict_softened=float(np.mean(softened == 1.0)),
                passes_other=float(np.mean(wrong == 1.0)),
                reward_other=float(np.mean(wrong)),
                ms_per_picture=1000 * elapsed_s / per_kind,
            )
        )
        progress(f"measured {kind}: {figures[-1].strict:.3f}")
    return figures


def table(figures: Sequence[Figures]) -> str:
    """The figures as Markdown, with the mean of the kinds last."""
    lines = [
        "| kind | pictures | read | softened | another prompt passes | its mean reward | ms a picture |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.kind} | {one.num_pictures} | {one.strict:.3f} | {one.strict_softened:.3f} "
        f"| {one.passes_other:.3f} | {one.reward_other:.3f} | {one.ms_per_picture:.2f} |"
        for one in figures
    ]
    read, softened = (float(np.mean([getattr(f, name) for f in figures])) for name in ("strict", "strict_softened"))
    return "\n".join([*lines, f"| mean of the kinds | | {read:.3f} | {softened:.3f} | | | |"])


def _other(spec: PromptSpec, specs: Sequence[PromptSpec], rng: np.random.Generator) -> PromptSpec:
    """Another prompt of the kind that does not mean the same picture."""
    others = [one for one in specs if one.key != spec.key]
    return others[int(rng.integers(len(others)))]


def _judge(oracle: Oracle, specs: Sequence[PromptSpec], pictures: np.ndarray) -> np.ndarray:
    """Rewards [N] of pictures [N, H, W, 3] by the checks of `specs`."""
    rewards = np.zeros(len(specs))
    for start in range(0, len(specs), _BATCH):
        chosen = range(start, min(start + _BATCH, len(specs)))
        batch = [OracleInput(_sample(index, specs[index]), pictures[index]) for index in chosen]
        for result in oracle.score(batch):
            # A failure of a picture that we made ourselves counts as not read.
            rewards[int(result.sample_id)] = result.reward if isinstance(result, Scored) else 0.0
    return rewards


def _sample(index: int, spec: PromptSpec) -> Sample:
    return Sample(
        run_id="measure",
        group_id=spec.kind,
        sample_id=str(index),
        policy_version=0,
        boundary_index=0,
        prompt=spec.prompt,
        checks=Checks.from_metadata(spec.checks),
    )


def _soften(pictures: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """Training's augmentation on held-out pictures [N, H, W, 3] uint8."""
    soft = augment(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255, rng)
    return (soft * 255).round().byte().permute(0, 2, 3, 1).numpy()
