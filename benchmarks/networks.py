"""The networks that benchmarks draw pictures with, by name: what ships, and the student of any run.

    teacher       the shipped teacher, guided, 40 steps: 80 NFE
    teacher_4     the same teacher at 4 NFE: 2 guided steps
    student       the shipped student of TDM, 4 NFE
    tdm_r1        the shipped student of TDM-R1, 4 NFE, if there is one
    RUN           a run folder or its name: the averaged student of its newest checkpoint, 4 NFE

Owns no sampling: samplers are `trainer.samplers`'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from deploy.runs import find_run
from deploy.settings import load_settings
from rewardmesh.wire.errors import RecipeError, WeightsMissing
from trainer.algorithms.tdm import NUM_STUDENT_STEPS
from trainer.checkpoint import CheckpointFolder
from trainer.evaluate import Sampler
from trainer.recipe import Recipe, load_recipe
from trainer.samplers import student_sampler, teacher_sampler
from trainer.training_process import build_roles, load_family, model_folder

__all__ = ["SHIPPED", "Network", "Networks", "shown_names"]

SHIPPED: Final = ("teacher", "teacher_4", "student", "tdm_r1")


@dataclass(frozen=True)
class Network:
    """A way to make pictures."""

    name: str
    sampler: Sampler
    nfe: int
    """Network forwards a picture, guidance counted."""


def shown_names(names: Sequence[str]) -> dict[str, str]:
    """How each is headed in a table: a run by its folder's name alone, unless two of them would share it."""
    short = {name: Path(name).name for name in names}
    shared = Counter(short.values())
    return {name: own if shared[own] == 1 else name for name, own in short.items()}


class Networks:
    """One pipeline, and the networks that sample with it."""

    def __init__(self, recipe: Recipe | None = None, *, device: str = "cpu") -> None:
        """The pipeline of a recipe, the demo's by default. Raises WeightsMissing."""
        self.recipe = recipe or load_recipe("demo")
        self.family = load_family(self.recipe, device=torch.device(device))

    def find(self, name: str) -> Network:
        """Raises: WeightsMissing if a shipped network is not there; RecipeError for a run without a checkpoint."""
        settings = self.recipe.evaluation
        if name in ("teacher", "teacher_4"):
            sampler, nfe = teacher_sampler(
                self.family,
                self.family.teacher,
                num_steps=settings.teacher_steps if name == "teacher" else NUM_STUDENT_STEPS // 2,
                guidance_scale=settings.teacher_guidance_scale,
            )
            return Network(name, sampler, nfe)
        transformer = self._shipped(name) if name in SHIPPED else self._trained(name)
        transformer.eval().requires_grad_(requires_grad=False)
        sampler, nfe = student_sampler(self.family, transformer, num_steps=NUM_STUDENT_STEPS)
        return Network(name, sampler, nfe)

    def _shipped(self, name: str) -> torch.nn.Module:
        folder = model_folder(self.recipe) / name
        if not (folder / "config.json").is_file():
            raise WeightsMissing("no such network ships", name, "train it, and name the run instead")
        transformer: torch.nn.Module = self.family.new_transformer(folder)
        return transformer

    def _trained(self, run: str) -> torch.nn.Module:
        folder: Path = find_run(load_settings().run_root, run)
        checkpoint = CheckpointFolder(folder / "checkpoints", keep=1).read_latest()
        if checkpoint is None:
            raise RecipeError("the run has no checkpoint yet", str(folder), "train it first")
        transformer = build_roles(load_recipe(folder / "recipe.yaml").model, self.family).new()
        transformer.load_state_dict(dict(checkpoint.networks["ema_student"]))
        return transformer
