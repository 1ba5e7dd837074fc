"""The command line: `rewardmesh demo | up | down | train | evaluate | compare | doctor | status | oracle … | world …`.

Commands import what they need when they are called, so that `--help` is quick. What a user can do something about is
one line on standard error and exit status 1; a traceback is shown with `--debug` only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deploy import gateway_commands, preference_commands
from rewardmesh import __version__
from rewardmesh.wire.errors import RewardmeshError

__all__ = ["app", "main"]

_CLICK_FAULT: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class _Commands(TyperGroup):
    """The commands, with errors said in a line. Usage errors, and `typer.Exit`, stay typer's business."""

    def invoke(self, ctx: Any) -> Any:
        debug = bool(os.environ.get("REWARDMESH_DEBUG"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise typer.Exit(getattr(stopped, "exit_status", 130)) from None
        except RewardmeshError as error:
            if debug:
                raise
            for line in str(error).splitlines():
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, _CLICK_FAULT):
            raise
        except Exception as error:
            if debug:
                raise
            typer.echo(f"error: unexpected {type(error).__name__}: {' '.join(str(error).split())}", err=True)
            typer.echo("this is a fault of rewardmesh: the same command with --debug shows the traceback", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="rewardmesh",
    cls=_Commands,
    help="Post-trains few-step diffusion generators from rewards that cannot be differentiated, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one value of the recipe.")]
Resume = Annotated[
    bool | None, typer.Option("--resume/--new", help="Go on with the run of that name, or begin it anew.")
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run, and of its folder.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001 - `main` reads it
) -> None:
    if version:
        typer.echo(f"rewardmesh {__version__}")
        raise typer.Exit


@app.command()
def demo(name: Name = None, resume: Resume = None, overrides: Overrides = None) -> None:
    """Train the shipped student for some minutes, with everything that takes, and show what it brought."""
    from deploy.demo import run_demo
    from deploy.settings import load_settings

    run_demo(load_settings(), name=name or "demo", resume=resume, overrides=overrides or [])


@app.command()
def up(
    foreground: Annotated[bool, typer.Option(help="Stay, and stop the stack when this command is stopped.")] = False,
) -> None:
    """Start the stack, or join what REDIS_URL and RAY_ADDRESS name, and leave it running."""
    from deploy.commands import start_stack
    from deploy.settings import load_settings

    start_stack(load_settings(), foreground=foreground)


@app.command()
def down() -> None:
    """Stop the stack that was started here. Runs can be resumed; the buffer's data stays on disk."""
    from deploy.commands import stop_here
    from deploy.settings import load_settings

    stop_here(load_settings())


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    name: Name = None,
    resume: Resume = None,
    workers: Annotated[int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")] = 1,
) -> None:
    """Train by a recipe. The same command run again goes on from the last checkpoint."""
    from deploy.commands import train_run
    from deploy.settings import load_settings

    train_run(load_settings(), recipe, overrides=overrides or [], name=name, resume=resume, num_workers=workers)


@app.command()
def amend(
    run: Annotated[str, typer.Argument(help="A run that is training: its name, or its folder.")],
    oracle: Annotated[str, typer.Argument(help="A registered oracle.")],
    overrides: Overrides = None,
    wait_s: Annotated[float, typer.Option(min=0, help="How long to wait for the trainer's ruling.")] = 30.0,
) -> None:
    """Have a run that is training learn from one more oracle; `--set weight=0.5` says how."""
    gateway_commands.amend_run(run, oracle, overrides=overrides or [], wait_s=wait_s)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, its name, or `student`, `tdm_r1` or `teacher`.")],
    overrides: Overrides = None,
) -> None:
    """Measure held-out accuracy of a run's newest checkpoint, or of a shipped network."""
    from deploy.commands import evaluate_run
    from deploy.settings import load_settings

    evaluate_run(load_settings(), run, overrides=overrides or [])


@app.command()
def compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its name.")],
    other: Annotated[str, typer.Argument(metavar="RUN", help="Another, to hold against it.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to put the page with the curves.")] = None,
) -> None:
    """Hold two runs side by side: recipes, held-out accuracy, curves, oracles' outcomes and time."""
    from deploy.comparison import compare_runs
    from deploy.settings import load_settings

    compare_runs(load_settings(), one, other, to=to)


@app.command()
def doctor() -> None:
    """Say what this machine has, how durable its buffer is, and what to do about each problem."""
    from deploy.doctor import diagnose
    from deploy.settings import load_settings

    problems = 0
    for finding in diagnose(load_settings()):
        typer.echo(str(finding))
        problems += finding.level == "problem"
    typer.echo("no problem was found" if not problems else f"{problems} problem(s)")
    raise typer.Exit(1 if problems else 0)


@app.command()
def status(
    check: Annotated[bool, typer.Option("--check", help="Say nothing; status 1 if the stack is not well.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Say it once; so it is where there is no terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say it once, as JSON.")] = False,
) -> None:
    """Show what runs here and what waits in the buffer, every second until Ctrl-C."""
    from deploy.settings import load_settings

    settings = load_settings()
    if check:
        from deploy.status import is_well

        raise typer.Exit(0 if is_well(settings) else 1)
    from deploy.commands import show_status

    show_status(settings, once=once, as_json=as_json)


_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_FORWARD, add_help_option=False)
def world(context: typer.Context) -> None:
    """Make the shapes world's networks: pre-training, distillation, scores."""
    from deploy.commands import world_commands

    world_commands()(args=context.args, prog_name="rewardmesh world", standalone_mode=False)


app.add_typer(gateway_commands.token, name="token")
app.add_typer(gateway_commands.oracle, name="oracle")
app.add_typer(gateway_commands.dead_letter, name="dead-letter")
app.add_typer(preference_commands.preference, name="preference")


def main() -> None:
    """Entry point of the console command."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    os.environ.update({"REWARDMESH_DEBUG": "1"} if len(arguments) < len(sys.argv) - 1 else {})
    app(arguments, prog_name="rewardmesh")


if __name__ == "__main__":
    main()
