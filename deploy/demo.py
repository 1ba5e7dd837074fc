"""`rewardmesh demo`: the whole road once, within ten minutes on two cores, and what it brought.

    start the stack → held-out accuracy before → train → held-out accuracy after → table, pictures, report

Everything that it leaves is in the run folder. It ends what it started, whatever ends it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from deploy.local import Stack
from deploy.memory import MemoryWatch
from deploy.progress import ConsoleProgress, counting
from deploy.runs import choose_run_folder, is_finished
from deploy.settings import Settings
from deploy.signals import StopRequested, stopping_on_signals
from deploy.weights import require_world
from rewardmesh.wire.strict_json import dump_json

if TYPE_CHECKING:
    from trainer.evaluate import Evaluation
    from trainer.recipe import Recipe

__all__ = ["BUDGET_S", "fit_into_budget", "run_demo"]

BUDGET_S = 600.0
_TRAINER_START_S = 45.0  # Ray Train's controller and worker; the recipe's time limit does not count it
_CLOSING_S = 30.0  # report and shutdown, with room


@dataclass(frozen=True)
class _Demo:
    """What one demo works on."""

    recipe: Recipe
    folder: Path
    goes_on: bool
    began: float
    limited_by_user: bool


def run_demo(settings: Settings, *, name: str, resume: bool | None, overrides: Sequence[str]) -> None:
    """Runs the demo and prints its result. Raises what stops it, with everything that it started ended."""
    began = time.monotonic()
    console = Console()
    console.print("rewardmesh demo: reading the recipe", highlight=False)
    from trainer.recipe import load_recipe

    recipe = load_recipe("demo", overrides)
    if recipe.model.folder == "shapes":
        require_world()
    ask = _ask if console.is_terminal else None
    folder, goes_on = choose_run_folder(settings.run_root, name, resume=resume, ask=ask)
    limited = any(one.partition("=")[0].strip() == "run.time_limit_s" for one in overrides)
    demo = _Demo(recipe, folder, goes_on, began, limited)
    _say(console, f"run folder {folder}" + (" (goes on from its last checkpoint)" if goes_on else ""))
    with stopping_on_signals() as install:
        try:
            _run(demo, settings, console, install)
        except StopRequested:
            _say(console, "every process that the demo started has been stopped")
            again = "rewardmesh demo" + (f" --name {name}" if name != "demo" else "")
            _say(console, f"go on with `{again} --resume`, begin anew with `{again} --new`")
            raise


def _run(demo: _Demo, settings: Settings, console: Console, install: Any) -> None:
    recipe, folder = demo.recipe, demo.folder
    with Stack(settings, progress=ConsoleProgress(console), on_connected=install) as stack:
        _say(console, f"watch it in the Ray dashboard: {stack.dashboard_url} (token: `ray get-auth-token`)")
        with MemoryWatch(stack.state.stack_id) as memory:
            with stack.timings.part("networks", "loading torch and the shipped student"):
                from deploy.evaluation import Evaluator
                from deploy.training import Training, train_and_show

                evaluator = Evaluator(recipe, redis_url=stack.redis_url)
            evaluation_began = time.monotonic()
            with counting(console, "held-out pictures before") as tell:
                before = evaluator.shipped("student", name="before", tell=tell)
            evaluation_s = time.monotonic() - evaluation_began
            _say(console, f"held-out strict accuracy before: {before.overall:.3f} ({len(before.outcomes)} pictures)")
            if not demo.limited_by_user:
                recipe = fit_into_budget(
                    recipe, gone_s=time.monotonic() - demo.began, evaluation_s=evaluation_s, folder=folder
                )
            cpus = settings.cpus_per_trainer(1)
            training = Training(recipe, folder, redis_url=stack.redis_url, cpus_per_worker=cpus)
            result = train_and_show(training, console=console, title="training the student from rewards")
            _say(console, f"{result.reason} after {result.iterations} iterations, {result.elapsed_s:.0f} s of training")
            with counting(console, "held-out pictures after") as tell:
                after = evaluator.trained(folder, export=folder / "student", tell=tell)
    facts = {
        "wall_s": time.monotonic() - demo.began,
        "start_up_s": stack.timings.seconds,
        "memory_peak_bytes": memory.peak_bytes,
        "memory_peak_by_process": memory.peak,
        "reason": result.reason,
        "iterations": result.iterations,
        "training_s": result.elapsed_s,
    }
    _write_results(demo, facts, before=before, after=after, console=console)


def fit_into_budget(recipe: Recipe, *, gone_s: float, evaluation_s: float, folder: Path) -> Recipe:
    """The recipe with a time limit that lets the demo end within its budget on a slow machine.

    A limit counts training before a resume too, so what a resumed run has used already is added.
    """
    used_s = 0.0
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        used_s = float(json.loads((folder / "status.json").read_text())["elapsed_s"])
    left_s = max(30.0, BUDGET_S - gone_s - _TRAINER_START_S - 1.3 * evaluation_s - _CLOSING_S)
    limit_s = used_s + left_s
    own_s = recipe.run.time_limit_s
    if own_s is not None:
        limit_s = min(limit_s, own_s)
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"time_limit_s": limit_s})})


def _write_results(
    demo: _Demo, facts: dict[str, Any], *, before: Evaluation, after: Evaluation, console: Console
) -> None:
    from trainer.amendments import show_amendments
    from trainer.evaluation_files import heldout_figures, markdown_table, write_heldout
    from trainer.pictures import write_comparison
    from trainer.report import write_report

    folder = demo.folder
    difference = write_heldout(folder, before=before, after=after, confidence=demo.recipe.evaluation.confidence)
    picture = write_comparison(
        folder / "pictures" / "before-after.png", [before, after], title="the same prompts and seeds, before and after"
    )
    summary = {
        "run_id": folder.name,
        "recipe": demo.recipe.name,
        "form": demo.recipe.algorithm.surrogate.form,
        "heldout": heldout_figures(before, after, difference),
        "nfe": {"before": before.nfe, "after": after.nfe},
        "amendments": show_amendments(folder),
        **facts,
    }
    (folder / "summary.json").write_text(dump_json(summary) + "\n", encoding="utf-8")
    console.print()
    _say(console, markdown_table([before, after], difference=difference))
    overall = difference.overall
    verdict = "risen" if difference.risen else "not been shown to have risen"
    _say(
        console,
        f"held-out strict accuracy has {verdict}: {before.overall:.3f} → {after.overall:.3f}, difference "
        f"{overall.value:+.3f}, {100 * difference.confidence:.0f} % interval "
        f"[{overall.low:+.3f}, {overall.high:+.3f}], {difference.num_pictures} pictures",
    )
    _say(console, f"wall time {facts['wall_s']:.0f} s, memory at its most {facts['memory_peak_bytes'] / 2**30:.1f} GiB")
    for what, path in (("pictures", picture), ("report", write_report(folder)), ("run folder", folder)):
        _say(console, f"{what:<11}{path}")


def _ask(folder: Path) -> bool:
    """On a terminal: go on with the run that is there? No begins a new one beside it."""
    state = "finished" if is_finished(folder) else "not finished"
    return typer.confirm(
        f"{folder} exists, {state}. Go on with it? (no begins a new one)", default=not is_finished(folder)
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
