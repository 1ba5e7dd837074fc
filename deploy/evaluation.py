"""Held-out evaluation of the networks that there are: the shipped teacher and students, and any run's student.

Puts together the world's prompts, the samplers and the judge. What is counted and how is `trainer.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from deploy.judging import StackJudge
from rewardmesh.wire.errors import RecipeError
from trainer.algorithms.tdm import NUM_STUDENT_STEPS
from trainer.checkpoint import CheckpointFolder
from trainer.evaluate import Evaluation, HeldoutPicture, Sampler, evaluate
from trainer.models.sd3 import Sd3Family
from trainer.recipe import Recipe
from trainer.samplers import student_sampler, teacher_sampler
from trainer.training_process import build_roles, heldout_plan, initial_student, load_family, shipped_student

__all__ = ["Evaluator", "Which"]

Which = Literal["teacher", "student", "tdm_r1"]
Tell = Callable[[int, int], None]


class Evaluator:
    """Evaluates networks of one recipe on one plan: the same prompts and seeds for all of them.

    Its pictures are judged on the road of the stack whose buffer is at `redis_url`.
    """

    def __init__(self, recipe: Recipe, *, redis_url: str) -> None:
        """Loads the pipeline. Raises WeightsMissing."""
        for libraries in (diffusers_logging, transformers_logging):
            libraries.disable_progress_bar()  # they would draw over ours
        self._recipe = recipe
        self._redis_url = redis_url
        device = torch.device("cuda" if recipe.use_gpu and torch.cuda.is_available() else "cpu")
        self.family: Sd3Family = load_family(recipe, device=device)
        self._roles = build_roles(recipe.model, self.family)
        self.plan: list[HeldoutPicture] = heldout_plan(recipe)

    def shipped(self, which: Which, *, name: str | None = None, tell: Tell | None = None) -> Evaluation:
        """What ships: the teacher with guidance and many steps; with few, the student that runs begin with, and the one
        that TDM-R1 made of it. Raises WeightsMissing.
        """
        settings = self._recipe.evaluation
        if which == "student":
            return self._student(initial_student(self._recipe, self._roles), name or which, tell)
        if which == "tdm_r1":
            return self._student(shipped_student(self._recipe, self._roles, which), name or which, tell)
        sampler, nfe = teacher_sampler(
            self.family,
            self.family.teacher,
            num_steps=settings.teacher_steps,
            guidance_scale=settings.teacher_guidance_scale,
        )
        return self._evaluate(sampler, nfe, name or "teacher", tell)

    def trained(
        self, run_folder: Path, *, name: str = "after", export: Path | None = None, tell: Tell | None = None
    ) -> Evaluation:
        """The averaged student of a run's newest checkpoint; `export` writes it for plain diffusers.

        Raises: RecipeError if the run has no checkpoint, CheckpointCorrupt.
        """
        checkpoint = CheckpointFolder(run_folder / "checkpoints", keep=1).read_latest()
        if checkpoint is None:
            raise RecipeError("the run has no checkpoint yet", str(run_folder), "train it first")
        network = self._roles.new()
        network.load_state_dict(dict(checkpoint.networks["ema_student"]))
        evaluation = self._student(network, name, tell)
        if export is not None:
            facts = {"iteration": checkpoint.iteration, "heldout_strict": evaluation.overall}
            self._roles.export(export, network, num_steps=NUM_STUDENT_STEPS, **facts)
        return evaluation

    def _student(self, network: torch.nn.Module, name: str, tell: Tell | None) -> Evaluation:
        network.eval().requires_grad_(requires_grad=False)
        sampler, nfe = student_sampler(self.family, network, num_steps=NUM_STUDENT_STEPS)
        return self._evaluate(sampler, nfe, name, tell)

    def _evaluate(self, sampler: Sampler, nfe: int, name: str, tell: Tell | None) -> Evaluation:
        with torch.inference_mode(), StackJudge(self._redis_url) as judge:
            return evaluate(
                self.plan,
                sampler=sampler,
                judge=judge,
                name=name,
                nfe=nfe,
                batch_size=self._recipe.evaluation.batch_size,
                progress=tell,
            )
