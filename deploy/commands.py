"""What the commands do, but for the demo, which has a module of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console

from deploy.local import Stack, stop_stack
from deploy.progress import ConsoleProgress, counting
from deploy.runs import choose_run_folder, find_run, runs_named
from deploy.settings import Settings
from deploy.signals import StopRequested, stopping_on_signals, undisturbed
from deploy.state import exclusive, read_state
from deploy.weights import require_world
from rewardmesh.wire.buffer import redact
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.strict_json import dump_json

if TYPE_CHECKING:
    from deploy.evaluation import Which

__all__ = ["evaluate_run", "show_status", "start_stack", "stop_here", "train_run", "world_commands"]


_SHIPPED: Final[dict[str, Which]] = {"teacher": "teacher", "student": "student", "tdm_r1": "tdm_r1"}


def start_stack(settings: Settings, *, foreground: bool) -> None:
    """`rewardmesh up`."""
    console = Console()
    with stopping_on_signals() as install:
        stack = Stack(settings, progress=ConsoleProgress(console), keep=not foreground, on_connected=install)
        with stack:
            _say_where(stack)
            while foreground:
                time.sleep(3600)


def _say_where(stack: Stack) -> None:
    seconds = sum(stack.timings.seconds.values())
    typer.echo(f"the stack runs ({seconds:.0f} s)" if seconds else "the stack runs")
    typer.echo(f"  buffer     {redact(stack.redis_url)}")
    typer.echo(f"  Ray        {stack.ray_address}")
    if stack.dashboard_url:
        typer.echo(f"  dashboard  {stack.dashboard_url} (it asks for a token: `ray get-auth-token` prints it)")
    typer.echo(f"  oracles    {stack.serve_url}/oracles/…")
    typer.echo(f"  gateway    {stack.serve_url}/gateway (it asks for a token: `rewardmesh token create` makes one)")
    if stack.settings.preference:
        typer.echo(f"  people     {stack.serve_url}/preference (`rewardmesh preference invite` makes a link)")
    typer.echo("train with `rewardmesh train RECIPE`; stop it all with `rewardmesh down`")


def stop_here(settings: Settings) -> None:
    """`rewardmesh down`."""
    with exclusive(settings.state_dir), undisturbed():
        state = read_state(settings.state_dir)
        if state is None:
            typer.echo(f"nothing runs here ({settings.run_root})")
            return
        if state.owner is not None and state.owner.alive:
            raise RewardmeshError(
                f"the stack belongs to process {state.owner.pid}, which runs", str(settings.state_dir), "stop that one"
            )
        began = time.monotonic()
        if state.ray is None and state.deployed:
            Stack(settings).take_off(state)
        stop_stack(state, settings.state_dir)
        typer.echo(f"stopped ({time.monotonic() - began:.1f} s); the buffer's data stay in {settings.data_dir}")


def show_status(settings: Settings, *, once: bool, as_json: bool) -> None:
    """`rewardmesh status`. Said once, it takes a second look where a run is alive: rates need two."""
    from deploy.status import json_of, lines_of, look, rates
    from deploy.status_view import watch

    console = Console()
    if console.is_terminal and not (once or as_json):
        watch(settings, console)
        return
    first = last = look(settings)
    if first.status is not None and first.status.runs:
        time.sleep(1.0)
        last = look(settings)
    if as_json:
        typer.echo(json_of(last, rates(first, last)))
    else:
        for line in lines_of(last, rates(first, last)):
            typer.echo(line)


def train_run(
    settings: Settings, recipe: str, *, overrides: list[str], name: str | None, resume: bool | None, num_workers: int
) -> None:
    """`rewardmesh train`."""
    from deploy.training import Training, train_and_show
    from trainer.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    if resolved.model.folder == "shapes":
        require_world()
    run_name = name or resolved.name
    if resume is None and runs_named(settings.run_root, run_name):
        resume = True  # the same command run again goes on
    folder, goes_on = choose_run_folder(settings.run_root, run_name, resume=resume)
    console = Console()
    typer.echo(f"run folder {folder}" + (" (goes on from its last checkpoint)" if goes_on else ""))
    with stopping_on_signals() as install:
        try:
            with Stack(settings, progress=ConsoleProgress(console), on_connected=install) as stack:
                training = Training(
                    resolved,
                    folder,
                    redis_url=stack.redis_url,
                    num_workers=num_workers,
                    cpus_per_worker=settings.cpus_per_trainer(num_workers),
                )
                result = train_and_show(training, console=console, title=f"training {resolved.name}")
        except StopRequested:
            typer.echo(f"stopped; the same command goes on from the last checkpoint in {folder}")
            raise
    typer.echo(f"{result.reason} after {result.iterations} iterations, {result.elapsed_s:.0f} s of training")
    typer.echo(f"measure it with `rewardmesh evaluate {folder.name}`")


def evaluate_run(settings: Settings, run: str, *, overrides: list[str]) -> None:
    """`rewardmesh evaluate`: a run's student beside the shipped one, or a shipped network alone."""
    from trainer.evaluation_files import evaluation_json, markdown_table, write_heldout
    from trainer.pictures import write_comparison
    from trainer.recipe import load_recipe
    from trainer.report import write_report

    which = _SHIPPED.get(run)
    folder = settings.run_root / f"evaluation-{run}" if which else find_run(settings.run_root, run)
    recipe = load_recipe("demo" if which else folder / "recipe.yaml", overrides)
    if recipe.model.folder == "shapes":
        require_world()
    console = Console()
    with (
        stopping_on_signals() as install,
        Stack(settings, progress=ConsoleProgress(console), on_connected=install) as stack,
    ):
        from deploy.evaluation import Evaluator

        evaluator = Evaluator(recipe, redis_url=stack.redis_url)
        if which:
            with counting(console, f"evaluating the shipped {which}") as tell:
                evaluations = [evaluator.shipped(which, tell=tell)]
            difference = None
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "evaluation.json").write_text(dump_json(evaluation_json(evaluations[0])) + "\n")
            (folder / "evaluation.md").write_text(markdown_table(evaluations))
        else:
            with counting(console, "evaluating the shipped student") as tell:
                before = evaluator.shipped("student", name="before", tell=tell)
            with counting(console, f"evaluating {folder.name}") as tell:
                after = evaluator.trained(folder, export=folder / "student", tell=tell)
            evaluations = [before, after]
            difference = write_heldout(folder, before=before, after=after, confidence=recipe.evaluation.confidence)
            write_comparison(folder / "pictures" / "before-after.png", evaluations)
            write_report(folder)
    typer.echo(markdown_table(evaluations, difference=difference))
    typer.echo(f"written to {folder}")


def world_commands() -> Any:
    """The commands of the shapes world, made step by step."""
    from deploy.world import app

    return app
