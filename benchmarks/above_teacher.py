"""Are the students of several trainings, at 4 steps, above the teacher that they all come from, at 80?

    python -m benchmarks.above_teacher RUN RUN RUN [--json FILE]

Of each run, a finished demo say, or a result that `benchmarks.ablations` kept (ARM-seed-N.json), the held-out pictures
that it ended with; of the teacher, pictures of the same prompts
from the same noise, drawn here (a minute). Differences are paired by picture. That of the mean has the 95 % interval
over prompts; how trainings differ stands beside it, as their standard deviation. Exit status 1 unless every training is
above its teacher and the interval of the mean is above 0.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.ablation_evaluation import difference
from benchmarks.ablation_results import plan_of, read_kept
from benchmarks.ablation_runs import Options
from benchmarks.networks import Networks
from benchmarks.record import parser, print_table, write
from deploy.oracles_in_process import OraclesInProcess
from deploy.runs import find_run
from deploy.settings import load_settings
from rewardmesh.wire.strict_json import load_json
from trainer.evaluate import Evaluation, HeldoutPicture, evaluate
from trainer.evaluation_files import HELDOUT_FILE, read_evaluation
from trainer.recipe import parse_recipe
from trainer.training_process import heldout_plan


def ended_with(folder: Path) -> Evaluation:
    """A run's held-out pictures after training. Raises: SystemExit if it has none."""
    try:
        return read_evaluation(load_json((folder / HELDOUT_FILE).read_bytes())["after"])
    except FileNotFoundError:
        raise SystemExit(f"{folder} has no {HELDOUT_FILE}: end its training first (rewardmesh demo)") from None


def read_run(root: Path, name: str) -> tuple[Evaluation, list[HeldoutPicture]]:
    """The pictures that a run, or a kept result of an ablation, ended with, and the plan that they follow.

    Raises: SystemExit if it has none, or if the result is of other pictures or weights than there are now;
        RecipeError if there is no such run.
    """
    if name.endswith(".json"):
        file, options = Path(name), Options(Path())
        plan = plan_of(options)
        return read_kept(file, options).evaluation(plan), plan
    folder = find_run(root, name)
    recipe = parse_recipe((folder / "recipe.yaml").read_text(encoding="utf-8"), which=name)
    return ended_with(folder), heldout_plan(recipe)


def draw_with_teacher(plan: Sequence[HeldoutPicture]) -> Evaluation:
    """The same held-out pictures, drawn by the shipped teacher at 80 NFE."""
    teacher = Networks().find("teacher")
    with torch.inference_mode():
        return evaluate(
            plan,
            sampler=teacher.sampler,
            judge=OraclesInProcess().judge,
            name="teacher",
            nfe=teacher.nfe,
        )


def content_of(runs: Mapping[str, Evaluation], teacher: Evaluation) -> dict[str, Any]:
    """Accuracy of all, each difference, and that of the mean with its interval."""
    students = list(runs.values())
    mean, by_run = difference(students, [teacher] * len(students))
    accuracies = [one.overall for one in students]
    return {
        "teacher": teacher.overall,
        "pictures": len(teacher.outcomes),
        "students": dict(zip(runs, accuracies, strict=True)),
        "above": dict(zip(runs, by_run, strict=True)),
        "mean": statistics.fmean(accuracies),
        "deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "mean_above": asdict(mean),
    }


def table_of(content: Mapping[str, Any]) -> Table:
    """A line for each run."""
    table = Table(title="benchmarks.above_teacher: held-out strict accuracy", title_justify="left")
    for column in ("", "accuracy", "above the teacher"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("teacher, 80 NFE", f"{content['teacher']:.3f}", "")
    for name, accuracy in content["students"].items():
        table.add_row(name, f"{accuracy:.3f}", f"{content['above'][name]:+.3f}")
    deviation, mean = content["deviation"], content["mean_above"]
    spread = "" if deviation is None else f" (standard deviation {deviation:.3f})"
    above = f"{mean['value']:+.3f} [{mean['low']:+.3f}, {mean['high']:+.3f}]"
    table.add_row("mean of the trainings", f"{content['mean']:.3f}{spread}", above, style="bold")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads, draws, prints and writes."""
    made = parser(__doc__, repeats=False)
    made.add_argument("runs", nargs="+", metavar="RUN", help="name or folder of a run that ended, or a kept result")
    given = made.parse_args(arguments)
    root = load_settings().run_root
    read = {name: read_run(root, name) for name in given.runs}
    plan = next(iter(read.values()))[1]
    if any(other != plan for _, other in read.values()):
        made.error("the runs were judged with different evaluations: compare runs of one recipe")
    content = content_of({name: ended for name, (ended, _) in read.items()}, draw_with_teacher(plan))
    print_table(table_of(content), f"{content['pictures']} pictures of each")
    write("above_teacher", content, json_file=given.json)
    return 0 if min(content["above"].values()) > 0 and content["mean_above"]["low"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
