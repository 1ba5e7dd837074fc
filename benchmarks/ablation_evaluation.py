"""What `benchmarks.ablations` judges of its arms, how two of them are compared, and when a difference is seen.

    FOLDER/start/evaluation.json, FOLDER/ARM/seed-N/evaluation.json, evaluation-ITERATION.json

A finding is seen, or its opposite is, by a rule: on the same held-out prompts and seeds, the 95 % interval of the
paired difference (mean over training seeds, picture by picture) lies on one side of 0, and every training seed's own
difference lies on that side. Otherwise it is undecided.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.ablation_runs import CPU, Options, Run, evaluation_file, oracles, read_network, start_recipe
from benchmarks.arms.catalogue import START, Arm, Finding
from benchmarks.raters import replace_json
from rewardmesh.wire.strict_json import load_json
from trainer.algorithms.tdm import NUM_STUDENT_STEPS
from trainer.evaluate import Evaluation, evaluate
from trainer.evaluation_files import evaluation_json, read_evaluation
from trainer.models.sd3 import Sd3Family
from trainer.paired import Interval, stratified_intervals
from trainer.recipe import Recipe
from trainer.samplers import student_sampler
from trainer.training_process import build_roles, heldout_plan, initial_student, load_family

__all__ = [
    "difference",
    "evaluate_run",
    "evaluate_start",
    "read_evaluation_of",
    "start_folder",
    "verdict",
]


def start_folder(arm: Arm, options: Options) -> Path:
    """Where the start is judged: once for all, and again as an arm samples it that samples otherwise."""
    return options.folder / START if arm.sampler is student_sampler else options.folder / arm.name / START


def evaluate_start(arm: Arm, options: Options) -> bool:
    """Judges the shipped student on held-out prompts, sampled as the arm does; True if that was to be done."""
    file = evaluation_file(start_folder(arm, options))
    if file.exists():
        return False
    recipe = start_recipe(options)
    family = load_family(recipe, device=CPU)
    student = initial_student(recipe, build_roles(recipe.model, family))
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_json(file, evaluation_json(_evaluate(arm, START, recipe, family, student)))
    return True


def evaluate_run(run: Run, *, at: int | None = None) -> bool:
    """Judges an arm's averaged student, or a snapshot of it, on held-out prompts; True if that was to be done."""
    file = evaluation_file(run.folder, at)
    if file.exists():
        return False
    recipe = run.recipe(run.arm.stages[-1])
    family = load_family(recipe, device=CPU)
    network = build_roles(recipe.model, family).new()
    network.load_state_dict(read_network(run.kept(at)))
    replace_json(file, evaluation_json(_evaluate(run.arm, run.arm.name, recipe, family, network)))
    return True


def _evaluate(arm: Arm, name: str, recipe: Recipe, family: Sd3Family, network: nn.Module) -> Evaluation:
    print(f"evaluating {name}", file=sys.stderr, flush=True)
    sampler, nfe = arm.sample_with(family, network.eval().requires_grad_(False), num_steps=NUM_STUDENT_STEPS)
    with torch.inference_mode():
        return evaluate(
            heldout_plan(recipe),
            sampler=sampler,
            judge=oracles().judge,
            name=name,
            nfe=nfe,
            batch_size=recipe.evaluation.batch_size,
        )


def read_evaluation_of(folder: Path, at: int | None = None) -> Evaluation | None:
    """What `evaluate_run` wrote; None if it has not."""
    file = evaluation_file(folder, at)
    return read_evaluation(load_json(file.read_bytes())) if file.exists() else None


def difference(
    higher: Sequence[Evaluation], lower: Sequence[Evaluation], *, starts: tuple[Evaluation, Evaluation] | None = None
) -> tuple[Interval, list[float]]:
    """Mean paired difference over training seeds with its interval, and each seed's own; `starts`: of the two rises.

    Raises: ValueError if they did not draw the same prompts with the same seeds.
    """
    asked = [(one.prompt, one.kind, one.seed) for one in higher[0].outcomes]
    everyone = [*higher, *lower, *(starts or ())]
    if any([(o.prompt, o.kind, o.seed) for o in one.outcomes] != asked for one in everyone):
        raise ValueError("arms can only be compared on the same held-out prompts and seeds")
    ahead = (_passes(starts[0]) - _passes(starts[1])) if starts else 0.0  # of the start
    by_seed = [_passes(one) - _passes(other) - ahead for one, other in zip(higher, lower, strict=True)]
    means = np.mean(by_seed, axis=0)
    overall, _ = stratified_intervals(
        [(kind, prompt, float(mean)) for (prompt, kind, _), mean in zip(asked, means, strict=True)]
    )
    before = starts[0].overall - starts[1].overall if starts else 0.0
    return overall, [one.overall - other.overall - before for one, other in zip(higher, lower, strict=True)]


def _passes(evaluation: Evaluation) -> NDArray[np.float64]:
    return np.array([float(outcome.passed) for outcome in evaluation.outcomes])


def verdict(finding: Finding, interval: Interval, by_seed: Sequence[float]) -> str:
    """`seen`, `the opposite is seen`, or `undecided`; for one without a direction, which arm is higher."""
    higher = interval.low > 0 and all(value > 0 for value in by_seed)
    lower = interval.high < 0 and all(value < 0 for value in by_seed)
    if finding.directed:
        return "seen" if higher else "the opposite is seen" if lower else "undecided"
    return f"{finding.higher} is higher" if higher else f"{finding.lower} is higher" if lower else "undecided"
