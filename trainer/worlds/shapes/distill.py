"""Distils the shapes world's 4-step student from its teacher, by plain TDM: no rewards."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.algorithm_recipe import AdamSettings, AlgorithmRecipe, FakeScoreSettings, StudentSettings
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm import Tdm
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family
from trainer.worlds.resumable import Bar, save_atomically
from trainer.worlds.shapes.prompts import all_prompts
from trainer.worlds.shapes.vocabulary import KINDS

DISTILLATION = AlgorithmRecipe(
    batch_size=64,
    fake_score=FakeScoreSettings(
        optimizer=AdamSettings(learning_rate=4e-4, betas=(0.0, 0.999)), initial_weights="teacher"
    ),
    student=StudentSettings(
        optimizer=AdamSettings(learning_rate=2e-4, betas=(0.0, 0.999)), guidance_scale=2.5, ema_decay=0.98
    ),
)
_FAKE_SCORE_UPDATES = 2
"""Of the fake score for one of the student: it must stay ahead."""


def _with_rates(recipe: AlgorithmRecipe, *, student: float, fake_score: float) -> AlgorithmRecipe:
    def at(settings: StudentSettings | FakeScoreSettings, rate: float) -> dict[str, AdamSettings]:
        return {"optimizer": settings.optimizer.model_copy(update={"learning_rate": rate})}

    return recipe.model_copy(
        update={
            "student": recipe.student.model_copy(update=at(recipe.student, student)),
            "fake_score": recipe.fake_score.model_copy(update=at(recipe.fake_score, fake_score)),
        }
    )


LORA_DISTILLATION = _with_rates(DISTILLATION, student=1e-3, fake_score=2e-3)
"""The same with adapters, whose matrices take larger steps."""


def distil(
    work: Path,
    family: Sd3Family,
    *,
    roles: Roles | None = None,
    recipe: AlgorithmRecipe = DISTILLATION,
    num_steps: int = 250,
    seed: int = 0,
    start: Path | None = None,
) -> Tdm:
    """Trains, or goes on training, student and fake score; the checkpoint lies in ``work``.

    Without a checkpoint both begin as those in the folder ``start``, or as the teacher.

    Each step samples one trajectory for each of ``batch_size`` random prompts, balanced by kind, and learns
    from all of them: two updates of the fake score, one of the student.
    """
    if start is not None:
        fake_score = recipe.fake_score.model_copy(update={"initial_weights": "shipped"})
        recipe = recipe.model_copy(update={"fake_score": fake_score})
    tdm = Tdm(recipe, family, roles=roles, weights=start, seed=seed)
    checkpoint = work / "distil.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        tdm.load_state_dict(state["tdm"])
        first = int(state["step"])
    with Bar("distil", first=first, total=num_steps) as advance:
        for step in range(first, num_steps):
            advance(_step(tdm, torch.Generator().manual_seed(seed * 1_000_003 + step)))
            if (step + 1) % 50 == 0 or step + 1 == num_steps:
                save_atomically({"tdm": tdm.state_dict(), "step": step + 1}, checkpoint)
    return tdm


def _step(tdm: Tdm, rng: torch.Generator) -> dict[str, float]:
    prompts = draw_prompts(tdm.recipe.batch_size, rng)
    trajectory = tdm.rollout(prompts, 1, rng)
    batch = TrajectoryBatch(boundaries=trajectory.boundaries, prompts=prompts, group_index=torch.arange(len(prompts)))
    figures: dict[str, float] = {}
    for _ in range(_FAKE_SCORE_UPDATES):
        figures |= tdm.fake_score_step(batch)
    return figures | tdm.student_step(batch)


def draw_prompts(count: int, rng: torch.Generator) -> list[str]:
    """Random prompts, each kind as likely as the next."""
    by_kind = [[p.prompt for p in all_prompts() if p.kind == kind] for kind in KINDS]
    kinds = torch.randint(len(KINDS), (count,), generator=rng).tolist()
    return [by_kind[k][int(torch.randint(len(by_kind[k]), (1,), generator=rng))] for k in kinds]
