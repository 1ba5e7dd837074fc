"""A held-out world for tests: two kinds of prompts, pictures that are one grey level, and a judge that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.evaluate import Evaluation, HeldoutPrompt, Pictures, evaluate, plan_heldout


@dataclass(frozen=True)
class GreyPrompt:
    prompt: str
    kind: str
    key: str = ""
    checks: dict[str, Any] = field(default_factory=dict)


PROMPTS = [*(GreyPrompt(f"many {n}", "many") for n in range(10)), GreyPrompt('one <"prompt">', "one")]
PLAN = plan_heldout(PROMPTS, prompts_per_kind=4, pictures_per_kind=20, seed=100)


def grey_sampler(bright: float):
    """Draws a picture's grey level from its seed alone; `bright` shifts all of them."""

    def sample(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        assert len(prompts) == len(seeds)
        levels = [np.random.default_rng(seed).random() + bright for seed in seeds]
        grey = (255 * np.clip(levels, 0, 1)).astype(np.uint8)
        return np.broadcast_to(grey[:, None, None, None], (len(grey), 16, 16, 3)).copy()

    return sample


def brightness_judge(pictures: Pictures, specs: Sequence[HeldoutPrompt]) -> tuple[list[bool], list[dict[str, Any]]]:
    levels = pictures.mean(axis=(1, 2, 3)) / 255
    return [bool(level > 0.7) for level in levels], [{"level": float(level)} for level in levels]


def grey_evaluation(name: str, bright: float, **changes: Any) -> Evaluation:
    arguments: dict[str, Any] = {
        "sampler": grey_sampler(bright),
        "judge": brightness_judge,
        "name": name,
        "nfe": 4,
        "batch_size": 7,
    }
    return evaluate(PLAN, **(arguments | changes))
