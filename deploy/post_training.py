"""Post-training in one process: the trainer's own loop, with the oracles called in it. No Ray and no buffer.

For machines that have neither, a lent GPU say, and for research. Nothing overlaps: all reward time is exposed, and the
figures say so. What comes of it is measured on the road like any other student (`rewardmesh evaluate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deploy.oracles_in_process import OraclesInProcess
from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.strict_json import dump_json
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.coordination import Solo
from trainer.evaluate import evaluate
from trainer.in_process_feedback import InProcessFeedback
from trainer.loop import Loop, RunOutcome
from trainer.recipe import Recipe
from trainer.run_folder import RunFolder
from trainer.samplers import student_sampler
from trainer.training_process import build_algorithm, heldout_plan, load_family, training_prompts, with_absolute_folder

__all__ = ["HELDOUT_FILE", "device_of", "post_train"]

HELDOUT_FILE = "heldout.jsonl"


def device_of(recipe: Recipe) -> str:
    """Where a recipe computes. Raises RecipeError if it asks for a GPU and there is none."""
    if recipe.use_gpu and not torch.cuda.is_available():
        raise RecipeError("the recipe asks for a GPU and there is none", "use_gpu", "override it with use_gpu=false")
    return "cuda" if recipe.use_gpu else "cpu"


def post_train(
    recipe: Recipe, run_folder: Path, *, oracles: OraclesInProcess, tell: Callable[[str], None] = print
) -> tuple[RunOutcome, TdmR1]:
    """Trains to the recipe's end or its time limit, or goes on with what the folder holds.

    At each checkpoint the averaged student draws the recipe's held-out pictures, which the same oracles judge: one line
    of `heldout.jsonl` with strict accuracy over all and by kind.
    Raises: WeightsMissing, RecipeError, OracleRejected for an oracle that is not in this process, and what `Loop.run`
    raises.
    """
    recipe = with_absolute_folder(recipe)
    folder = RunFolder(run_folder)
    folder.adopt(recipe)
    family = load_family(recipe, device=torch.device(device_of(recipe)))
    algorithm = build_algorithm(recipe, family, workers=Solo())
    loop = Loop(
        recipe,
        algorithm,
        decode=lambda latents: family.decode(latents.to(family.device)),
        prompts=training_prompts(recipe),
        feedback=InProcessFeedback(oracles.by_name),
        folder=folder,
        sinks=[partial(_tell_line, tell)],
        on_checkpoint=partial(_measure, recipe, algorithm, folder, oracles, tell),
    )
    return loop.run(), algorithm


def _tell_line(tell: Callable[[str], None], line: Mapping[str, Any]) -> None:
    ranking = line["figures"].get("surrogate", {}).get("surrogate_ranking", float("nan"))
    tell(
        f"iteration {line['iteration']}  reward {line['reward'] or float('nan'):.3f}  "
        f"strict {line['strict_share'] or 0:.3f}  ranking {ranking:.3f}  {line['seconds']['iteration']:.2f} s"
    )


def _measure(
    recipe: Recipe,
    algorithm: TdmR1,
    folder: RunFolder,
    oracles: OraclesInProcess,
    tell: Callable[[str], None],
    checkpoint: Path | None,
    line: Mapping[str, Any],
) -> None:
    del checkpoint
    settings = recipe.evaluation
    plan = heldout_plan(recipe)
    sampler, nfe = student_sampler(algorithm.family, algorithm.ema_student, num_steps=algorithm.num_steps)
    with torch.inference_mode():
        found = evaluate(
            plan, sampler=sampler, judge=oracles.judge, name="student", nfe=nfe, batch_size=settings.batch_size
        )
    said = {
        "iteration": line.get("iteration", 0),
        "elapsed_s": line.get("elapsed_s", 0.0),
        "strict": found.overall,
        "by_kind": {kind.kind: kind.share for kind in found.by_kind},
    }
    with (folder.path / HELDOUT_FILE).open("a", encoding="utf-8") as file:
        file.write(dump_json(said) + "\n")
    tell(f"held out, iteration {said['iteration']}: {found.overall:.3f}  {said['by_kind']}")
