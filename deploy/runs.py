"""Run folders by name: going on with the last one, or beginning anew without touching what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from rewardmesh.wire.errors import RecipeError

__all__ = ["choose_run_folder", "find_run", "is_finished", "runs_named"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def runs_named(root: Path, name: str) -> list[Path]:
    """`name`, `name-2`, `name-3`, … as far as they exist, oldest first."""
    numbered = re.compile(re.escape(name) + r"(?:-(\d+))?")
    found = [
        (match, path) for path in root.glob(f"{name}*") if path.is_dir() and (match := numbered.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, key=lambda pair: int(pair[0][1] or 1))]


def is_finished(folder: Path) -> bool:
    """True if the run came to its own end."""
    try:
        return bool(json.loads((folder / "outcome.json").read_text())["reason"] != "stopped")
    except (FileNotFoundError, ValueError, KeyError):
        return False


def choose_run_folder(
    root: Path, name: str, *, resume: bool | None, ask: Callable[[Path], bool] | None = None
) -> tuple[Path, bool]:
    """The folder to train in, and whether that goes on with what it holds.

    `resume` None asks, if somebody can be asked, and else goes on with a run that is not finished.
    Raises: RecipeError for a name that is none, or if there is nothing to resume.
    """
    if not _NAME.fullmatch(name):
        raise RecipeError("not a name of a run", name, "use letters, digits, dots, dashes and underscores")
    existing = runs_named(root, name)
    if not existing:
        if resume:
            raise RecipeError("there is no such run to resume", str(root / name), "leave out --resume")
        return root / name, False
    last = existing[-1]
    if resume is None:
        resume = not is_finished(last) if ask is None else ask(last)
    if resume:
        return last, True
    newest = re.fullmatch(re.escape(name) + r"-(\d+)", last.name)
    return root / f"{name}-{int(newest[1]) + 1 if newest else 2}", False


def find_run(root: Path, run: str) -> Path:
    """A run folder by its path or by its name. Raises RecipeError if there is none."""
    for candidate in (Path(run), root / run):
        if (candidate / "recipe.yaml").is_file():
            return candidate.resolve()
    known = sorted(path.parent.name for path in root.glob("*/recipe.yaml"))
    raise RecipeError("there is no such run", run, f"runs of {root} are {', '.join(known) or 'none yet'}")
