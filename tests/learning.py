"""The parts of a small training run on the shapes world, judged in this process by how bright pictures are.

What they learn follows from the recipe alone: an oracle that looks at one picture at a time, one rollout ahead, no free
updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch

from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import OracleInfo, Scored
from trainer.coordination import Workers
from trainer.in_process_feedback import InProcessFeedback
from trainer.models.sd3 import Sd3Family
from trainer.recipe import Recipe, parse_recipe
from trainer.training_process import Parts, build_algorithm, load_family, training_prompts

__all__ = ["Brightness", "build", "deterministic_recipe"]

RECIPE: Final = """
name: deterministic
model: {roles: lora, lora: {rank: 2, alpha: 4}}
algorithm:
  precision: float32
  batch_size: 12
  surrogate: {form: value_contrast, fresh_share: 0.5, initial_weights: teacher, updates_per_iteration: 1}
  fake_score: {initial_weights: teacher}
  student: {initial_weights: teacher}
prompts: {groups_per_iteration: 4, group_size: 3}
feedback:
  oracles: [{name: brightness, applies: all}]
  max_inflight: 2
  max_free_updates: 0
  wait_s: 600
store: {bank_groups: 10}
run: {iterations: 5, checkpoint_every: 2}
"""


def deterministic_recipe(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, which="deterministic", overrides=overrides)


class Brightness(Oracle):
    """Mean brightness of one picture at a time."""

    info = OracleInfo(
        name="brightness", version="1", reward_min=0.0, reward_max=1.0, media_types=("image/png",), max_batch=1
    )

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        return [Scored(sample_id=one.sample.sample_id, reward=float(one.picture.mean()) / 255) for one in batch]


def build(
    recipe: Recipe,
    *,
    run_id: str,
    device: torch.device,
    workers: Workers,
    buffer_url: str | None,
    family: Sd3Family | None = None,
) -> Parts:
    """As `trainer.training_process.build_parts`, without a buffer."""
    torch.set_num_threads(1)
    family = family or load_family(recipe, device=device)
    algorithm = build_algorithm(recipe, family, workers=workers)
    feedback = InProcessFeedback({"brightness": Brightness()})
    return Parts(algorithm, partial(Sd3Family.decode, family), training_prompts(recipe), feedback)
